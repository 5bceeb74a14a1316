"""Connections and configuration of the subtraction under the stack's names."""

from __future__ import annotations

__all__ = (
    "AlardLuptonPreconvolveSubtractConfig",
    "AlardLuptonPreconvolveSubtractConnections",
    "AlardLuptonSubtractBaseConfig",
    "AlardLuptonSubtractConfig",
    "AlardLuptonSubtractConnections",
    "SimplifiedSubtractConfig",
    "SimplifiedSubtractConnections",
    "StackDecorrelateConfig",
)

from typing import Any

from lsst.pex.config import ChoiceField, Config, ConfigurableField, Field, ListField, RangeField
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections, connectionTypes

from ..tasks.decorrelate import DecorrelateConfig, DecorrelateTask
from ..tasks.scale_variance import ScaleVarianceTask
from ..tasks.source_selector import ScienceSourceSelectorTask
from ..tasks.subtract import AlardLuptonSubtractTask as SubtractEngine
from .kernel_config import MakeKernelTask
from .unused_fields import UnusedField, add_unused_fields

_DIMENSIONS = ("instrument", "visit", "detector")
_TEMPLATES = {"coaddName": "deep", "fakesType": ""}


class _SubtractInputConnections(PipelineTaskConnections, dimensions=_DIMENSIONS, defaultTemplates=_TEMPLATES):
    """Datasets that a subtraction reads; names, storage classes and dimensions are the stack's."""

    template = connectionTypes.Input(
        doc="Template on the pixels of the science exposure.",
        name="{fakesType}{coaddName}Diff_templateExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    science = connectionTypes.Input(
        doc="Science exposure.", name="{fakesType}calexp", storageClass="ExposureF", dimensions=_DIMENSIONS
    )
    sources = connectionTypes.Input(
        doc="Sources of the science exposure, from which stars for the kernel are chosen.",
        name="{fakesType}src",
        storageClass="SourceCatalog",
        dimensions=_DIMENSIONS,
    )
    visitSummary = connectionTypes.Input(
        doc="PSFs and aperture corrections of the visit's detectors.",
        name="finalVisitSummary",
        storageClass="ExposureCatalog",
        dimensions=("instrument", "visit"),
    )

    def __init__(self, *, config: AlardLuptonSubtractBaseConfig) -> None:
        super().__init__(config=config)
        if not config.doApplyExternalCalibrations:
            del self.visitSummary


class AlardLuptonSubtractConnections(
    _SubtractInputConnections, dimensions=_DIMENSIONS, defaultTemplates=_TEMPLATES
):
    """Datasets of the subtraction; names, storage classes and dimensions are the stack's."""

    difference = connectionTypes.Output(
        doc="Science exposure minus matched template.",
        name="{fakesType}{coaddName}Diff_differenceTempExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    matchedTemplate = connectionTypes.Output(
        doc="Template matched to the science exposure.",
        name="{fakesType}{coaddName}Diff_matchedExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    psfMatchingKernel = connectionTypes.Output(
        doc="Kernel that matched it.",
        name="{fakesType}{coaddName}Diff_psfMatchKernel",
        storageClass="MatchingKernel",
        dimensions=_DIMENSIONS,
    )
    kernelSources = connectionTypes.Output(
        doc="Sources that the kernel was made from.",
        name="{fakesType}{coaddName}Diff_psfMatchSources",
        storageClass="SourceCatalog",
        dimensions=_DIMENSIONS,
    )


class AlardLuptonPreconvolveSubtractConnections(
    _SubtractInputConnections, dimensions=_DIMENSIONS, defaultTemplates=_TEMPLATES
):
    """Datasets of the score image; names, storage classes and dimensions are the stack's."""

    scoreExposure = connectionTypes.Output(
        doc="Likelihood image of point sources, for detection.",
        name="{fakesType}{coaddName}Diff_scoreExp",
        storageClass="ExposureF",
        dimensions=_DIMENSIONS,
    )
    psfMatchingKernel = connectionTypes.Output(
        doc="Kernel that matched the template to the science exposure convolved with its PSF.",
        name="{fakesType}{coaddName}Diff_psfScoreMatchKernel",
        storageClass="MatchingKernel",
        dimensions=_DIMENSIONS,
    )
    kernelSources = connectionTypes.Output(
        doc="Sources that the kernel was made from.",
        name="{fakesType}{coaddName}Diff_psfScoreMatchSources",
        storageClass="SourceCatalog",
        dimensions=_DIMENSIONS,
    )


