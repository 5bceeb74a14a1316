"""Data ids as people write them, found among the exposures of a repository.

Keys of the Gen2 camera (``raft``, ``sensor``, ``ccd``, ``filter``) and the
dimensions of Gen3 are understood side by side. Splitting of ``a^b`` and ranges
is the business of the command line; here each data id has one value a key.
"""

from __future__ import annotations

__all__ = ("DataIdError", "ExposureSelection", "find_exposures", "resolve_data_ids", "valid_keys")

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lsst.daf.butler import Butler, DatasetRef, MissingCollectionError, MissingDatasetTypeError

from .repository import EXPOSURE_DATASET_TYPE, default_collections


class DataIdError(ValueError):
    """A data id has a key that is not known, or a value of the wrong type."""


@dataclass(frozen=True)
class ExposureSelection:
    """Exposures that data ids select.

    Attributes
    ----------
    refs : `tuple` [ `lsst.daf.butler.DatasetRef` ]
        Those there are, with dimension records, in the order of the data ids
        (within one, by visit and detector); an exposure selected twice is
        there twice, as in Gen2.
    missing : `tuple` [ `dict` ]
        Data ids, as resolved, that select nothing.
    """

    refs: tuple[DatasetRef, ...]
    missing: tuple[dict[str, Any], ...]


def _to_text(value: object) -> str:
    text = str(value).strip()
    if not text:
        raise ValueError("empty")
    return text


def _to_raft(value: object) -> str:
    """Return ``R22`` for ``2,2``, ``22`` and ``R22``."""
    return _to_slot(value, "R")


def _to_sensor(value: object) -> str:
    """Return ``S11`` for ``1,1``, ``11`` and ``S11``."""
    return _to_slot(value, "S")


def _to_slot(value: object, letter: str) -> str:
    text = _to_text(value)
    if match := re.fullmatch(rf"{letter}?:?(\d),?(\d)", text, re.IGNORECASE):
        return f"{letter}{match[1]}{match[2]}"
    return text


def _to_ccd(value: object) -> int | str:
    """Return a detector number, its full name, or its name in the raft."""
    text = _to_text(value)
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if match := re.fullmatch(r"R:?(\d),?(\d)[ _]?S:?(\d),?(\d)", text, re.IGNORECASE):
        return f"R{match[1]}{match[2]}_S{match[3]}{match[4]}"
    return _to_sensor(text)


@dataclass(frozen=True)
class _Key:
    """One key: how its value is read and which exposures it selects."""

    type_: type
    cast: Callable[[Any], Any]
    select: Callable[[DatasetRef], Iterable[Any]]
    """Values of an exposure of which one must equal the value given."""


def _record(ref: DatasetRef, element: str) -> Any:
    return ref.dataId.records[element]


def _detector_names(ref: DatasetRef) -> tuple[int | str, ...]:
    record = _record(ref, "detector")
    return (record.id, record.full_name, record.name_in_raft)


def _filter_names(ref: DatasetRef) -> tuple[str, str]:
    return (_record(ref, "physical_filter").name, _record(ref, "physical_filter").band)


_KEYS: dict[str, _Key] = {
    "band": _Key(str, _to_text, lambda ref: (ref.dataId["band"],)),
    "ccd": _Key(str, _to_ccd, _detector_names),
    "day_obs": _Key(int, int, lambda ref: (ref.dataId["day_obs"],)),
    "detector": _Key(str, _to_ccd, _detector_names),
    "filter": _Key(str, _to_text, _filter_names),
    "instrument": _Key(str, _to_text, lambda ref: (ref.dataId["instrument"],)),
    "physical_filter": _Key(str, _to_text, lambda ref: (ref.dataId["physical_filter"],)),
    "raft": _Key(str, _to_raft, lambda ref: (_record(ref, "detector").raft,)),
    "sensor": _Key(str, _to_sensor, lambda ref: (_record(ref, "detector").name_in_raft,)),
    "visit": _Key(int, int, lambda ref: (ref.dataId["visit"],)),
}


