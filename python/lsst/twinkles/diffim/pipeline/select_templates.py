"""Choice of a template for every visit of a filter, as a task of a pipeline."""

from __future__ import annotations

__all__ = (
    "SelectTemplatesConnections",
    "SelectTemplatesPipelineConfig",
    "SelectTemplatesPipelineTask",
    "chosen_templates",
    "read_candidates",
    "rows_of",
)

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table, vstack

from lsst.daf.butler import DeferredDatasetHandle
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
    connectionTypes,
)

from ..algorithms.select.figures import VisitFigures
from ..tasks.select_registry import selectTemplateRegistry
from .visit_figures import read_figures

if TYPE_CHECKING:
    from lsst.utils.logging import LsstLogAdapter

_GROUP = ("instrument", "physical_filter", "detector")


class SelectTemplatesConnections(
    PipelineTaskConnections,
    dimensions=_GROUP,
    defaultTemplates={"coaddName": "deep", "inputName": "calexp"},
):
    """Datasets of `SelectTemplatesPipelineTask`."""

    exposures = connectionTypes.Input(
        doc="Exposures, each of which is a candidate for all others.",
        name="{inputName}",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    templateChoices = connectionTypes.Output(
        doc="Templates chosen for all visits, and the scores of their candidates.",
        name="{coaddName}Diff_templateChoices",
        storageClass="ArrowAstropy",
        dimensions=_GROUP,
    )


class SelectTemplatesPipelineConfig(PipelineTaskConfig, pipelineConnections=SelectTemplatesConnections):
    """Configuration of `SelectTemplatesPipelineTask`."""

    selectTemplate: Any = selectTemplateRegistry.makeField(doc="Choice of the template.", default="psf")


class SelectTemplatesPipelineTask(PipelineTask):
    """Choose for each visit the template among the others of its filter and detector.

    Of each exposure PSF, WCS, time and a strip of pixels are read, once.
    """

    ConfigClass = SelectTemplatesPipelineConfig
    _DefaultName = "selectTemplates"
    config: SelectTemplatesPipelineConfig
    selectTemplate: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("selectTemplate")

    def run(self, exposures: Sequence[DeferredDatasetHandle]) -> Struct:
        """Choose.

        Parameters
        ----------
        exposures : sequence of `lsst.daf.butler.DeferredDatasetHandle`
            Exposures of one filter and detector.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``templateChoices`` (`astropy.table.Table`): for each visit, ``scienceVisit``, the scores of all
            (`~lsst.twinkles.diffim.tasks.select_template.SelectTemplateTask.run`); of rank 0 is its template.
        """
        figures = list(read_candidates(exposures, self.log))
        tables = []
        for science in figures:
            scores = self.selectTemplate.run(science, figures).scores
            scores.add_column(np.full(len(scores), science.visit), name="scienceVisit", index=0)
            if not scores["chosen"].any():
                self.log.warning("No visit may be the template of visit %d.", science.visit)
            tables.append(scores)
        if not tables:
            raise NoWorkFound("None of the exposures can be read.")
        return Struct(templateChoices=vstack(tables))


def read_candidates(handles: Sequence[DeferredDatasetHandle], log: LsstLogAdapter) -> list[VisitFigures]:
    """Return the figures of exposures in the order of their visits; those that cannot be read are logged."""
    figures = []
    for handle in sorted(handles, key=lambda h: h.dataId["visit"]):
        try:
            figures.append(read_figures(handle.get, handle.ref))
        except Exception as error:  # each storage has exceptions of its own
            log.warning("Visit %s is no candidate, it cannot be read: %s", handle.dataId["visit"], error)
    return figures


def rows_of(choices: Table, visit: int) -> Table:
    """Return the scores of the candidates for one science visit."""
    rows = choices[choices["scienceVisit"] == visit]
    del rows["scienceVisit"]
    return rows


def chosen_templates(choices: Table) -> dict[int, int | None]:
    """Return the template of each science visit, `None` where none may serve."""
    best = choices["rank"] == 0
    found: dict[int, int | None] = dict.fromkeys(map(int, np.unique(choices["scienceVisit"])))
    found.update(zip(choices["scienceVisit"][best].tolist(), choices["visit"][best].tolist(), strict=True))
    return found
