"""From a science and a template exposure to a difference image and its sources."""

from __future__ import annotations

__all__ = ("NOT_BUILT_YET", "ImageDifferenceConfig", "ImageDifferenceTask")

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lsst.pex.config import (
    Config,
    ConfigField,
    ConfigurableField,
    Field,
    FieldValidationError,
    RangeField,
)
from lsst.pipe.base import NoWorkFound, Struct
from lsst.utils.timer import timeMethod

from ..adapters.masks import set_plane
from ..algorithms.threads import get_num_threads, single_threaded_algebra
from ..algorithms.threads_nb import limit_compiled_threads
from . import exposure_checks as checks
from ._stand_ins import UnbuiltStageTask
from .coadd_exposure import coadd_visits
from .dataset_names import DatasetNamesConfig
from .deblend import DeblendTask
from .decorrelate import DecorrelateTask
from .detection import DetectionTask
from .difference_quality import DifferenceQualityConfig, DifferenceQualityTask
from .errors import TooManySourcesError, UnsuitableTemplateError
from .final_whitening import FinalWhiteningTask
from .forced_measurement import ForcedMeasurementTask
from .get_template import GetCalexpAsTemplateTask, restore_background
from .measurement import MeasurementTask
from .register import RegisterTask
from .scale_variance import ScaleVarianceTask
from .select_registry import selectTemplateRegistry
from .subtract import AlardLuptonSubtractTask

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage

NOT_BUILT_YET: tuple[tuple[str, bool, str], ...] = (
    ("doDebugRegister", False, "statistics of the re-registration"),
    ("doSelectSources", False, "choice of kernel stars from the science catalogue"),
    ("doSelectDcrCatalog", False, "very red and blue stars in the control sample"),
    ("doSelectVariableCatalog", False, "known variables in the control sample"),
    ("doSubtract", True, "detection on an existing difference image"),
    ("doPreConvolve", False, "convolution of the science image with its own PSF"),
    ("useGaussianForPreConvolution", False, "convolution of the science image before matching"),
    ("doMatchSources", False, "match of DIA sources with other catalogues"),
    ("doAddMetrics", False, "quality columns of kernel candidates"),
    ("doApplyFinalizedPsf", False, "the PSF of a finalVisitSummary"),
    ("kernelSourcesFromRef", False, "kernel stars from the reference catalogue"),
)
"""Fields whose stage is not there yet: name, the only value allowed, and the stage."""


