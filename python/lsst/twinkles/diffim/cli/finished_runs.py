"""Images of runs that are finished: of output repositories, and of directories of subtractExposures.py."""

from __future__ import annotations

__all__ = (
    "FinishedDifference",
    "UnreadableRunError",
    "add_run_options",
    "find_science",
    "is_result_directory",
    "read_directory",
    "read_finished",
    "read_ids",
)

import argparse
import json
import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .gen2_ids import DataIdSyntaxError, parse_id_words

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.images import DifferenceImage, VisitImage

_LOG = logging.getLogger(__name__)
_SUMMARY = "summary.json"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose difference images of an output repository."""
    parser.add_argument(
        "--id",
        nargs="*",
        action="append",
        default=[],
        metavar="KEY=V1[^V2...]",
        help="data ids, as for imageDifference.py; all that there are if not given",
    )
    parser.add_argument("--coadd-name", default="deep", metavar="NAME", help="coaddName of the run (deep)")


def read_ids(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[dict[str, str]]:
    """Return the data ids of ``--id``; ends the process over those that are none, as parsers do."""
    try:
        return [data_id for words in args.id or [[]] for data_id in parse_id_words(words)]
    except DataIdSyntaxError as error:
        parser.error(f"argument --id: {error}")


class UnreadableRunError(Exception):
    """What was written by a run is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class FinishedDifference:
    """What was subtracted from what.

    Attributes
    ----------
    difference : `lsst.images.DifferenceImage`
        The difference.
    science, matched : `lsst.images.VisitImage`
        Science exposure and matched template.
    error_scale : `float`
        Factor on the errors of fluxes on the difference that its detection found.
    """

    difference: DifferenceImage
    science: VisitImage
    matched: VisitImage
    error_scale: float


def is_result_directory(path: Path) -> bool:
    """Tell whether a directory holds results of subtractExposures.py."""
    return (path / _SUMMARY).is_file()


def read_directory(path: Path) -> FinishedDifference:
    """Read the results of subtractExposures.py, and the science exposure that they were made of.

    Raises
    ------
    UnreadableRunError
        If one of the files is not there, or not what was written.
    """
    from lsst.images import DifferenceImage, VisitImage

    from ..adapters.fits_files import UnreadableExposureError
    from ..adapters.psfs import InvalidPsfError
    from ..adapters.read_exposure import read_exposure

    try:
        summary = json.loads((path / _SUMMARY).read_text())
        science, options = Path(summary["inputs"]["science"]["file"]), summary["inputs"]["science"]["reading"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRunError(
            f"{path / _SUMMARY} does not say which file the science exposure is ({error!r}); "
            "make the directory anew with subtractExposures.py --clobber."
        ) from error
    try:
        difference = DifferenceImage.read(str(path / "difference.fits"))
        matched = VisitImage.read(str(path / "matchedTemplate.fits"))
    except Exception as error:  # of many kinds: no file, no FITS, the layout of afw
        raise UnreadableRunError(
            f"difference.fits and matchedTemplate.fits of {path} cannot be read ({error}); they have to be "
            "there, in the layout of lsst.images (not --layout afw)."
        ) from error
    try:
        exposure = read_exposure(science, sky_projection=difference.sky_projection, **options)
    except (UnreadableExposureError, InvalidPsfError, OSError) as error:
        raise UnreadableRunError(f"the science exposure of {path} cannot be read: {error}") from error
    return FinishedDifference(difference, exposure, matched, _error_scale(summary.get("tasks", {})))


def read_finished(butler: Butler, ref: DatasetRef, run: str, repo: Path) -> FinishedDifference:
    """Read a difference image of an output repository, and what it was made of.

    Raises
    ------
    UnreadableRunError
        If the matched template was not written, or the science exposure is gone.
    """
    matched = _get(butler, ref, run, "matchedExp")
    if matched is None:
        raise UnreadableRunError(f"there is no {run}_matchedExp; run with doWriteMatchedExp=True")
    science = find_science(repo, ref)
    if science is None:
        raise UnreadableRunError("the science exposure is not there any more")
    metadata = _get(butler, ref, run, "metadata")
    figures = {} if metadata is None else metadata.to_dict()
    return FinishedDifference(butler.get(ref), science, matched, _error_scale(figures))


def _get(butler: Butler, ref: DatasetRef, run: str, name: str) -> Any:
    """Return another result of the same run; `None` if there is none."""
    if not list(butler.registry.queryDatasetTypes(f"{run}_{name}")):
        return None
    found = butler.find_dataset(f"{run}_{name}", ref.dataId, collections=run)
    return None if found is None else butler.get(found)


def _error_scale(figures: Mapping[str, Any]) -> float:
    """Return what the detection noted in the metadata of the tasks; 1 if there was none."""
    for task, values in figures.items():
        if task.split(":")[-1] == "detection" and isinstance(values, Mapping):
            return float(values.get("errorScale", 1.0))
    return 1.0


def find_science(repo: Path, ref: DatasetRef) -> Any:
    """Return the science exposure from the repository that the output was made from; `None` if it is gone."""
    from ..pipeline.data_ids import find_exposures
    from ..pipeline.output_repository import read_parent
    from ..pipeline.repository import RepositoryError
    from .places import open_input

    parent = read_parent(repo)
    if parent is None:
        return None
    ids = {key: str(ref.dataId[key]) for key in ("instrument", "visit", "detector")}
    try:
        with closing(open_input(parent)) as butler:
            return next((butler.get(found) for found in find_exposures(butler, [ids]).refs), None)
    except (RepositoryError, OSError, json.JSONDecodeError) as error:
        _LOG.warning("The science exposure cannot be read from %s (%s): it goes without it.", parent, error)
        return None
