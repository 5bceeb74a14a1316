"""Image differencing with templates that were made for each science exposure, as a task of a pipeline."""

from __future__ import annotations

__all__ = (
    "FromTemplateConnections",
    "FromTemplatePipelineConfig",
    "FromTemplatePipelineTask",
)

from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    connectionTypes,
)

from ..tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from .image_difference import ImageDifferenceConnections
from .quantum import difference_quantum

_DIMENSIONS = ("instrument", "visit", "detector")


class FromTemplateConnections(
    PipelineTaskConnections, dimensions=_DIMENSIONS, defaultTemplates={"coaddName": "deep"}
):
    """Datasets of `FromTemplatePipelineTask`; names are those of Gen2 by default."""

    exposure = connectionTypes.Input(
        doc="Science exposure.", name="calexp", storageClass="VisitImage", dimensions=_DIMENSIONS
    )
    template = connectionTypes.Input(
        doc="Template of this exposure.",
        name="{coaddName}Diff_templateExp",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
    )
    differenceExp = ImageDifferenceConnections.differenceExp
    matchedExp = ImageDifferenceConnections.matchedExp
    warpedExp = ImageDifferenceConnections.warpedExp
    diaSrc = ImageDifferenceConnections.diaSrc

    def __init__(self, *, config: FromTemplatePipelineConfig) -> None:
        super().__init__(config=config)
        wanted = {
            "differenceExp": config.doWriteSubtractedExp,
            "matchedExp": config.doWriteMatchedExp,
            "warpedExp": config.doWriteWarpedExp,
            "diaSrc": config.doWriteSources and config.doMeasurement,
        }
        for name, is_wanted in wanted.items():
            if not is_wanted:
                delattr(self, name)


class FromTemplatePipelineConfig(
    PipelineTaskConfig, ImageDifferenceConfig, pipelineConnections=FromTemplateConnections
):
    """Configuration of `FromTemplatePipelineTask`."""


class FromTemplatePipelineTask(PipelineTask, ImageDifferenceTask):
    """Subtract from each exposure the template that was made for it.

    Notes
    -----
    With ``config/rubinPreliminaryVisitImage.py`` it reads and writes the datasets of Rubin's prompt
    processing. Storage classes are those of `lsst.images`; a Butler that has the datasets as afw exposures
    converts them where the stack is set up.
    """

    ConfigClass = FromTemplatePipelineConfig
    _DefaultName = "imageDifference"
    config: FromTemplatePipelineConfig

    # PipelineTask comes first in the order of base classes and has a `run` that refuses.
    run = ImageDifferenceTask.run

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the two exposures, run, write what is configured."""
        inputs = butlerQC.get(inputRefs)
        difference_quantum(
            self,
            butlerQC,
            outputRefs,
            science=inputs["exposure"],
            template=inputs["template"],
            template_ref=inputRefs.template,
        )
