"""What an image difference does about flaws of the images, and to tell how good it is."""

from __future__ import annotations

__all__ = ("DifferenceQualityConfig", "DifferenceQualityTask")

from typing import TYPE_CHECKING, Any

from lsst.pex.config import Config, ConfigurableField, Field
from lsst.pipe.base import Struct, Task

from .add_sky_sources import append_sky_sources
from .assess_difference import AssessDifferenceTask, exposure_seed, flatten_metadata
from .find_cosmic_rays import FindCosmicRaysTask
from .mask_streaks import MaskStreaksTask
from .score_reliability import ScoreReliabilityTask
from .sky_objects import SkyObjectsTask, measure_sky_fluxes
from .spatially_sampled_metrics import SpatiallySampledMetricsTask
from .subtract_background import SubtractBackgroundTask

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table

    from lsst.images import DifferenceImage, VisitImage

# What the reliability is told of a source by its catalogue.
_FEATURE_COLUMNS = {"x", "y", "isNegative"}


class DifferenceQualityConfig(Config):
    """Switches and stages of `DifferenceQualityTask`."""

    doFindCosmicRays = Field[bool](
        doc="Find and repair cosmic rays and hot pixels of both exposures that are not masked?", default=True
    )
    doReliability = Field[bool](
        doc="Give every source a reliability: how likely it is to be real?", default=True
    )
    doMaskStreaks = Field[bool](doc="Mask the trails of satellites on the difference?", default=True)
    doSubtractBackground = Field[bool](
        doc="Subtract what sky is left in the difference? The kernel comes with a background of its own.",
        default=False,
    )
    doAssessDifference = Field[bool](
        doc="Measure how good the difference is, and warn where it is bad?", default=True
    )
    raiseOnBadSubtractionRatio = Field[bool](
        doc="Is a difference that leaves too much of the stars (assess.badSubtractionRatioThreshold and "
        "assess.badSubtractionVariationThreshold) an error? What was made is kept.",
        default=True,
    )
    doSpatiallySampledMetrics = Field[bool](
        doc="Make a table of figures at positions all over the image?", default=False
    )
    doSkySources = Field[bool](
        doc="Add rows at empty positions to the catalogue, with sky_source set?", default=False
    )
    doWriteMetrics = Field[bool](doc="Write the figures of quality and the verdict?", default=True)

    skySources: Any = ConfigurableField(doc="Positions of sky sources.", target=SkyObjectsTask)
    cosmicray: Any = ConfigurableField(doc="Cosmic rays and hot pixels.", target=FindCosmicRaysTask)
    maskStreaks: Any = ConfigurableField(doc="Trails of satellites.", target=MaskStreaksTask)
    subtractBackground: Any = ConfigurableField(
        doc="Sky that is left in the difference.", target=SubtractBackgroundTask
    )
    reliability: Any = ConfigurableField(doc="Reliability of sources.", target=ScoreReliabilityTask)
    assess: Any = ConfigurableField(doc="Figures of quality and verdict.", target=AssessDifferenceTask)
    spatiallySampledMetrics: Any = ConfigurableField(
        doc="Figures at positions all over the image.", target=SpatiallySampledMetricsTask
    )


_OPTIONAL_STAGES = {
    "doSkySources": "skySources",
    "doFindCosmicRays": "cosmicray",
    "doMaskStreaks": "maskStreaks",
    "doSubtractBackground": "subtractBackground",
    "doReliability": "reliability",
    "doAssessDifference": "assess",
    "doSpatiallySampledMetrics": "spatiallySampledMetrics",
}


_MEASURED_STAGES = ("subtract", "detection", "maskStreaks", "measurement", "subtractBackground")