class ImageDifferenceConfig(DifferenceQualityConfig):
    """Configuration of `ImageDifferenceTask`.

    Fields, meanings and (where the stage is there) defaults are those of the
    retired task of `lsst.pipe.tasks`, so that its override files load. A field
    whose stage is not there yet refuses to be switched on (`NOT_BUILT_YET`).
    """

    # Inputs
    doAddCalexpBackground = Field[bool](
        doc="Add the subtracted background back to the science exposure?",
        default=False,
    )
    datasets = ConfigField[DatasetNamesConfig](
        doc="Names of the datasets where they are not Gen2's.", dtype=DatasetNamesConfig
    )
    coaddName = Field[str](doc="Prefix of the names of template and output datasets.", default="deep")
    requireSameBand = Field[bool](
        doc="Refuse a template taken in another band? If not, there is a warning.", default=False
    )
    requiredTemplateFraction = RangeField[float](
        doc="There is no work if the template covers less than this fraction; 0 = always try.",
        default=0.1,
        min=0.0,
        max=1.0,
    )
    doApplyFinalizedPsf = Field[bool](doc="Take the PSF from a finalVisitSummary?", default=False)

    # Registration and choice of kernel stars
    doUseRegister = Field[bool](doc="Register the template onto the science image by sources?", default=False)
    doDebugRegister = Field[bool](doc="Record offsets of blue, green and red stars?", default=False)
    doSelectSources = Field[bool](
        doc="Choose kernel stars from the science catalogue? If not, the subtract stage finds its own.",
        default=False,
    )
    doSelectDcrCatalog = Field[bool](doc="Add very red and blue stars to the control sample?", default=False)
    doSelectVariableCatalog = Field[bool](doc="Add known variables to the control sample?", default=False)
    kernelSourcesFromRef = Field[bool](doc="Match kernel stars to the reference catalogue?", default=False)
    controlStepSize = RangeField[int](
        doc="Every so manieth selected star is a control star (needs doSelectSources).", default=5, min=1
    )
    controlRandomSeed = Field[int](doc="Seed of the shuffle before (needs doSelectSources).", default=10)
    templateSipOrder = RangeField[int](
        doc="SIP order of a fitted template WCS (needs doUseRegister).", default=2, min=0
    )

    # Subtraction
    doSubtract = Field[bool](doc="Subtract? If not, an existing difference is measured.", default=True)
    convolveTemplate = Field[bool](
        doc="If False, the science image is convolved; if True, subtract.mode decides, "
        "which by default convolves the template.",
        default=True,
    )
    doPreConvolve = Field[bool](doc="Convolve the science image with its PSF first?", default=False)
    useGaussianForPreConvolution = Field[bool](doc="... with a Gaussian of its width?", default=False)
    useScoreImageDetection = Field[bool](
        doc="Detect on the likelihood image? Detection always does here; for override files.", default=False
    )
    doScaleTemplateVariance = Field[bool](
        doc="Scale the template's variance plane to the scatter of its pixels before the subtraction?",
        default=False,
    )
    doScaleDiffimVariance = Field[bool](
        doc="Scale the difference's variance plane to the scatter of its pixels?", default=True
    )
    doDecorrelation = Field[bool](doc="Whiten the noise of the difference image?", default=True)
    doFinalWhitening = Field[bool](
        doc="Undo the correlation of the noise that blank sky still shows, as where inputs were resampled?",
        default=False,
    )
    doSpatiallyVarying = Field[bool](
        doc="Whiten with the kernel and noise of each position? It is always done; for override files.",
        default=False,
    )

    # Detection and measurement
    doDetection = Field[bool](doc="Detect sources on the difference image?", default=True)
    doMerge = Field[bool](doc="Merge positive and negative footprints after growing?", default=True)
    growFootprint = RangeField[int](doc="Pixels by which footprints grow before merging.", default=2, min=0)
    doDeblend = Field[bool](doc="Look for second sources under the detected peaks?", default=True)
    doMeasurement = Field[bool](doc="Measure the detected sources?", default=True)
    doForcedMeasurement = Field[bool](
        doc="Measure PSF fluxes on the science and template images at the DIA sources?", default=True
    )
    doDipoleFitting = Field[bool](doc="Fit dipoles?", default=True)
    doApCorr = Field[bool](doc="Apply aperture corrections?", default=True)
    doMatchSources = Field[bool](
        doc="Match DIA sources with the science and reference catalogues?", default=False
    )
    diaSourceMatchRadius = RangeField[float](
        doc="Radius of that match, arcsec (needs doMatchSources).", default=0.5, min=0.0
    )
    doAddMetrics = Field[bool](doc="Add quality columns of the kernel candidates?", default=False)

    # Outputs
    doWriteSubtractedExp = Field[bool](doc="Write the difference image?", default=True)
    doWriteWarpedExp = Field[bool](doc="Write the template on the science grid, not matched?", default=False)
    doWriteMatchedExp = Field[bool](doc="Write the template matched in PSF?", default=False)
    doWriteScoreExp = Field[bool](doc="Write the likelihood image?", default=False)
    doWriteSources = Field[bool](doc="Write the catalogue of DIA sources?", default=True)

    # Stages
    selectTemplate: Any = selectTemplateRegistry.makeField(
        doc="Choice of the template among several visits.", default="explicit"
    )
    getTemplate: Any = ConfigurableField(doc="Template on the science grid.", target=GetCalexpAsTemplateTask)
    subtract: Any = ConfigurableField(doc="PSF matching and subtraction.", target=AlardLuptonSubtractTask)
    decorrelate: Any = ConfigurableField(doc="Whitening of the noise.", target=DecorrelateTask)
    finalWhitening: Any = ConfigurableField(
        doc="Whitening of what correlation is left.", target=FinalWhiteningTask
    )
    scaleVariance: Any = ConfigurableField(doc="Scaling of variance planes.", target=ScaleVarianceTask)
    detection: Any = ConfigurableField(doc="Detection of DIA sources.", target=DetectionTask)
    deblend: Any = ConfigurableField(doc="Separation of sources under one peak.", target=DeblendTask)
    measurement: Any = ConfigurableField(doc="Measurement of DIA sources.", target=MeasurementTask)
    forcedMeasurement: Any = ConfigurableField(
        doc="PSF fluxes at given positions, for tasks that have some.", target=ForcedMeasurementTask
    )
    register: Any = ConfigurableField(
        doc="Registration of the template by stars (needs doUseRegister).", target=RegisterTask
    )
    astrometer: Any = ConfigurableField(doc="Match to a catalogue; not built yet.", target=UnbuiltStageTask)
    refObjLoader: Any = ConfigurableField(doc="Reference catalogue; not built yet.", target=UnbuiltStageTask)
    sourceSelector: Any = ConfigurableField(doc="Choice of stars; not built yet.", target=UnbuiltStageTask)
    applyApCorr: Any = ConfigurableField(doc="Aperture corrections; not built yet.", target=UnbuiltStageTask)

    def validate(self) -> None:
        """Check what single fields cannot: stages that are not there, and combinations."""
        super().validate()
        for name, allowed, stage in NOT_BUILT_YET:
            value = getattr(self, name)
            if value != allowed:
                self._refuse(
                    name, f"{name}={value} asks for {stage}, which is not built yet; set it to {allowed}."
                )
        for name in ("doMeasurement", "doSkySources"):
            if getattr(self, name) and not self.doDetection:
                self._refuse(name, f"{name}=True needs doDetection=True; set both or neither.")
        if self.doScaleTemplateVariance and self.doScaleDiffimVariance:
            self._refuse(
                "doScaleTemplateVariance",
                "doScaleTemplateVariance and doScaleDiffimVariance exclude each other; unset one of them.",
            )

    def _refuse(self, name: str, message: str) -> None:
        raise FieldValidationError(type(self)._fields[name], self, message)


