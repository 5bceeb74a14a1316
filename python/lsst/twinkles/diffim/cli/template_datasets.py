"""Templates that have the data ids of the science exposures."""

from __future__ import annotations

__all__ = ("pair_with_templates",)

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lsst.daf.butler import Butler, DatasetRef

from ..pipeline.data_ids import DataIdError, find_exposures
from .logs import COMMAND_LOGGER
from .pairs import ExposurePair, PairSelection, describe_data_id
from .places import CommandError

if TYPE_CHECKING:
    from ..tasks.dataset_names import DatasetNamesConfig

_LOG = logging.getLogger(COMMAND_LOGGER)


def pair_with_templates(
    butler: Butler, ids: Sequence[Mapping[str, str]], names: DatasetNamesConfig, *, place: str
) -> PairSelection:
    """Find exposures, each with the template that was made for it.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    ids : sequence of mapping
        Data ids as the command line has them.
    names : `~lsst.twinkles.diffim.tasks.dataset_names.DatasetNamesConfig`
        Names of science exposures and templates.
    place : `str`
        Name of the repository, for messages.

    Returns
    -------
    selection : `~lsst.twinkles.diffim.cli.pairs.PairSelection`
        Pairs, and data ids without a template. Data ids for which there is no exposure are logged.

    Raises
    ------
    CommandError
        If a key is not known or a value cannot be cast.
    """
    try:
        science = find_exposures(butler, ids, names.exposure)
        templates = find_exposures(butler, ids, names.template)
    except DataIdError as error:
        raise CommandError(str(error)) from error
    for data_id in science.missing:
        _LOG.warning("No %s found for dataId=%s in %s; skipped.", names.exposure, data_id, place)
    found = {_place(ref): ref for ref in templates.refs}
    pairs, refused = [], {}
    for ref in dict.fromkeys(science.refs):
        template = found.get(_place(ref))
        if template is None:
            refused[describe_data_id(ref)] = (
                f"There is no {names.template} of it; make one, or set datasets.template to '' and give "
                "--templateId."
            )
        else:
            pairs.append(ExposurePair(ref, template))
    used = tuple(pair.template for pair in pairs)
    return PairSelection(tuple(pairs), refused, science.refs, templates=used, scores={}, named=any(ids))


def _place(ref: DatasetRef) -> tuple[object, ...]:
    return tuple(ref.dataId[name] for name in ("instrument", "visit", "detector"))
