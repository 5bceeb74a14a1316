"""Image differencing of pairs of visits as a task of a pipeline."""

from __future__ import annotations

__all__ = (
    "ImageDifferenceConnections",
    "ImageDifferencePipelineConfig",
    "ImageDifferencePipelineTask",
    "TwinklesImageDifferencePipelineConfig",
    "TwinklesImageDifferencePipelineTask",
)

from typing import TYPE_CHECKING, Any

from lsst.daf.butler import DataCoordinate, DeferredDatasetHandle
from lsst.pex.config import Field
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
    connectionTypes,
)

from ..tasks.errors import BadSubtractionError
from ..tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from ..tasks.twinkles_image_difference import set_twinkles_defaults
from .ids import DiaSourceIdFactory
from .provenance import describe_template

if TYPE_CHECKING:
    from lsst.pipe.base.connections import QuantaAdjuster

_DIMENSIONS = ("instrument", "visit", "detector")


class ImageDifferenceConnections(
    PipelineTaskConnections,
    dimensions=_DIMENSIONS,
    defaultTemplates={"coaddName": "deep", "inputName": "calexp"},
):
    """Datasets of `ImageDifferencePipelineTask`.

    Science and template exposure are of one dataset type, which two
    connections of a task cannot share: one connection brings both, and their
    visits tell them apart.
    """

    exposures = connectionTypes.Input(
        doc="Science exposure and template exposure.",
        name="{inputName}",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
        multiple=True,
        deferLoad=True,
    )
    differenceExp = connectionTypes.Output(
        doc="Science exposure minus matched template.",
        name="{coaddName}Diff_differenceExp",
        storageClass="DifferenceImage",
        dimensions=_DIMENSIONS,
    )
    matchedExp = connectionTypes.Output(
        doc="Template matched to the science exposure in PSF.",
        name="{coaddName}Diff_matchedExp",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
    )
    warpedExp = connectionTypes.Output(
        doc="Template on the pixels of the science exposure.",
        name="{coaddName}Diff_warpedExp",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
    )
    diaSrc = connectionTypes.Output(
        doc="Sources of the difference image.",
        name="{coaddName}Diff_diaSrc",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )
    kernelSrc = connectionTypes.Output(
        doc="Stars that made the matching kernel, and how well it fits them.",
        name="{coaddName}Diff_kernelSrc",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )
    metrics = connectionTypes.Output(
        doc="Figures of quality by name, and a verdict.",
        name="{coaddName}Diff_metrics",
        storageClass="StructuredDataDict",
        dimensions=_DIMENSIONS,
    )
    spatiallySampledMetrics = connectionTypes.Output(
        doc="Figures of quality at positions all over the image.",
        name="{coaddName}Diff_spatiallySampledMetrics",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )

    def __init__(self, *, config: ImageDifferencePipelineConfig) -> None:
        super().__init__(config=config)
        wanted = {
            "differenceExp": config.doWriteSubtractedExp,
            "matchedExp": config.doWriteMatchedExp,
            "warpedExp": config.doWriteWarpedExp,
            "diaSrc": config.doWriteSources and config.doMeasurement,
            "kernelSrc": config.doWriteMetrics,
            "metrics": config.doWriteMetrics and config.doAssessDifference,
            "spatiallySampledMetrics": config.doWriteMetrics and config.doSpatiallySampledMetrics,
        }
        for name, is_wanted in wanted.items():
            if not is_wanted:
                delattr(self, name)

    def adjust_all_quanta(self, adjuster: QuantaAdjuster) -> None:
        """Give every quantum the template, and the template no quantum."""
        template_visit = self.config.templateVisit  # type: ignore[attr-defined]
        quanta = list(adjuster.iter_data_ids())
        templates = {_place(q): q for q in quanta if q["visit"] == template_visit}
        # All additions come first: a quantum that is removed takes its inputs along.
        orphans = []
        for quantum in quanta:
            template = templates.get(_place(quantum))
            if template is None:
                orphans.append(quantum)
            elif template is not quantum:
                adjuster.add_input(quantum, "exposures", template)
        for quantum in [*orphans, *templates.values()]:
            adjuster.remove_quantum(quantum)
        if quanta and not templates:
            raise LookupError(
                f"templateVisit={template_visit} is not among the visits of the data query; "
                f"widen it, for example -d 'visit IN ({quanta[0]['visit']}, {template_visit})'."
            )


