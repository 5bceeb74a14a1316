"""Which exposures a command subtracts from which."""

from __future__ import annotations

__all__ = ("ExposurePair", "PairSelection", "select_pairs")

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lsst.daf.butler import Butler, DatasetRef

from ..pipeline.data_ids import find_exposures, resolve_data_ids
from ..pipeline.repository import EXPOSURE_DATASET_TYPE
from .logs import COMMAND_LOGGER

if TYPE_CHECKING:
    from astropy.table import Table

    from .template_choice import TemplateChooser

_LOG = logging.getLogger(COMMAND_LOGGER)


@dataclass(frozen=True)
class ExposurePair:
    """A science exposure and its template."""

    science: DatasetRef
    """The science exposure (`lsst.daf.butler.DatasetRef`)."""

    template: DatasetRef
    """The template (`lsst.daf.butler.DatasetRef`)."""

    scores: Table | None = field(default=None, compare=False, repr=False)
    """What the template was chosen from (`astropy.table.Table`); `None` if it was named."""

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
    """Exposures that serve as template of something (`tuple` [`lsst.daf.butler.DatasetRef`])."""

    scores: dict[str, Table]
    """Scores of the candidates by the label of the science exposure, where there was a choice (`dict`)."""

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
    chooser: TemplateChooser,
    exposure: str = EXPOSURE_DATASET_TYPE,
) -> PairSelection:
    """Find the exposures that data ids name, and put them together.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    ids, template_ids : sequence of mapping
        Data ids as the command line has them. A template is of the same
        instrument and detector as the science exposure. If the template ids
        select one exposure of a detector, it is the template; if they select
        several, these are the candidates; without template ids all exposures
        are.
    place : `str`
        Name of the repository, for messages.
    chooser : `TemplateChooser`
        Chooses among candidates.
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
    found = _find(butler, template_ids, "templateId", place, exposure)
    if not template_ids and chooser.finds_candidates:
        found = find_exposures(butler, [{}], exposure).refs
    candidates = _sort_by_detector(found)
    named_visits = {data_id["visit"] for data_id in resolve_data_ids(ids) if "visit" in data_id}
    must_have = named_visits if len(science) > 1 else {ref.dataId["visit"] for ref in science}
    pairs: list[ExposurePair] = []
    refused: dict[str, str] = {}
    scores: dict[str, Table] = {}
    for ref in dict.fromkeys(science):
        label, offered = describe_data_id(ref), candidates[_detector(ref)]
        if template_ids and len(offered) == 1:
            pair = _pair_with(ref, offered[0], must_have, refused)
        elif template_ids and not offered:
            pair, refused[label] = None, _no_template(ref, template_ids)
        elif offered or chooser.finds_candidates:
            pair = _choose(ref, offered, chooser, scores, refused, named=bool(template_ids))
        else:
            pair = None
        if pair is not None:
            pairs.append(pair)
    if template_ids and not pairs:
        templates = tuple(found)
    else:
        templates = tuple(dict.fromkeys(pair.template for pair in pairs))
    return PairSelection(tuple(pairs), refused, science, templates, scores, any(ids))


def _pair_with(
    science: DatasetRef, template: DatasetRef, must_have: set[Any], refused: dict[str, str]
) -> ExposurePair | None:
    """Pair an exposure with the one template there is, if that is another exposure."""
    label = describe_data_id(science)
    if template.id != science.id:
        return ExposurePair(science, template)
    if science.dataId["visit"] in must_have:
        refused[label] = "It is its own template; take it out of --id or give another --templateId."
    else:
        _LOG.warning("The template %s is not subtracted from itself.", label)
    return None


def _choose(
    science: DatasetRef,
    candidates: Sequence[DatasetRef],
    chooser: TemplateChooser,
    scores: dict[str, Table],
    refused: dict[str, str],
    *,
    named: bool,
) -> ExposurePair | None:
    """Pair an exposure with the best of several candidates; note scores, or why there is no template."""
    label = describe_data_id(science)
    template, table, reason = chooser.choose(science, candidates, named=named)
    if table is not None:
        scores[label] = table
    if template is None:
        refused[label] = reason
        return None
    return ExposurePair(science, template, table)


def _find(
    butler: Butler, ids: Sequence[Mapping[str, str]], word: str, place: str, exposure: str
) -> tuple[DatasetRef, ...]:
    selection = find_exposures(butler, ids, exposure)
    for data_id in selection.missing:
        _LOG.warning("No data found for %s=%s in %s; skipped.", word, data_id, place)
    return selection.refs


def _sort_by_detector(refs: Iterable[DatasetRef]) -> dict[tuple[Any, Any], list[DatasetRef]]:
    """Return exposures by instrument and detector, each once and in order."""
    by_detector: dict[tuple[Any, Any], list[DatasetRef]] = defaultdict(list)
    for ref in dict.fromkeys(refs):
        by_detector[_detector(ref)].append(ref)
    return by_detector


def _detector(ref: DatasetRef) -> tuple[Any, Any]:
    return ref.dataId["instrument"], ref.dataId["detector"]


def _no_template(ref: DatasetRef, template_ids: Sequence[Mapping[str, str]]) -> str:
    named = ", ".join(" ".join(f"{k}={v}" for k, v in data_id.items()) for data_id in template_ids[:3])
    return (
        f"There is no template: --templateId {named}{', ...' if len(template_ids) > 3 else ''} selects "
        f"no exposure of {ref.dataId['instrument']} detector {ref.dataId['detector']}; "
        'a bare --templateId with "--show data" lists what there is.'
    )