def valid_keys(butler: Butler | None = None) -> list[str]:
    """Return the keys that data ids of exposures may have, sorted.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`, optional
        Not needed: the keys do not depend on the repository.
    """
    return sorted(_KEYS)


def resolve_data_ids(data_ids: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Check keys and cast values of data ids.

    Parameters
    ----------
    data_ids : sequence of mapping
        Each with one value a key, usually text. An empty one selects
        everything.

    Returns
    -------
    resolved : `list` [ `dict` ]
        The same with values as the registry has them: whole numbers for
        ``visit`` and ``day_obs``, ``R22`` for a raft ``2,2``, ``S11`` for a
        sensor ``1,1``, a number or ``R22_S11`` for a ``ccd``.

    Raises
    ------
    DataIdError
        If a key is not known or a value cannot be cast.
    """
    return [{key: _cast(key, value) for key, value in data_id.items()} for data_id in data_ids]


def find_exposures(
    butler: Butler,
    data_ids: Sequence[Mapping[str, Any]],
    dataset_type: str = EXPOSURE_DATASET_TYPE,
    collections: Sequence[str] | str | None = None,
) -> ExposureSelection:
    """Find the exposures that data ids select.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    data_ids : sequence of mapping
        As for `resolve_data_ids`.
    dataset_type : `str`, optional
        Dataset type of the exposures.
    collections : `str` or sequence of `str`, optional
        Where to look, first match wins; `default_collections` if not given.

    Returns
    -------
    selection : `ExposureSelection`
        Exposures that are there, and data ids that select none.

    Raises
    ------
    DataIdError
        If a data id cannot be resolved.
    """
    resolved = resolve_data_ids(data_ids)
    by_visit = defaultdict(list)
    everything = _query_all(butler, resolved, dataset_type, collections)
    for ref in everything:
        by_visit[ref.dataId["visit"]].append(ref)
    refs: list[DatasetRef] = []
    missing: list[dict[str, Any]] = []
    for data_id in resolved:
        candidates = by_visit.get(data_id["visit"], []) if "visit" in data_id else everything
        found = [r for r in candidates if all(v in _KEYS[k].select(r) for k, v in data_id.items())]
        refs += found
        if not found:
            missing.append(data_id)
    return ExposureSelection(refs=tuple(refs), missing=tuple(missing))


def _cast(key: str, value: Any) -> Any:
    if key not in _KEYS:
        raise DataIdError(f"Unrecognized ID key {key!r}; valid keys are: {valid_keys()}")
    try:
        return _KEYS[key].cast(value)
    except (TypeError, ValueError):
        raise DataIdError(
            f"Cannot cast value {value!r} to {_KEYS[key].type_.__name__} for ID key {key!r}"
        ) from None


def _query_all(
    butler: Butler,
    data_ids: Sequence[Mapping[str, Any]],
    dataset_type: str,
    collections: Sequence[str] | str | None,
) -> list[DatasetRef]:
    """Return all exposures that might be selected, by visit and detector."""
    if not data_ids:
        return []
    places = default_collections(butler, dataset_type) if collections is None else collections
    if not places:
        return []
    where, bind = "instrument = name", dict[str, Any]()
    if all("visit" in data_id for data_id in data_ids):
        # Long lists of values are slow to parse; a range is enough to keep the query small.
        visits = sorted({data_id["visit"] for data_id in data_ids})
        where += " AND visit >= first AND visit <= last"
        bind = {"first": visits[0], "last": visits[-1]}
    refs: list[DatasetRef] = []
    with suppress(MissingDatasetTypeError, MissingCollectionError):
        for instrument in butler.query_dimension_records("instrument", explain=False):
            refs += butler.query_datasets(
                dataset_type,
                collections=places,
                where=where,
                bind={"name": instrument.name, **bind},
                find_first=True,
                with_dimension_records=True,
                limit=None,
                explain=False,
            )
    return sorted(refs, key=lambda r: (r.dataId["instrument"], r.dataId["visit"], r.dataId["detector"]))
