"""From a science and a template exposure to a difference image and its sources."""

from __future__ import annotations

__all__ = ("NOT_BUILT_YET", "ImageDifferenceConfig", "ImageDifferenceTask")

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lsst.pex.config import Config, ConfigurableField, Field, FieldValidationError, RangeField
from lsst.pipe.base import NoWorkFound, Struct, Task
from lsst.utils.timer import timeMethod

from ..algorithms.threads import get_num_threads
from ..algorithms.threads_nb import limit_compiled_threads
from . import exposure_checks as checks
from ._stand_ins import UnbuiltStageTask
from .decorrelate import DecorrelateTask
from .detection import DetectionTask
from .errors import UnsuitableTemplateError
from .final_whitening import FinalWhiteningTask
from .get_template import GetCalexpAsTemplateTask, restore_background
from .measurement import MeasurementTask
from .scale_variance import ScaleVarianceTask
from .subtract import AlardLuptonSubtractTask

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage

NOT_BUILT_YET: tuple[tuple[str, bool, str], ...] = (
    ("doUseRegister", False, "re-registration of the template by matched sources"),
    ("doDebugRegister", False, "statistics of the re-registration"),
    ("doSelectSources", False, "choice of kernel stars from the science catalogue"),
    ("doSelectDcrCatalog", False, "very red and blue stars in the control sample"),
    ("doSelectVariableCatalog", False, "known variables in the control sample"),
    ("doSubtract", True, "detection on an existing difference image"),
    ("doPreConvolve", False, "convolution of the science image with its own PSF"),
    ("useGaussianForPreConvolution", False, "convolution of the science image before matching"),
    ("useScoreImageDetection", False, "detection on the likelihood image"),
    ("doWriteScoreExp", False, "the likelihood image"),
    ("doMatchSources", False, "match of DIA sources with other catalogues"),
    ("doDipoleFitting", False, "fits of dipoles"),
    ("doApCorr", False, "aperture corrections"),
    ("doAddMetrics", False, "quality columns of kernel candidates"),
    ("doApplyFinalizedPsf", False, "the PSF of a finalVisitSummary"),
    ("doSpatiallyVarying", False, "decorrelation on a grid"),
    ("doSkySources", False, "sky sources"),
    ("kernelSourcesFromRef", False, "kernel stars from the reference catalogue"),
)
"""Fields whose stage is not there yet: name, the only value allowed, and the stage."""


class ImageDifferenceConfig(Config):
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
    useScoreImageDetection = Field[bool](doc="Detect on the likelihood image?", default=False)
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
    doSpatiallyVarying = Field[bool](doc="Whiten on a grid of positions?", default=False)

    # Detection and measurement
    doDetection = Field[bool](doc="Detect sources on the difference image?", default=True)
    doMerge = Field[bool](doc="Merge positive and negative footprints after growing?", default=True)
    growFootprint = RangeField[int](doc="Pixels by which footprints grow before merging.", default=2, min=0)
    doMeasurement = Field[bool](doc="Measure the detected sources?", default=True)
    doForcedMeasurement = Field[bool](
        doc="Measure PSF fluxes on the science and template images at the DIA sources?", default=True
    )
    doDipoleFitting = Field[bool](doc="Fit dipoles?", default=False)
    doApCorr = Field[bool](doc="Apply aperture corrections?", default=False)
    doSkySources = Field[bool](doc="Add sources at empty positions?", default=False)
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
    getTemplate: Any = ConfigurableField(doc="Template on the science grid.", target=GetCalexpAsTemplateTask)
    subtract: Any = ConfigurableField(doc="PSF matching and subtraction.", target=AlardLuptonSubtractTask)
    decorrelate: Any = ConfigurableField(doc="Whitening of the noise.", target=DecorrelateTask)
    finalWhitening: Any = ConfigurableField(
        doc="Whitening of what correlation is left.", target=FinalWhiteningTask
    )
    scaleVariance: Any = ConfigurableField(doc="Scaling of variance planes.", target=ScaleVarianceTask)
    detection: Any = ConfigurableField(doc="Detection of DIA sources.", target=DetectionTask)
    measurement: Any = ConfigurableField(doc="Measurement of DIA sources.", target=MeasurementTask)
    forcedMeasurement: Any = ConfigurableField(doc="Part of measurement so far.", target=UnbuiltStageTask)
    register: Any = ConfigurableField(doc="Registration; not built yet.", target=UnbuiltStageTask)
    astrometer: Any = ConfigurableField(doc="Match to a catalogue; not built yet.", target=UnbuiltStageTask)
    refObjLoader: Any = ConfigurableField(doc="Reference catalogue; not built yet.", target=UnbuiltStageTask)
    sourceSelector: Any = ConfigurableField(doc="Choice of stars; not built yet.", target=UnbuiltStageTask)
    applyApCorr: Any = ConfigurableField(doc="Aperture corrections; not built yet.", target=UnbuiltStageTask)
    skySources: Any = ConfigurableField(doc="Sky sources; not built yet.", target=UnbuiltStageTask)

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


