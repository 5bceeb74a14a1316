"""Detection and measurement of this package in the place of the stack's."""

from __future__ import annotations

__all__ = ("DetectAndMeasureScoreTask", "DetectAndMeasureTask")

from typing import Any

import numpy as np
from astropy.table import vstack

from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    InvalidQuantumError,
    OutputQuantizedConnection,
    PipelineTask,
    QuantumContext,
    Struct,
    UpstreamFailureNoWorkFound,
)
from lsst.utils.timer import timeMethod

from .detect_config import DetectAndMeasureConfig, DetectAndMeasureScoreConfig
from .dia_catalog import DiaCatalogMaker
from .dia_schema import add_dia_fields
from .errors import bad_subtraction, no_dia_sources
from .exposures import merge_planes, plane_pixels, visit_image_from_afw
from .figures import footprint_ratios
from .planes import clear_planes
from .satellites import find_allowed
from .score import bad_bits, significance_of
from .sky_sources import as_detections, force_positions
from .stack_stages import StackStages


class DetectAndMeasureTask(PipelineTask):
    """Detect and measure, with the interface of ``lsst.ip.diffim.detectAndMeasure.DetectAndMeasureTask``.

    Notes
    -----
    The same configuration, connections, arguments, results and columns, in afw types; doc/stack.md says where
    the two differ. Detection is that on the significance image, centroids and fluxes are those of the joint
    fit of the PSF. Unlike the stack's task this one leaves its inputs as they are.
    """

    ConfigClass = DetectAndMeasureConfig
    _DefaultName = "detectAndMeasure"
    config: DetectAndMeasureConfig
    detection: Any
    measurement: Any
    subtractInitialBackground: Any
    subtractFinalBackground: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        from lsst.afw.table import SourceCatalog, SourceTable

        self.schema = SourceTable.makeMinimalSchema()
        if self.config.doSubtractBackground:
            self.makeSubtask("subtractInitialBackground")
            self.makeSubtask("subtractFinalBackground")
        self._make_detection()
        self._make_measurement()
        self.stages = StackStages(self, self.schema)
        add_dia_fields(self.schema)
        for flag in self.config.badSourceFlags:
            if flag not in self.schema:
                raise InvalidQuantumError(
                    f"badSourceFlags names {flag!r}, which is not a column of the catalogue."
                )
        self.outputSchema = SourceCatalog(self.schema)

    def _make_detection(self) -> None:
        config = self.config.detection.value.copy()
        for name in ("doMerge", "growFootprint"):
            setattr(config, name, getattr(self.config, name))
        reject = self.config.doRejectBadMaskPlaneDetections
        config.badMaskPlanes = list(self.config.badMaskPlanes) if reject else []
        self.detection = self.config.detection.target(config=config, name="detection", parentTask=self)

    def _make_measurement(self) -> None:
        config = self.config.measurement.value.copy()
        config.doForcedMeasurement = self.config.doForcedMeasurement
        self.measurement = self.config.measurement.target(config=config, name="measurement", parentTask=self)

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read, run, write; what there is of the results is written if an algorithm could not do its work."""
        inputs = butlerQC.get(inputRefs)
        factory = self.config.idGenerator.apply(butlerQC.quantum.dataId).make_table_id_factory()
        results = Struct(
            subtractedMeasuredExposure=None, diaSources=None, maskedStreaks=None, differenceBackground=None
        )
        try:
            self._run_into(results, **inputs, idFactory=factory)
        except AlgorithmError as error:
            annotated = AnnotatedPartialOutputsError.annotate(
                error,
                self,
                results.subtractedMeasuredExposure,
                results.diaSources,
                log=self.log,
            )
            butlerQC.put(results, outputRefs)
            raise annotated from error
        butlerQC.put(results, outputRefs)

    @timeMethod
    def run(
        self,
        science: Any,
        matchedTemplate: Any,
        difference: Any,
        kernelSources: Any = None,
        idFactory: Any = None,
        measurementResults: Struct | None = None,
    ) -> Struct:
        """Detect and measure.

        Parameters
        ----------
        science, matchedTemplate, difference : `lsst.afw.image.ExposureF`
            What was subtracted from what, and the result, on the same pixels; not modified.
        kernelSources : `lsst.afw.table.SourceCatalog`, optional
            Sources of the kernel, with footprints, for figures of quality.
        idFactory : `lsst.afw.table.IdFactory`, optional
            Source of identifiers; they count from 1 if not given.
        measurementResults : `lsst.pipe.base.Struct`, optional
            Is filled with results as they come, so that they are kept if an error is raised.

        Returns
        -------
        measurementResults : `lsst.pipe.base.Struct`
            - ``subtractedMeasuredExposure`` (`lsst.afw.image.ExposureF`): difference without background, with
              the detections in its mask, 0 where there is no data.
            - ``diaSources`` (`lsst.afw.table.SourceCatalog`).
            - ``differenceBackground`` (`lsst.afw.math.BackgroundList`).
            - ``glintTrailInfo`` (`dict`), if ``writeGlintInfo``; ``maskedStreaks`` (`dict`), if
              ``writeStreakInfo``.

        Raises
        ------
        lsst.pipe.base.UpstreamFailureNoWorkFound
            The PSF has no width.
        lsst.pipe.base.AlgorithmError
            Nothing was detected, or the subtraction is bad.
        """
        results = Struct() if measurementResults is None else measurementResults
        self._run_into(results, science, matchedTemplate, difference, kernelSources, idFactory)
        return results

    def _run_into(
        self,
        results: Struct,
        science: Any,
        matchedTemplate: Any,
        difference: Any,
        kernelSources: Any = None,
        idFactory: Any = None,
        scoreExposure: Any = None,
    ) -> None:
        """Detect, on a score image if there is one, and measure; fill ``results`` as they come."""
        exposure = self._prepare(difference)
        results.differenceBackground = self._subtract_background(exposure)
        self.stages.find_cosmic_rays(exposure)
        image = visit_image_from_afw(exposure, name="difference")
        significance = None
        if scoreExposure is not None:
            significance = significance_of(scoreExposure, level=difference.image.array - exposure.image.array)
            exposure.mask.array[...] |= bad_bits(scoreExposure.mask, self.config.badMaskPlanes)
        detected = self.detection.run(image, significance=significance)
        self._mark(exposure, detected)
        streaks = self.stages.mask_streaks(exposure)
        sources = self._measure(science, matchedTemplate, exposure, detected, idFactory)
        sources = self._removeBadSources(sources)
        if self.config.run_sattle:
            sources = self.filterSatellites(sources, science)
        trails = self.stages.find_glints(sources)
        no_data = plane_pixels(exposure.mask, "NO_DATA")
        exposure.image.array[no_data] = 0.0
        results.subtractedMeasuredExposure = exposure
        if self.config.writeGlintInfo:
            results.glintTrailInfo = trails
        if self.config.writeStreakInfo and self.config.doMaskStreaks:
            results.maskedStreaks = streaks
        if kernelSources is not None:
            self._record_quality(science, exposure, kernelSources)
        self._deliver(results, sources)

    def _prepare(self, difference: Any) -> Any:
        """Return a copy of the difference with its detections cleared."""
        psf = difference.getPsf()
        width = psf.computeShape(psf.getAveragePosition()).getDeterminantRadius()
        if not np.isfinite(width) or width <= 0:
            raise UpstreamFailureNoWorkFound(
                "The PSF of the difference has no width; nothing can be detected with it."
            )
        exposure = difference.clone()
        for name in self.config.clearMaskPlanes:
            exposure.mask.addMaskPlane(name)
        clear_planes(exposure.mask, self.config.clearMaskPlanes)
        return exposure

    def _subtract_background(self, exposure: Any) -> Any:
        """Subtract what is left of the background, from which a first detection keeps the sources away."""
        from lsst.afw.math import BackgroundList

        if not self.config.doSubtractBackground:
            return BackgroundList()
        first = exposure.clone()
        self.subtractInitialBackground.run(first)
        self._mark(exposure, self.detection.run(visit_image_from_afw(first, name="difference")))
        background = self.subtractFinalBackground.run(exposure).background
        clear_planes(exposure.mask, ("DETECTED", "DETECTED_NEGATIVE"))
        return background

    def _mark(self, exposure: Any, detected: Struct) -> None:
        """Set the planes of detections."""
        from lsst.images import Mask

        from ..adapters.masks import difference_mask_schema

        mask = Mask(schema=difference_mask_schema(), bbox=detected.score.bbox)
        mask.set("DETECTED", detected.positive)
        mask.set("DETECTED_NEGATIVE", detected.negative)
        for name in ("DETECTED", "DETECTED_NEGATIVE"):
            exposure.mask.addMaskPlane(name)
        merge_planes(exposure.mask, mask)

    def _measure(self, science: Any, template: Any, exposure: Any, detected: Struct, id_factory: Any) -> Any:
        """Measure the detections, and make the catalogue."""
        maker = DiaCatalogMaker(exposure, self.schema, id_factory)
        sky = self.stages.find_sky_positions(exposure)
        detections = vstack([detected.sources, as_detections(sky, detected.sources)])
        scale = getattr(detected, "scoreNoise", 1.0)
        image = visit_image_from_afw(exposure, name="difference")
        table = self.measurement.run(
            image,
            visit_image_from_afw(science, name="science"),
            visit_image_from_afw(template[exposure.getBBox()], name="template"),
            detections,
            **({} if scale == 1.0 else {"errorScale": scale}),
        ).diaSources
        force_positions(
            table, image, sky, first=len(detected.sources), planes=list(self.config.badMaskPlanes)
        )
        sources = maker.make(table, image, detected)
        self.metadata["nUnmergedDiaSources"] = len(table)
        self.metadata["nMergedDiaSources"] = len(sources)
        self.stages.apply_aperture_corrections(sources, exposure)
        return sources

    def _removeBadSources(self, diaSources: Any) -> Any:
        """Return the sources without those that have one of the bad flags."""
        keep = np.ones(len(diaSources), dtype=bool)
        for flag in self.config.badSourceFlags:
            keep &= ~np.asarray(diaSources[flag], dtype=bool)
        self.metadata["nRemovedBadFlaggedSources"] = int(np.count_nonzero(~keep))
        self.log.info("%d of %d sources removed for their flags.", np.count_nonzero(~keep), len(keep))
        return diaSources[keep].copy(deep=True)

    def filterSatellites(self, diaSources: Any, science: Any) -> Any:
        """Return the sources that the satellite service allows."""
        keep = find_allowed(diaSources, science, historical=self.config.sattle_historical)
        self.log.info("%d of %d sources removed as satellites.", np.count_nonzero(~keep), len(keep))
        return diaSources[keep].copy(deep=True)

    def _record_quality(self, science: Any, difference: Any, kernel_sources: Any) -> None:
        """Put figures into the metadata; refuse a bad subtraction."""
        for name in difference.mask.getMaskPlaneDict():
            self.metadata[f"{name.lower()}_mask_fraction"] = float(plane_pixels(difference.mask, name).mean())
        for sign, name in (("Positive", "DETECTED"), ("Negative", "DETECTED_NEGATIVE")):
            self.metadata[f"nPixelsDetected{sign}"] = int(plane_pixels(difference.mask, name).sum())
        bad = np.any([plane_pixels(difference.mask, p) for p in self.config.badMaskPlanes], axis=0)
        self.metadata["nGoodPixels"], self.metadata["nBadPixels"] = int((~bad).sum()), int(bad.sum())
        figures = footprint_ratios(science, difference, kernel_sources)
        mean, scatter = (figures[f"differenceFootprintRatio{kind}"] for kind in ("Mean", "Stdev"))
        self.metadata["residualFootprintRatioMean"], self.metadata["residualFootprintRatioStdev"] = (
            mean,
            scatter,
        )
        for name in ("differenceFootprintSkyRatioMean", "differenceFootprintSkyRatioStdev"):
            self.metadata[name] = figures[name]
        if self.config.raiseOnBadSubtractionRatio:
            for value, limit in (
                (mean, self.config.badSubtractionRatioThreshold),
                (scatter, self.config.badSubtractionVariationThreshold),
            ):
                if value > limit:
                    raise bad_subtraction(value, limit)

    def _deliver(self, results: Struct, sources: Any) -> None:
        """Hand out the catalogue, unless there is nothing in it."""
        n_sky = int(np.count_nonzero(sources["sky_source"]))
        self.log.info("Measured %d sources and %d sky sources.", len(sources) - n_sky, n_sky)
        if len(sources) == n_sky and self.config.raiseOnNoDiaSources:
            raise no_dia_sources()
        if len(sources) > 0:
            results.diaSources = sources


class DetectAndMeasureScoreTask(DetectAndMeasureTask):
    """Detect on a score image, measure on the difference; see ``DetectAndMeasureScoreTask`` of ip_diffim."""

    ConfigClass = DetectAndMeasureScoreConfig
    _DefaultName = "detectAndMeasureScore"
    config: DetectAndMeasureScoreConfig

    @timeMethod
    def run(  # type: ignore[override]
        self,
        science: Any,
        matchedTemplate: Any,
        difference: Any,
        scoreExposure: Any,
        kernelSources: Any,
        idFactory: Any = None,
    ) -> Struct:
        """Detect and measure.

        Parameters
        ----------
        science, matchedTemplate, difference, kernelSources, idFactory
            As for `DetectAndMeasureTask.run`.
        scoreExposure : `lsst.afw.image.ExposureF`
            Likelihood image of point sources: its pixels over the roots of their variances are significances.

        Returns
        -------
        measurementResults : `lsst.pipe.base.Struct`
            As for `DetectAndMeasureTask.run`.
        """
        results = Struct()
        self._run_into(results, science, matchedTemplate, difference, kernelSources, idFactory, scoreExposure)
        return results