class ImageDifferenceTask(DifferenceQualityTask):
    """Subtract a template from a science exposure; detect and measure what is left.

    Notes
    -----
    No repository is needed::

        task = ImageDifferenceTask()
        result = task.run(science, template)
        result.subtractedExposure.write("difference.fits")

    The exposures are `lsst.images.VisitImage` objects and are not modified.
    Figures on the quality are in ``task.getFullMetadata()``.
    """

    ConfigClass = ImageDifferenceConfig
    _DefaultName = "imageDifference"
    config: ImageDifferenceConfig
    getTemplate: Any
    register: Any
    subtract: Any
    decorrelate: Any
    finalWhitening: Any
    scaleVariance: Any
    detection: Any
    deblend: Any
    measurement: Any
    forcedMeasurement: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.makeSubtask("getTemplate")
        if self.config.doUseRegister:
            self.makeSubtask("register")
        self._make_subtask(
            "subtract", **({} if self.config.convolveTemplate else {"mode": "convolveScience"})
        )
        if self.config.doDecorrelation:
            self.makeSubtask("decorrelate")
        if self.config.doFinalWhitening:
            self.makeSubtask("finalWhitening")
        self.makeSubtask("scaleVariance")
        if self.config.doDetection:
            self._make_subtask(
                "detection", doMerge=self.config.doMerge, growFootprint=self.config.growFootprint
            )
        if self.config.doDeblend:
            self.makeSubtask("deblend")
        if self.config.doForcedMeasurement:
            self.makeSubtask("forcedMeasurement")
        if self.config.doMeasurement:
            self._make_subtask(
                "measurement",
                doForcedMeasurement=self.config.doForcedMeasurement,
                doDipoleFitting=self.config.doDipoleFitting,
                doApCorr=self.config.doApCorr,
            )
        self.make_quality_subtasks()

    def _make_subtask(self, name: str, **values: Any) -> None:
        """Make a subtask to which some fields of this task's configuration are passed down."""
        field = getattr(self.config, name)
        config = field.value.copy()
        for key, value in values.items():
            if key in config:
                setattr(config, key, value)
        setattr(self, name, field.target(config=config, name=name, parentTask=self))

    @timeMethod
    @single_threaded_algebra
    def run(
        self,
        exposure: VisitImage,
        templateExposure: VisitImage,
        selectSources: Any = None,
        idFactory: int | Callable[[], int] | None = None,
    ) -> Struct:
        """Subtract, detect and measure.

        Parameters
        ----------
        exposure : `lsst.images.VisitImage`
            Science exposure, calibrated, with PSF, variance and mask.
        templateExposure : `lsst.images.VisitImage`
            Template, on any pixel grid that overlaps.
        selectSources : `astropy.table.Table`, optional
            Stars for the matching kernel with pixel positions ``x`` and ``y``
            in the frame of ``exposure``; found on the images if not given.
        idFactory : `int` or callable, optional
            First ``diaSourceId``, or a function that returns it; 1 by default.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``subtractedExposure`` (`lsst.images.DifferenceImage`): science minus matched template, in
              the units and on the pixels of the science exposure.
            - ``matchedExposure``: template matched in PSF (or as it was, if the science image was convolved).
            - ``warpedExposure``: template on the science grid, not matched.
            - ``scoreExposure``: significance image of the detection, or `None`.
            - ``subtractRes`` (`lsst.pipe.base.Struct`): what else the subtract stage returned; its
              ``difference`` is the ``subtractedExposure``.
            - ``diaSources`` (`astropy.table.Table`): the sources, or `None`.
            - ``selectSources``: stars that the kernel was made from.
            - ``metrics`` (`dict`): figures of quality by name, ``verdict`` and ``reasons``, or `None`.
            - ``spatiallySampledMetrics`` (`astropy.table.Table`): figures at positions all over the image, or
              `None`.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If template and science exposure have too little in common.
        ImageDifferenceError
            If an exposure cannot be used, or an algorithm could not do its work on these data.
        BadSubtractionError
            If too much of the stars is left and ``raiseOnBadSubtractionRatio`` is set; its
            ``partial_outputs`` is what would have been returned.
        """
        limit_compiled_threads(get_num_threads())
        checks.require_psf(exposure, "science")
        checks.require_psf(templateExposure, "template")
        self._compare_exposures(exposure, templateExposure)
        science = self._prepare(exposure, "science")
        template = self._get_template(science, templateExposure)
        subtracted = self.subtract.run(template, science, sources=selectSources)
        difference = self._finish_difference(science, template, subtracted)
        # One large image less to hold; nothing that it said is lost.
        subtracted.difference = difference
        score, diaSources, errorScale = self._find_sources(difference, science, subtracted, idFactory)
        result = Struct(
            subtractedExposure=difference,
            matchedExposure=subtracted.matchedTemplate,
            warpedExposure=template,
            scoreExposure=score,
            subtractRes=subtracted,
            diaSources=diaSources,
            selectSources=subtracted.kernelSources if selectSources is None else selectSources,
            metrics=None,
            spatiallySampledMetrics=None,
        )
        self.assess_results(result, science, errorScale)
        return result

    def _compare_exposures(self, exposure: VisitImage, template: VisitImage) -> None:
        """Refuse a template that is or holds the science exposure, or of another band where that matters."""
        if checks.same_pixels(exposure, template):
            raise UnsuitableTemplateError(
                "The template is the science exposure itself; give another visit as the template."
            )
        visit = exposure.obs_info.visit_id
        if visit is not None and visit in coadd_visits(template):
            raise UnsuitableTemplateError(
                f"Visit {visit} is part of the coadd that is its template, so that what changed is in both; "
                "give a coadd of others (excludeVisits, minMJD and maxMJD of selectVisits choose them).",
                visit=visit,
            )
        if exposure.band == template.band:
            return
        message = f"The science exposure is in band {exposure.band}, the template in band {template.band}"
        if self.config.requireSameBand:
            raise UnsuitableTemplateError(
                f"{message}; choose a template in band {exposure.band}, or set requireSameBand=False.",
                scienceBand=exposure.band,
                templateBand=template.band,
            )
        self.log.warning("%s; sources of unusual colour will not subtract.", message)

    def _prepare(self, exposure: VisitImage, role: str) -> VisitImage:
        """Return an exposure whose unusable pixels are masked; the exposure itself if they were."""
        if role == "science" and self.config.doAddCalexpBackground:
            exposure = restore_background(exposure, role)
        prepared, flaws = checks.mask_flaws(exposure)
        if flaws:
            self.log.warning("The %s exposure has %s; masked.", role, flaws)
        self.metadata[f"{role}NonFinitePixels"] = flaws.n_not_finite
        self.metadata[f"{role}BadVariancePixels"] = flaws.n_bad_variance
        checks.require_good_pixels(prepared, role)
        return self.repair(prepared, role)

    def _get_template(self, science: VisitImage, templateExposure: VisitImage) -> VisitImage:
        """Return the template on the science grid, if it covers enough of it."""
        template = self._prepare(templateExposure, "template")
        if self.config.doUseRegister:
            template = self.register.run(template, science).registered
        template = self.getTemplate.run(science, [template]).template
        fraction = checks.covered_fraction(template)
        self.metadata["templateCoveragePercent"] = 100.0 * fraction
        required = self.config.requiredTemplateFraction
        if fraction < required or fraction == 0.0:
            raise NoWorkFound(
                f"The template covers {100 * fraction:.1f} percent of the science exposure, less than the "
                f"{100 * required:.1f} percent required (requiredTemplateFraction)."
            )
        if self.config.doScaleTemplateVariance:
            scaled = self.scaleVariance.run(template)
            self.metadata["scaleTemplateVarianceFactor"] = scaled.factor
            template = scaled.scaled
        return template

    def _finish_difference(
        self, science: VisitImage, template: VisitImage, subtracted: Struct
    ) -> DifferenceImage:
        """Whiten the noise and scale the variance, as configured.

        The difference is the task's own by now: no stage needs a copy of it.
        """
        difference = subtracted.difference
        if self.config.doDecorrelation and not getattr(subtracted, "whitened", False):
            difference = self.decorrelate.run(
                science,
                template,
                difference,
                subtracted.psfMatchingKernel,
                templateMatched=subtracted.convolvedTemplate,
            ).correctedExposure
        if self.config.doFinalWhitening:
            difference = self.finalWhitening.run(difference).whitened
        if self.config.doScaleDiffimVariance:
            scaled = self.scaleVariance.run(difference, inPlace=True)
            self.metadata["scaleDiffimVarianceFactor"] = scaled.factor
            difference = scaled.scaled
        excess = getattr(subtracted, "excessVariance", None)
        if excess is not None:
            difference.variance.array += excess
            subtracted.excessVariance = None  # it is in the variance plane now
        return self.subtract_background(difference, subtracted.matchedTemplate.image.array)

    def _find_sources(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        subtracted: Struct,
        idFactory: int | Callable[[], int] | None,
    ) -> tuple[Any, Any, float]:
        """Detect and measure, as configured; return score image, sources and the factor on their errors."""
        if not self.config.doDetection:
            self.mask_streaks(difference)
            return None, None, 1.0
        detected = self.detection.run(difference, **_astrometric_noise(subtracted))
        set_plane(difference.mask, "DETECTED", detected.positive)
        set_plane(difference.mask, "DETECTED_NEGATIVE", detected.negative)
        self.mask_streaks(difference)
        sources = detected.sources
        if self.config.doDeblend:
            sources = self.deblend.run(difference, sources).sources
        scale = getattr(detected, "scoreNoise", 1.0)
        if not self.config.doMeasurement:
            return detected.score, sources, scale
        _check_number(len(sources), idFactory)
        first = idFactory() if callable(idFactory) else idFactory
        first = 1 if first is None else int(first)
        measured = self.measurement.run(
            difference,
            science,
            subtracted.matchedTemplate,
            sources,
            idBase=first,
            **({} if scale == 1.0 else {"errorScale": scale}),
        )
        self.metadata["nDiaSources"] = len(measured.diaSources)
        sources = self.score_reliability(measured.diaSources, difference, science, subtracted.matchedTemplate)
        return detected.score, self.add_sky_sources(sources, difference, scale, first), scale


def _check_number(number: int, id_factory: Any) -> None:
    """Raise if an image has more sources than there are identifiers for it, where that is known."""
    most = getattr(id_factory, "max_sources", None)
    if most is not None and number > most:
        raise TooManySourcesError(
            f"There are {number} detections, and identifiers for {most} in an image; raise "
            "detection.thresholdValue, or find out why so much is left in the difference.",
            nDetections=number,
            maxSources=most,
        )


def _astrometric_noise(subtracted: Struct) -> dict[str, Any]:
    """Return what detection has to know of displaced static sources; nothing if there are none."""
    jitter = getattr(subtracted, "astrometricScatter", 0.0)
    if not jitter > 0.0:
        return {}
    matched = subtracted.matchedTemplate
    return {"jitter": jitter, "light": matched.image.array - subtracted.backgroundModel.render().array}
