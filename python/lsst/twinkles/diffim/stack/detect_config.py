"""Connections and configuration of detection and measurement under the stack's names."""

from __future__ import annotations

__all__ = (
    "DetectAndMeasureConfig",
    "DetectAndMeasureConnections",
    "DetectAndMeasureScoreConfig",
    "DetectAndMeasureScoreConnections",
    "StackDetectionConfig",
)

import os
from typing import Any

from lsst.pex.config import (
    Config,
    ConfigField,
    ConfigurableField,
    Field,
    FieldValidationError,
    ListField,
    RangeField,
)
from lsst.pipe.base import Instrument, PipelineTaskConfig, PipelineTaskConnections, connectionTypes

from ..tasks.detection import DetectionConfig, DetectionTask
from ..tasks.measurement import MeasurementTask
from .background import CellBackgroundTask
from .errors import stack_class
from .satellites import ADDRESS_VARIABLE
from .unused_fields import PlaceholderTask, UnusedField, add_unused_fields

_DIMENSIONS = ("instrument", "visit", "detector")


class DetectAndMeasureConnections(
    PipelineTaskConnections,
    dimensions=_DIMENSIONS,
    defaultTemplates={"coaddName": "deep", "warpTypeSuffix": "", "fakesType": ""},
):
    """Datasets of detection and measurement; names, storage classes and dimensions are the stack's."""

    science = connectionTypes.Input(
        doc="Science exposure.", name="{fakesType}calexp", storageClass="ExposureF", dimensions=_DIMENSIONS
    )
    matchedTemplate = connectionTypes.Input(
        doc="Template matched to it.",
        name="{fakesType}{coaddName}Diff_matchedExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    difference = connectionTypes.Input(
        doc="Science exposure minus matched template.",
        name="{fakesType}{coaddName}Diff_differenceTempExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    kernelSources = connectionTypes.Input(
        doc="Sources that the kernel was made from.",
        name="{fakesType}{coaddName}Diff_psfMatchSources",
        storageClass="SourceCatalog",
        dimensions=_DIMENSIONS,
    )
    outputSchema = connectionTypes.InitOutput(
        doc="Schema of the catalogue, an empty catalogue.",
        name="{fakesType}{coaddName}Diff_diaSrc_schema",
        storageClass="SourceCatalog",
    )
    diaSources = connectionTypes.Output(
        doc="Sources of the difference.",
        name="{fakesType}{coaddName}Diff_diaSrc",
        storageClass="SourceCatalog",
        dimensions=_DIMENSIONS,
    )
    subtractedMeasuredExposure = connectionTypes.Output(
        doc="Difference with the detections in its mask.",
        name="{fakesType}{coaddName}Diff_differenceExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    differenceBackground = connectionTypes.Output(
        doc="Background that was subtracted from the difference.",
        name="difference_background",
        storageClass="Background",
        dimensions=_DIMENSIONS,
    )
    maskedStreaks = connectionTypes.Output(
        doc="Streaks of the difference.",
        name="{fakesType}{coaddName}Diff_streaks",
        storageClass="ArrowNumpyDict",
        dimensions=_DIMENSIONS,
    )
    glintTrailInfo = connectionTypes.Output(
        doc="Trails of glints among the sources.",
        name="trailed_glints",
        storageClass="ArrowNumpyDict",
        dimensions=_DIMENSIONS,
    )

    def __init__(self, *, config: DetectAndMeasureConfig) -> None:
        super().__init__(config=config)
        wanted = {
            "kernelSources": config.doCalculateResidualMetics,
            "maskedStreaks": config.writeStreakInfo and config.doMaskStreaks,
            "differenceBackground": config.doSubtractBackground and config.doWriteBackground,
            "glintTrailInfo": config.writeGlintInfo,
        }
        for name, is_wanted in wanted.items():
            if not is_wanted:
                delattr(self, name)


