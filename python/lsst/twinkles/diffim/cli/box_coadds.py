"""Twinkles in a box: differences from a coadd of the first season, by the pipeline tasks."""

from __future__ import annotations

__all__ = (
    "COADD_COLLECTION",
    "DIFFERENCE_COLLECTION",
    "FIRST_SEASON_DAYS",
    "find_coadd_differences",
    "subtract_coadd",
)

from contextlib import suppress
from pathlib import Path

from lsst.daf.butler import Butler, CollectionType, DatasetRef, MissingDatasetTypeError
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from ..pipeline.image_difference import (
    TwinklesImageDifferencePipelineConfig,
    TwinklesImageDifferencePipelineTask,
)
from ..pipeline.instrument import TwinklesCam
from ..pipeline.make_template import MakeTemplatePipelineConfig, MakeTemplatePipelineTask

COADD_COLLECTION = "templates/season1"
DIFFERENCE_COLLECTION = "box/coadd"
FIRST_SEASON_DAYS = 200.0
"""Days after the first visit in which the coadd is taken."""


def subtract_coadd(repo: Path, *, season: float) -> int:
    """Coadd the visits of the first season and subtract them from the others.

    Parameters
    ----------
    repo : `pathlib.Path`
        Repository of the visits; the results go into collections of their own, unless they are there.
    season : `float`
        Length of the first season in days.

    Returns
    -------
    n : `int`
        Number of visits after it.
    """
    where = f"instrument = '{TwinklesCam.getName()}'"
    with Butler.from_config(str(repo)) as butler:
        records = list(butler.query_dimension_records("visit", where=where, limit=None))
        done = set(butler.collections.query("*"))
    starts = {record.id: float(record.timespan.begin.mjd) for record in records}
    first = min(starts.values())
    early = [visit for visit, mjd in starts.items() if mjd < first + season]
    late = sorted(set(starts) - set(early))
    missing = sorted(set(late) - set(find_coadd_differences(repo)))
    if not missing:
        return len(late)
    defaults = TwinklesCam().makeUmbrellaCollectionName()
    if COADD_COLLECTION not in done:
        make = MakeTemplatePipelineConfig()
        make.selectVisits.active.maxMJD = first + season
        _run(repo, MakeTemplatePipelineTask, make, where, [defaults], COADD_COLLECTION)
    subtract = TwinklesImageDifferencePipelineConfig()
    subtract.templateSource = "coadd"
    subtract.doWriteMatchedExp = False
    query = f"{where} AND visit IN ({', '.join(map(str, missing))})"
    inputs = [COADD_COLLECTION, defaults]
    _run(repo, TwinklesImageDifferencePipelineTask, subtract, query, inputs, DIFFERENCE_COLLECTION)
    return len(late)


def find_coadd_differences(repo: Path) -> dict[int, DatasetRef]:
    """Return the differences from the coadd that are in a repository, by visit."""
    with Butler.from_config(str(repo), writeable=False) as butler:
        runs = butler.collections.query(f"{DIFFERENCE_COLLECTION}/*", collection_types={CollectionType.RUN})
        if not runs:
            return {}
        with suppress(MissingDatasetTypeError):
            refs = butler.query_datasets(
                "deepDiff_differenceExp", collections=runs, find_first=False, explain=False, limit=None
            )
            return {int(ref.dataId["visit"]): ref for ref in refs}
    return {}


def _run(repo: Path, task: type, config: object, where: str, inputs: list[str], output: str) -> None:
    with SimplePipelineExecutor.prep_butler(str(repo), inputs=inputs, output=output) as butler:
        executor = SimplePipelineExecutor.from_task_class(task, config=config, where=where, butler=butler)
        executor.run(register_dataset_types=True)