def _place(data_id: DataCoordinate) -> tuple[Any, Any]:
    return data_id["instrument"], data_id["detector"]


class ImageDifferencePipelineConfig(
    PipelineTaskConfig, ImageDifferenceConfig, pipelineConnections=ImageDifferenceConnections
):
    """Configuration of `ImageDifferencePipelineTask`.

    The fields of `ImageDifferenceConfig` are at its top, so that the same
    override files load here and on the command line of Gen2 form.
    """

    templateVisit = Field[int](
        doc="Visit that serves as template; it has to be in the data query.", optional=True
    )

    def validate(self) -> None:
        """Check that there is a template, and one name for the outputs."""
        super().validate()
        if self.templateVisit is None:
            raise ValueError("templateVisit must be set, for example -c imageDifference:templateVisit=250.")
        if self.connections.coaddName != self.coaddName:
            raise ValueError(
                f"coaddName={self.coaddName!r} and connections.coaddName={self.connections.coaddName!r} "
                "must agree; set both."
            )


class ImageDifferencePipelineTask(PipelineTask, ImageDifferenceTask):
    """Subtract one visit from others, as a task that ``pipetask run`` executes.

    Notes
    -----
    ``run`` is that of `ImageDifferenceTask`; this class moves the data. The
    query (``-d``) has to select the template visit along with the science
    visits; no difference is made of the template itself.
    """

    ConfigClass = ImageDifferencePipelineConfig
    _DefaultName = "imageDifference"
    config: ImageDifferencePipelineConfig

    # PipelineTask comes first in the order of base classes and has a `run` that refuses.
    run = ImageDifferenceTask.run

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the two exposures, run, write what is configured."""
        data_id = butlerQC.quantum.dataId
        assert data_id is not None, "guaranteed by the dimensions of the task"
        science_visit = int(data_id["visit"])
        handles = {h.dataId["visit"]: h for h in butlerQC.get(inputRefs)["exposures"]}
        science = handles[science_visit].get()
        template_handle = handles[self.config.templateVisit]
        template = template_handle.get()
        factory = DiaSourceIdFactory(science_visit, int(data_id["detector"]))
        try:
            result = self.run(science, template, idFactory=factory)
        except BadSubtractionError as error:
            if error.partial_outputs is not None:
                self._put(butlerQC, error.partial_outputs, outputRefs, template, template_handle)
            raise AnnotatedPartialOutputsError.annotate(error, self, log=self.log) from error
        except AlgorithmError as error:
            raise AnnotatedPartialOutputsError.annotate(error, self, log=self.log) from error
        self._put(butlerQC, result, outputRefs, template, template_handle)

    def _put(
        self,
        butlerQC: QuantumContext,
        result: Struct,
        outputRefs: OutputQuantizedConnection,
        template: Any,
        template_handle: DeferredDatasetHandle,
    ) -> None:
        """Write what is configured."""
        self._attach_template(result, template, template_handle)
        outputs = {
            "differenceExp": result.subtractedExposure,
            "matchedExp": result.matchedExposure,
            "warpedExp": result.warpedExposure,
            "diaSrc": result.diaSources,
            "kernelSrc": result.subtractRes.kernelSources,
            "metrics": result.metrics,
            "spatiallySampledMetrics": result.spatiallySampledMetrics,
        }
        wanted = {name for name, _ in outputRefs}
        butlerQC.put(Struct(**{k: v for k, v in outputs.items() if k in wanted}), outputRefs)

    def _attach_template(self, result: Struct, template: Any, handle: DeferredDatasetHandle) -> None:
        """Note in the difference image which dataset was the template."""
        difference = result.subtractedExposure
        difference.templates = [describe_template(difference, template, handle.ref)]


class TwinklesImageDifferencePipelineConfig(
    ImageDifferencePipelineConfig, pipelineConnections=ImageDifferenceConnections
):
    """Configuration of `TwinklesImageDifferencePipelineTask`."""

    def setDefaults(self) -> None:
        """Set what is right for Twinkles."""
        super().setDefaults()
        set_twinkles_defaults(self)


class TwinklesImageDifferencePipelineTask(ImageDifferencePipelineTask):
    """The same with the overrides of the Twinkles survey."""

    ConfigClass = TwinklesImageDifferencePipelineConfig
    config: TwinklesImageDifferencePipelineConfig