class DifferenceQualityTask(Task):
    """Stages that an image difference has for flaws of the images and for its quality.

    Each does nothing if its switch is off.
    """

    ConfigClass = DifferenceQualityConfig
    config: DifferenceQualityConfig
    skySources: Any
    cosmicray: Any
    maskStreaks: Any
    subtractBackground: Any
    reliability: Any
    assess: Any
    spatiallySampledMetrics: Any

    def make_quality_subtasks(self) -> None:
        """Make the subtasks that are switched on."""
        for switch, name in _OPTIONAL_STAGES.items():
            if getattr(self.config, switch):
                self.makeSubtask(name)

    def repair(self, exposure: VisitImage, role: str) -> VisitImage:
        """Return an exposure without cosmic rays and hot pixels.

        Parameters
        ----------
        exposure : `lsst.images.VisitImage`
            Exposure; not modified.
        role : `str`
            ``science`` or ``template``.
        """
        if not self.config.doFindCosmicRays:
            return exposure
        rays = self.cosmicray.run(exposure, role)
        self.metadata[f"{role}CosmicRayPixels"] = rays.nPixels
        self.metadata[f"{role}_cosmic_ray_count"] = rays.count
        return rays.exposure

    def subtract_background(self, difference: DifferenceImage, light: np.ndarray) -> DifferenceImage:
        """Take the sky that is left where ``light`` shows nothing out of a difference, in place."""
        if not self.config.doSubtractBackground:
            return difference
        return self.subtractBackground.run(difference, light=light, inPlace=True).difference

    def mask_streaks(self, difference: DifferenceImage) -> None:
        """Set the plane ``STREAK`` of a difference."""
        if self.config.doMaskStreaks:
            self.maskStreaks.run(difference)

    def score_reliability(
        self, sources: Table, difference: DifferenceImage, science: VisitImage, matched: VisitImage
    ) -> Table:
        """Return the catalogue with the reliability of its sources.

        Parameters
        ----------
        sources : `astropy.table.Table`
            Catalogue; not modified.
        difference, science, matched : `lsst.images.VisitImage`
            Difference, and what was subtracted from what.
        """
        # A measurement task of another make has a catalogue of its own.
        if not self.config.doReliability or not set(sources.colnames) >= _FEATURE_COLUMNS:
            return sources
        return self.reliability.run(difference, science, matched, sources).diaSources

    def add_sky_sources(
        self, sources: Table, difference: DifferenceImage, error_scale: float, id_base: int
    ) -> Table:
        """Return the catalogue with sky sources at its end.

        Parameters
        ----------
        sources : `astropy.table.Table`
            Catalogue; not modified.
        difference : `lsst.images.DifferenceImage`
            Difference with its detections in the mask.
        error_scale : `float`
            Factor on errors, ``scoreNoise`` of the detection.
        id_base : `int`
            First ``diaSourceId`` of the image.
        """
        if not self.config.doSkySources:
            return sources
        positions = self.skySources.run(difference.mask, seed=exposure_seed(difference)).sources
        fluxes = measure_sky_fluxes(
            difference, positions, error_scale=error_scale, bad_planes=list(self.skySources.config.avoidMask)
        )
        self.metadata["n_skySources"] = len(positions)
        return append_sky_sources(sources, difference, positions, fluxes, id_base=id_base)

    def assess_results(self, result: Struct, science: VisitImage, error_scale: float) -> None:
        """Add ``metrics`` and ``spatiallySampledMetrics`` to the results of a subtraction.

        Parameters
        ----------
        result : `lsst.pipe.base.Struct`
            All that the task is about to return; changed.
        science : `lsst.images.VisitImage`
            Science exposure.
        error_scale : `float`
            Factor on errors, ``scoreNoise`` of the detection.

        Raises
        ------
        BadSubtractionError
            If too much of the stars is left and that is an error.
        """
        subtracted, difference = result.subtractRes, result.subtractedExposure
        if self.config.doSpatiallySampledMetrics:
            result.spatiallySampledMetrics = self.spatiallySampledMetrics.run(
                science,
                result.matchedExposure,
                result.warpedExposure,
                difference,
                result.diaSources,
                subtracted.psfMatchingKernel,
            ).spatiallySampledMetrics
        if not self.config.doAssessDifference:
            return
        stages = (self, *(getattr(self, name, None) for name in _MEASURED_STAGES))
        result.metrics = self.assess.run(
            difference,
            science,
            kernelSources=subtracted.kernelSources,
            diaSources=result.diaSources,
            errorScale=error_scale,
            figures=flatten_metadata(*(stage.metadata for stage in stages if stage is not None)),
        ).metrics
        error = self.assess.find_error(result.metrics)
        if error is not None and self.config.raiseOnBadSubtractionRatio:
            error.partial_outputs = result
            raise error