class SimplifiedSubtractConnections(
    AlardLuptonSubtractConnections, dimensions=_DIMENSIONS, defaultTemplates=_TEMPLATES
):
    """Datasets of the subtraction without a catalogue; names, classes and dimensions are the stack's."""

    inputPsfMatchingKernel = connectionTypes.Input(
        doc="Kernel that matches the two exposures.",
        name="{fakesType}{coaddName}Diff_psfMatchKernel",
        storageClass="MatchingKernel",
        dimensions=_DIMENSIONS,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        del self.sources
        if config.useExistingKernel:
            del self.psfMatchingKernel
            del self.kernelSources
        else:
            del self.inputPsfMatchingKernel


@add_unused_fields(
    UnusedField("completeVarPlanePropagation", False, "the variance always goes through the filters")
)
class StackDecorrelateConfig(DecorrelateConfig):
    """The whitening with all the names that the stack's has."""


@add_unused_fields(
    UnusedField(
        "detectionThreshold", 10.0, "sources come from a catalogue and the selector", deprecated=True
    ),
    UnusedField(
        "detectionThresholdMax", 500.0, "sources come from a catalogue and the selector", deprecated=True
    ),
)
class AlardLuptonSubtractBaseConfig(Config):
    """What all subtractions have.

    Fields, meanings and defaults are the stack's; ``engine`` holds what the stack has no names for.
    """

    makeKernel: Any = ConfigurableField(doc="Settings of the matching kernel.", target=MakeKernelTask)
    engine: Any = ConfigurableField(
        doc="The subtraction of this package. Its fields that have a counterpart under the stack's names "
        "(mode, kernel, mask planes, numbers of sources) are set from there.",
        target=SubtractEngine,
    )
    doDecorrelation = Field[bool](doc="Whiten the noise of the difference?", default=True)
    decorrelate: Any = ConfigurableField(
        doc="Whitening of the noise.", target=DecorrelateTask, ConfigClass=StackDecorrelateConfig
    )
    requiredTemplateFraction = Field[float](
        doc="There is no work if the template covers less than this fraction; 0 = always try.", default=0.1
    )
    minTemplateFractionForExpectedSuccess = Field[float](
        doc="There is no work if the kernel fails and the template covers less than this fraction.",
        default=0.2,
    )
    doScaleVariance = Field[bool](
        doc="Scale the variance planes of both images to the scatter of their pixels?", default=True
    )
    scaleVariance: Any = ConfigurableField(doc="Scaling of variance planes.", target=ScaleVarianceTask)
    doSubtractBackground = Field[bool](
        doc="Leave the differential background, which is fitted with the kernel, out of the difference?",
        default=False,
    )
    doApplyExternalCalibrations = Field[bool](
        doc="Take PSF and aperture corrections of the science exposure from visitSummary?", default=False
    )
    sourceSelector: Any = ConfigurableField(
        doc="Choice of kernel stars from the catalogue.", target=ScienceSourceSelectorTask
    )
    fallbackSourceSelector: Any = ConfigurableField(
        doc="Of the stack; without effect here: stars that the subtraction finds itself are chosen by it.",
        target=ScienceSourceSelectorTask,
    )
    restrictKernelEdgeSources = Field[bool](
        doc="Leave out sources nearer to the edge than the width of the kernel?", default=True
    )
    maxKernelSources = RangeField[int](
        doc="Most kernel stars, the brightest; -1 for no limit.", default=1000, min=-1
    )
    minKernelSources = RangeField[int](doc="Fewest kernel stars.", default=3, min=1)
    excludeMaskPlanes = ListField[str](
        doc="A source with such a pixel near it is not used for the kernel.",
        default=["NO_DATA", "BAD", "SAT", "EDGE", "FAKE", "HIGH_VARIANCE"],
    )
    badMaskPlanes = ListField[str](
        doc="Planes whose pixels are not used for sky, noise and kernel.",
        default=["NO_DATA", "BAD", "SAT", "EDGE"],
    )
    preserveTemplateMask = ListField[str](
        doc="Template planes that are copied to the difference.", default=["NO_DATA", "BAD", "HIGH_VARIANCE"]
    )
    renameTemplateMask = ListField[str](
        doc="Template planes that are copied to the difference with _TEMPLATE behind their names.",
        default=["SAT", "INJECTED", "INJECTED_CORE"],
    )
    preserveMaskPlanes = ListField[str](
        doc="Planes that no convolution widens.",
        default=["INJECTED", "INJECTED_CORE", "INJECTED_TEMPLATE", "INJECTED_CORE_TEMPLATE"],
    )
    allowKernelSourceDetection = Field[bool](
        doc="Find stars on the science image if the catalogue has too few?", default=False
    )

    def setDefaults(self) -> None:
        """Set the stack's defaults of the stages."""
        super().setDefaults()
        self.decorrelate.ignoreMaskPlanes = [
            "INTRP",
            "EDGE",
            "DETECTED",
            "SAT",
            "CR",
            "BAD",
            "NO_DATA",
            "DETECTED_NEGATIVE",
        ]
        for selector in (self.sourceSelector, self.fallbackSourceSelector):
            selector.doUnresolved = True
            selector.doSignalToNoise = True
            selector.signalToNoise.minimum = 10.0
            selector.signalToNoise.maximum = 500.0
        self.sourceSelector.doIsolated = True
        self.sourceSelector.doRequirePrimary = True


class AlardLuptonSubtractConfig(
    AlardLuptonSubtractBaseConfig, PipelineTaskConfig, pipelineConnections=AlardLuptonSubtractConnections
):
    """Configuration of `~lsst.twinkles.diffim.stack.subtract_images.AlardLuptonSubtractTask`."""

    mode = ChoiceField[str](
        doc="Which image is convolved.",
        default="convolveTemplate",
        allowed={
            "auto": "The template, unless its PSF is wider along both axes.",
            "convolveScience": "The science image.",
            "convolveTemplate": "The template.",
        },
    )


class AlardLuptonPreconvolveSubtractConfig(
    AlardLuptonSubtractBaseConfig,
    PipelineTaskConfig,
    pipelineConnections=AlardLuptonPreconvolveSubtractConnections,
):
    """Configuration of `~lsst.twinkles.diffim.stack.preconvolve.AlardLuptonPreconvolveSubtractTask`."""


class SimplifiedSubtractConfig(
    AlardLuptonSubtractConfig, PipelineTaskConfig, pipelineConnections=SimplifiedSubtractConnections
):
    """Configuration of `~lsst.twinkles.diffim.stack.simplified.SimplifiedSubtractTask`."""

    useExistingKernel = Field[bool](
        doc="Subtract with a kernel that is there? If not, stars are sought on the science image.",
        default=True,
    )
