"""Which exposures a command subtracts from which."""

from __future__ import annotations

__all__ = ("ExposurePair", "PairSelection", "select_pairs")

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lsst.daf.butler import Butler, DatasetRef

from ..pipeline.data_ids import find_exposures, resolve_data_ids
from ..pipeline.repository import EXPOSURE_DATASET_TYPE
from .logs import COMMAND_LOGGER

_LOG = logging.getLogger(COMMAND_LOGGER)


@dataclass(frozen=True)
class ExposurePair:
    """A science exposure and its template."""

    science: DatasetRef
    """The science exposure (`lsst.daf.butler.DatasetRef`)."""

    template: DatasetRef
    """The template (`lsst.daf.butler.DatasetRef`)."""

    @property
    def data_id(self) -> dict[str, Any]:
        """Data id of the results (`dict`)."""
        return dict(self.science.dataId.required)

    @property
    def label(self) -> str:
        """Data id as text, for messages (`str`)."""
        return describe_data_id(self.science)


@dataclass(frozen=True)
class PairSelection:
    """What the data ids of a command line came to."""

    pairs: tuple[ExposurePair, ...]
    """Pairs to process, none twice (`tuple` [`ExposurePair`])."""

    refused: dict[str, str]
    """Data ids that have no usable template, and why (`dict` [`str`, `str`])."""

    science: tuple[DatasetRef, ...]
    """All science exposures, in order (`tuple` [`lsst.daf.butler.DatasetRef`])."""

    templates: tuple[DatasetRef, ...]
    """Exposures that serve as template, one a detector (`tuple` [`lsst.daf.butler.DatasetRef`])."""

    named: bool
    """Whether a data id with keys was given, rather than none or a bare ``--id`` (`bool`)."""


def describe_data_id(ref: DatasetRef) -> str:
    """Return a data id as Gen2 wrote it, with the band (`str`)."""
    ids: dict[str, Any] = dict(ref.dataId.required)
    if "band" in ref.dataId.dimensions and ref.dataId.hasFull():
        ids["band"] = ref.dataId["band"]
    return str(ids)


def select_pairs(
    butler: Butler,
    ids: Sequence[Mapping[str, str]],
    template_ids: Sequence[Mapping[str, str]],
    *,
    place: str,
    exposure: str = EXPOSURE_DATASET_TYPE,
) -> PairSelection:
    """Find the exposures that data ids name, and put them together.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    ids, template_ids : sequence of mapping
        Data ids as the command line has them. The first template id serves;
        the others are looked for, and ignored. A template is of the same
        instrument and detector as the science exposure.
    place : `str`
        Name of the repository, for messages.
    exposure : `str`, optional
        Dataset type of the exposures.

    Returns
    -------
    selection : `PairSelection`
        Pairs, and data ids without a template. Data ids for which there is no
        exposure are logged.

    Raises
    ------
    lsst.twinkles.diffim.pipeline.data_ids.DataIdError
        If a key is not known or a value cannot be cast.
    """
    science = _find(butler, ids, "dataId", place, exposure)
    candidates = _find(butler, template_ids[:1], "templateId", place, exposure)
    if len(template_ids) > 1:
        _find(butler, template_ids[1:], "templateId", place, exposure)
        _LOG.warning(
            "%d template data ids were given; only the first, %s, is used.",
            len(template_ids),
            dict(template_ids[0]),
        )
    templates = _one_per_detector(candidates)
    named_visits = {data_id["visit"] for data_id in resolve_data_ids(ids) if "visit" in data_id}
    pairs: list[ExposurePair] = []
    refused: dict[str, str] = {}
    for ref in dict.fromkeys(science):
        template = templates.get(_detector(ref))
        if template is None:
            if template_ids:
                refused[describe_data_id(ref)] = _no_template(ref, template_ids[0])
        elif template.id != ref.id:
            pairs.append(ExposurePair(ref, template))
        elif ref.dataId["visit"] in named_visits or len(science) == 1:
            refused[describe_data_id(ref)] = (
                "It is its own template; take it out of --id or give another --templateId."
            )
        else:
            _LOG.warning("The template %s is not subtracted from itself.", describe_data_id(ref))
    return PairSelection(tuple(pairs), refused, science, tuple(templates.values()), any(ids))


def _find(
    butler: Butler, ids: Sequence[Mapping[str, str]], word: str, place: str, exposure: str
) -> tuple[DatasetRef, ...]:
    selection = find_exposures(butler, ids, exposure)
    for data_id in selection.missing:
        _LOG.warning("No data found for %s=%s in %s; skipped.", word, data_id, place)
    return selection.refs


def _one_per_detector(refs: Iterable[DatasetRef]) -> dict[tuple[Any, Any], DatasetRef]:
    """Return the first exposure of every detector; say so if there are others."""
    templates: dict[tuple[Any, Any], DatasetRef] = {}
    ignored = 0
    for ref in refs:
        ignored += templates.setdefault(_detector(ref), ref) is not ref
    if ignored:
        _LOG.warning(
            "The template data id selects several exposures of a detector; the first is used: %s.",
            ", ".join(describe_data_id(ref) for ref in templates.values()),
        )
    return templates


def _detector(ref: DatasetRef) -> tuple[Any, Any]:
    return ref.dataId["instrument"], ref.dataId["detector"]


def _no_template(ref: DatasetRef, template_id: Mapping[str, str]) -> str:
    return (
        f"There is no template: --templateId {' '.join(f'{k}={v}' for k, v in template_id.items())} selects "
        f"no exposure of {ref.dataId['instrument']} detector {ref.dataId['detector']}; "
        'a bare --templateId with "--show data" lists what there is.'
    )