class DetectAndMeasureScoreConnections(
    DetectAndMeasureConnections,
    dimensions=_DIMENSIONS,
    defaultTemplates={"coaddName": "deep", "warpTypeSuffix": "", "fakesType": ""},
):
    """Datasets of detection on a score image."""

    scoreExposure = connectionTypes.Input(
        doc="Likelihood image of point sources, for detection.",
        name="{fakesType}{coaddName}Diff_scoreExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )


@add_unused_fields(
    UnusedField("thresholdType", "pixel_stdev", "the threshold is one of the significance of a point source"),
    UnusedField("thresholdPolarity", "both", "both signs are always sought"),
    UnusedField("reEstimateBackground", False, "the background is subtracted before"),
    UnusedField("minPixels", 1, "a peak of the significance is enough"),
    UnusedField("nSigmaToGrow", 2.4, "footprints grow by growFootprint pixels"),
    UnusedField("includeThresholdMultiplier", 1.0, "the threshold is one of the significance"),
)
class StackDetectionConfig(DetectionConfig):
    """The detection with the names of the stack's that overrides use."""


@add_unused_fields(
    UnusedField("nCrPixelMax", 1000000, "cosmic rays are found by the stack's code, where it is set up"),
    UnusedField("minSigma", 6.0, "cosmic rays are found by the stack's code, where it is set up"),
    UnusedField("min_DN", 150.0, "cosmic rays are found by the stack's code, where it is set up"),
    UnusedField("cond3_fac", 2.0, "cosmic rays are found by the stack's code, where it is set up"),
    UnusedField("cond3_fac2", 0.35, "cosmic rays are found by the stack's code, where it is set up"),
    UnusedField("niteration", 6, "cosmic rays are found by the stack's code, where it is set up"),
)
class _CosmicRayConfig(Config):
    """Settings of the stack's cosmic ray finder, where the stack is not set up."""

    keepCRs = Field[bool](doc="Mask cosmic rays only? If not, they are interpolated.", default=False)
    background: Any = ConfigurableField(doc="Of the stack; without effect.", target=PlaceholderTask)


class _IdGeneratorConfig(Config):
    """Settings of the stack's generator of identifiers, where the stack is not set up."""

    release_id = RangeField[int](doc="Number of the data release in identifiers.", default=0, min=0)
    n_releases = RangeField[int](doc="Releases for which there is room.", default=64, min=1)
    packer = Instrument.make_dimension_packer_config_field()

    def apply(self, dataId: Any) -> Any:
        """Refuse: identifiers are made by lsst.meas.base."""
        raise NotImplementedError("Identifiers are made by lsst.meas.base, which is not set up.")


def _stack_task(place: str) -> Any:
    return stack_class(place, PlaceholderTask)


_MEAS = "lsst.meas.algorithms"


class DetectAndMeasureConfig(PipelineTaskConfig, pipelineConnections=DetectAndMeasureConnections):
    """Configuration of `~lsst.twinkles.diffim.stack.detect_and_measure.DetectAndMeasureTask`.

    Fields, meanings and defaults are the stack's. Detection, measurement and background are ours; cosmic
    rays, streaks, glints, sky sources and aperture corrections are the stack's own tasks, where it is set up.
    """

    doMerge = Field[bool](doc="Merge positive and negative footprints that touch?", default=True)
    growFootprint = RangeField[int](doc="Pixels by which footprints grow before.", default=2, min=0)
    detection: Any = ConfigurableField(
        doc="Detection on the significance image.", target=DetectionTask, ConfigClass=StackDetectionConfig
    )
    measurement: Any = ConfigurableField(doc="Measurement of the sources.", target=MeasurementTask)
    doForcedMeasurement = Field[bool](
        doc="Measure PSF fluxes on science exposure and matched template at the sources?", default=True
    )
    forcedMeasurement: Any = ConfigurableField(
        doc="Of the stack; without effect here: part of measurement.", target=PlaceholderTask
    )
    doAddMetrics = Field[bool](doc="Of the stack; without effect there and here.", default=False)
    diaSourceMatchRadius = Field[float](doc="Of the stack; without effect there and here.", default=0.5)
    doDeblend = Field[bool](
        doc="Of the stack; without effect here: blended peaks are always sources of their own.", default=False
    )
    deblend: Any = ConfigurableField(doc="Of the stack; without effect here.", target=PlaceholderTask)
    setPrimaryFlags: Any = ConfigurableField(
        doc="Of the stack; without effect here: all sources are primary.", target=PlaceholderTask
    )

    # Background
    doSubtractBackground = Field[bool](doc="Subtract a residual background before?", default=True)
    doWriteBackground = Field[bool](doc="Write it?", default=False)
    subtractInitialBackground: Any = ConfigurableField(
        doc="Background under a first detection, which keeps sources out of the final one.",
        target=CellBackgroundTask,
    )
    subtractFinalBackground: Any = ConfigurableField(
        doc="Background that is subtracted.", target=CellBackgroundTask
    )

    # Masks, by the stack's tasks
    doFindCosmicRays = Field[bool](doc="Mask cosmic rays, if the stack's finder is set up?", default=True)
    cosmicray = ConfigField(
        doc="Settings of the finder.", dtype=stack_class(f"{_MEAS}:FindCosmicRaysConfig", _CosmicRayConfig)
    )
    doMaskStreaks = Field[bool](doc="Mask streaks, if the stack's task is set up?", default=True)
    maskStreaks: Any = ConfigurableField(
        doc="Search for streaks.", target=_stack_task(f"{_MEAS}:MaskStreaksTask")
    )
    streakDetection: Any = ConfigurableField(
        doc="Of the stack; without effect here: streaks are sought among the detections.",
        target=PlaceholderTask,
    )
    streakBinFactor = Field[int](doc="Of the stack; without effect here.", default=4)
    writeStreakInfo = Field[bool](doc="Write the streaks?", default=False)
    findGlints: Any = ConfigurableField(
        doc="Search for trails of glints, if the stack's task is set up.",
        target=_stack_task(f"{_MEAS}:FindGlintTrailsTask"),
    )
    writeGlintInfo = Field[bool](doc="Write the trails?", default=True)

    # Catalogue
    doSkySources = Field[bool](doc="Add sources on blank sky, by the stack's task?", default=False)
    skySources: Any = ConfigurableField(
        doc="Choice of blank sky.", target=_stack_task(f"{_MEAS}:SkyObjectsTask")
    )
    doApCorr = Field[bool](doc="Apply aperture corrections, if the stack's task is set up?", default=True)
    applyApCorr: Any = ConfigurableField(
        doc="Aperture corrections.", target=_stack_task("lsst.meas.base:ApplyApCorrTask")
    )
    badSourceFlags = ListField[str](
        doc="Sources with one of these flags are removed.",
        default=[
            "base_PixelFlags_flag_offimage",
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_interpolatedCenterAll",
            "base_PixelFlags_flag_badCenter",
            "base_PixelFlags_flag_edgeCenter",
            "base_PixelFlags_flag_nodataCenter",
            "base_PixelFlags_flag_saturatedCenter",
            "base_PixelFlags_flag_saturated_templateCenter",
            "base_PixelFlags_flag_spikeCenter",
        ],
    )
    clearMaskPlanes = ListField[str](
        doc="Planes that are cleared before.",
        default=["DETECTED", "DETECTED_NEGATIVE", "NOT_DEBLENDED", "STREAK"],
    )
    doRejectBadMaskPlaneDetections = Field[bool](doc="Reject peaks on badMaskPlanes?", default=True)
    badMaskPlanes = ListField[str](
        doc="Planes; peaks on such a pixel are rejected.", default=["NO_DATA", "BAD", "SAT", "EDGE"]
    )
    idGenerator = ConfigField(
        doc="Identifiers of catalogues.",
        dtype=stack_class("lsst.meas.base:DetectorVisitIdGeneratorConfig", _IdGeneratorConfig),
    )

    # Quality
    doCalculateResidualMetics = Field[bool](doc="Measure what is left of the kernel's sources?", default=True)
    raiseOnBadSubtractionRatio = Field[bool](doc="Is too much of that an error?", default=True)
    badSubtractionRatioThreshold = Field[float](
        doc="Most that may be left, as a fraction of the science image.", default=0.2
    )
    badSubtractionVariationThreshold = Field[float](doc="Largest scatter of that fraction.", default=0.4)
    raiseOnNoDiaSources = Field[bool](doc="Is it an error if nothing was detected?", default=True)

    # Satellites
    run_sattle = Field[bool](
        doc="Keep only what the satellite service at $SATTLE_URI_BASE allows?", default=False
    )
    sattle_historical = Field[bool](doc="Tell the service that visits are not of today?", default=False)

    def setDefaults(self) -> None:
        """Set the stack's defaults of the stages."""
        super().setDefaults()
        self.subtractInitialBackground.binSize = 8
        self.subtractFinalBackground.binSize = 40
        self.cosmicray.keepCRs = True

    def validate(self) -> None:
        """Refuse a service without an address."""
        super().validate()
        if self.run_sattle and not os.getenv(ADDRESS_VARIABLE):
            raise FieldValidationError(
                type(self).run_sattle,
                self,
                f"run_sattle=True: the address of the satellite service is not set; put it into "
                f"{ADDRESS_VARIABLE}.",
            )


class DetectAndMeasureScoreConfig(
    DetectAndMeasureConfig, pipelineConnections=DetectAndMeasureScoreConnections
):
    """Configuration of `~lsst.twinkles.diffim.stack.detect_and_measure.DetectAndMeasureScoreTask`."""
