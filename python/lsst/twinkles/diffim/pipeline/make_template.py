"""A coadd of visits as the template of a filter and detector, as a task of a pipeline."""

from __future__ import annotations

__all__ = ("MakeTemplateConnections", "MakeTemplatePipelineConfig", "MakeTemplatePipelineTask")

from collections.abc import Sequence

from astropy.table import Table, join

from lsst.daf.butler import DeferredDatasetHandle
from lsst.pex.config import ChoiceField, Field, FieldValidationError
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
    connectionTypes,
)

from ..algorithms.select.figures import VisitFigures
from ..tasks.coadd_exposure import TargetGrid
from ..tasks.make_coadd import MakeCoaddConfig, MakeCoaddTask
from .select_templates import read_candidates

_GROUP = ("instrument", "physical_filter", "detector")


class MakeTemplateConnections(
    PipelineTaskConnections,
    dimensions=_GROUP,
    defaultTemplates={"coaddName": "deep", "inputName": "calexp"},
):
    """Datasets of `MakeTemplatePipelineTask`."""

    exposures = connectionTypes.Input(
        doc="Exposures to choose from.",
        name="{inputName}",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    template = connectionTypes.Output(
        doc="Coadd of the chosen exposures.",
        name="{coaddName}Coadd_template",
        storageClass="VisitImage",
        dimensions=_GROUP,
    )
    templateInputs = connectionTypes.Output(
        doc="Scores of the candidates, and weights and rejected pixels of those that went in.",
        name="{coaddName}Coadd_inputs",
        storageClass="ArrowAstropy",
        dimensions=_GROUP,
    )


class MakeTemplatePipelineConfig(
    PipelineTaskConfig, MakeCoaddConfig, pipelineConnections=MakeTemplateConnections
):
    """Configuration of `MakeTemplatePipelineTask`."""

    grid = ChoiceField[str](
        doc="Pixels of the coadd.",
        default="visit",
        allowed={
            "visit": "Those of a visit (referenceVisit): others of the same pointing are not resampled.",
            "tangentPlane": "North up, around all chosen visits.",
        },
    )
    referenceVisit = Field[int](
        doc="Visit whose pixels they are; the best of the chosen ones if not given.", optional=True
    )
    pixelScale = Field[float](
        doc="Arcsec per pixel of the tangent plane; that of the best visit if not given.", optional=True
    )

    def validate(self) -> None:
        """Check the pixel scale."""
        super().validate()
        if self.pixelScale is not None and not self.pixelScale > 0:
            raise FieldValidationError(
                type(self)._fields["pixelScale"], self, f"pixelScale={self.pixelScale:g} must be positive."
            )


class MakeTemplatePipelineTask(PipelineTask, MakeCoaddTask):
    """Choose visits of a filter and detector, and coadd them.

    Notes
    -----
    ``run`` is that of `MakeCoaddTask`; this class moves the data, one exposure at a time. For templates that
    do not hold what they are subtracted from, restrict the visits: by the query (``-d``), or by ``minMJD``
    and ``maxMJD`` of ``selectVisits``.
    """

    ConfigClass = MakeTemplatePipelineConfig
    _DefaultName = "makeTemplate"
    config: MakeTemplatePipelineConfig

    run = MakeCoaddTask.run

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Choose the visits, find the grid, coadd, write."""
        handles = {int(h.dataId["visit"]): h for h in butlerQC.get(inputRefs)["exposures"]}
        figures = read_candidates(list(handles.values()), self.log)
        selected = self.selectVisits.run(None, figures)
        chosen = [figures[i] for i in selected.chosen]
        if not chosen:
            raise NoWorkFound(f"None of {len(figures)} visits may go into the template; see selectVisits.")
        try:
            grid = self._find_grid(handles, chosen)
            visits = [f.visit for f in chosen]
            result = self.run(grid, visits, [handles[visit].get for visit in visits])
        except AlgorithmError as error:
            raise AnnotatedPartialOutputsError.annotate(error, self, log=self.log) from error
        outputs = Struct(template=result.coadd, templateInputs=_merge(selected.scores, result.inputs))
        butlerQC.put(outputs, outputRefs)

    def _find_grid(
        self, handles: dict[int, DeferredDatasetHandle], chosen: Sequence[VisitFigures]
    ) -> TargetGrid:
        """Return the pixels of the coadd."""
        best, config = chosen[0], self.config
        visit = best.visit if config.referenceVisit is None else config.referenceVisit
        if visit not in handles:
            raise LookupError(f"referenceVisit={visit} is not among the visits of the data query; widen it.")
        bbox = handles[visit].get(component="bbox")
        corner = bbox.factory[bbox.y.start : bbox.y.start + 1, bbox.x.start : bbox.x.stop]
        grid = TargetGrid.of_exposure(handles[visit].get(parameters={"bbox": corner}), bbox=bbox)
        if config.grid == "visit":
            return grid
        scale = best.pixel_scale if config.pixelScale is None else config.pixelScale
        return grid.on_tangent_plane([f.corners for f in chosen], pixel_scale=scale)


def _merge(scores: Table, inputs: Table) -> Table:
    """Return the scores of all candidates with what became of those that went in."""
    # The same figures of the whole exposures, on the grid of the coadd.
    inputs.rename_columns(["psfFwhm", "skyNoise"], ["coaddPsfFwhm", "coaddSkyNoise"])
    merged = join(scores, inputs, keys="visit", join_type="left")
    return merged.filled(0) if merged.has_masked_columns else merged