class ImageDifferenceTask(Task):
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
    subtract: Any
    decorrelate: Any
    finalWhitening: Any
    scaleVariance: Any
    detection: Any
    measurement: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.makeSubtask("getTemplate")
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
        if self.config.doMeasurement:
            self._make_subtask("measurement", doForcedMeasurement=self.config.doForcedMeasurement)

    def _make_subtask(self, name: str, **values: Any) -> None:
        """Make a subtask to which some fields of this task's configuration are passed down."""
        field = getattr(self.config, name)
        config = field.value.copy()
        for key, value in values.items():
            if key in config:
                setattr(config, key, value)
        setattr(self, name, field.target(config=config, name=name, parentTask=self))

    @timeMethod
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
            - ``subtractRes`` (`lsst.pipe.base.Struct`): all that the subtract stage returned.
            - ``diaSources`` (`astropy.table.Table`): the sources, or `None`.
            - ``selectSources``: stars that the kernel was made from.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If template and science exposure have too little in common.
        ImageDifferenceError
            If an exposure cannot be used, or an algorithm could not do its work on these data.
        """
        limit_compiled_threads(get_num_threads())
        checks.require_psf(exposure, "science")
        checks.require_psf(templateExposure, "template")
        self._compare_exposures(exposure, templateExposure)
        science = self._prepare(exposure, "science")
        template = self._get_template(science, templateExposure)
        subtracted = self.subtract.run(template, science, sources=selectSources)
        difference = self._finish_difference(science, template, subtracted)
        score, diaSources = self._find_sources(difference, science, subtracted, idFactory)
        return Struct(
            subtractedExposure=difference,
            matchedExposure=subtracted.matchedTemplate,
            warpedExposure=template,
            scoreExposure=score,
            subtractRes=subtracted,
            diaSources=diaSources,
            selectSources=subtracted.kernelSources if selectSources is None else selectSources,
        )

    def _compare_exposures(self, exposure: VisitImage, template: VisitImage) -> None:
        """Refuse a template that is the science exposure itself, or of another band where that matters."""
        if checks.same_pixels(exposure, template):
            raise UnsuitableTemplateError(
                "The template is the science exposure itself; give another visit as the template."
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
        return prepared

    def _get_template(self, science: VisitImage, templateExposure: VisitImage) -> VisitImage:
        """Return the template on the science grid, if it covers enough of it."""
        template = self._prepare(templateExposure, "template")
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
        """Whiten the noise and scale the variance, as configured."""
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
            scaled = self.scaleVariance.run(difference)
            self.metadata["scaleDiffimVarianceFactor"] = scaled.factor
            difference = scaled.scaled
        excess = getattr(subtracted, "excessVariance", None)
        if excess is not None:
            difference = difference.copy()
            difference.variance.array += excess
        return difference

    def _find_sources(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        subtracted: Struct,
        idFactory: int | Callable[[], int] | None,
    ) -> tuple[Any, Any]:
        """Detect and measure, as configured; return the score image and the sources."""
        if not self.config.doDetection:
            return None, None
        detected = self.detection.run(difference)
        difference.mask.set("DETECTED", detected.positive)
        difference.mask.set("DETECTED_NEGATIVE", detected.negative)
        if not self.config.doMeasurement:
            return detected.score, detected.sources
        first = idFactory() if callable(idFactory) else idFactory
        scale = getattr(detected, "scoreNoise", 1.0)
        measured = self.measurement.run(
            difference,
            science,
            subtracted.matchedTemplate,
            detected.sources,
            idBase=1 if first is None else int(first),
            **({} if scale == 1.0 else {"errorScale": scale}),
        )
        self.metadata["nDiaSources"] = len(measured.diaSources)
        return detected.score, measured.diaSources
