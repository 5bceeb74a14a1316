"""The subtraction of this package in the place of the stack's."""

from __future__ import annotations

__all__ = ("AlardLuptonSubtractTask",)

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    QuantumContext,
    Struct,
)
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels
from ..algorithms.noise import fit_sky
from ..algorithms.spatial import chebyshev_image
from ..tasks import exposure_checks as checks
from ..tasks.errors import InsufficientKernelSourcesError as TooFewStarsError
from .errors import MismatchedExposuresError, insufficient_kernel_sources
from .exposures import box_from_afw, merge_planes, plane_pixels, put_pixels, visit_image_from_afw
from .figures import covered_fraction, footprint_ratios, limiting_magnitude, mean_psf_fwhm, psf_fwhm
from .kernel_config import make_engine_config
from .kernel_sources import (
    keep_brightest,
    make_source_catalog,
    minimal_schema,
    select_kernel_sources,
    source_table,
)
from .planes import prepare_science_mask, prepare_template_mask
from .psfs import psf_to_afw
from .subtract_config import AlardLuptonSubtractConfig
from .unused_fields import find_unused_settings

_SKY_CELL = 64
_SKY_ORDER = 2
# Planes that a convolution spreads or that the subtraction finds out itself.
_SPREAD = ("NO_DATA", "BAD", "SATURATED", "SAT_TEMPLATE", "DETECTION_EDGE")


@dataclass(frozen=True)
class _Pair:
    """Copies of the two exposures, as they enter the subtraction.

    Attributes
    ----------
    science, template : `lsst.afw.image.ExposureF`
        On the same pixels; their mask planes are those of which a difference is made.
    science_image, template_image : `lsst.images.VisitImage`
        The same for the tasks of this package, with all planes, unusable pixels masked.
    template_planes : `tuple` [`str`, ...]
        Planes (afw names) that the difference takes over from the template.
    """

    science: Any
    template: Any
    science_image: Any
    template_image: Any
    template_planes: tuple[str, ...]


class AlardLuptonSubtractTask(PipelineTask):
    """Subtract a template, with the interface of ``lsst.ip.diffim.subtractImages.AlardLuptonSubtractTask``.

    Notes
    -----
    The same configuration, connections, arguments and results, in afw types, so that a pipeline's ``class:``
    line or a ``retarget`` puts it in the other's place; doc/stack.md says where the two differ. Unlike the
    stack's task this one leaves its inputs as they are.
    """

    ConfigClass = AlardLuptonSubtractConfig
    _DefaultName = "alardLuptonSubtract"
    config: AlardLuptonSubtractConfig
    usePreconvolution = False
    makeKernel: Any
    decorrelate: Any
    sourceSelector: Any
    scaleVariance: Any
    engine: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("makeKernel", "sourceSelector", "fallbackSourceSelector"):
            self.makeSubtask(name)
        if self.config.doDecorrelation:
            self.makeSubtask("decorrelate")
        if self.config.doScaleVariance:
            self.makeSubtask("scaleVariance")
        engine = self.config.engine.target
        self.engine = engine(config=make_engine_config(self.config), name="engine", parentTask=self)
        self.templatePsfSize = self.sciencePsfSize = self.matchedPsfSize = float("nan")
        self._warn_of_unused_settings()

    def _warn_of_unused_settings(self) -> None:
        config = self.config
        for part, prefix in (
            (config, ""),
            (config.makeKernel.kernel.active, "makeKernel.kernel.active."),
            (config.decorrelate.value, "decorrelate."),
        ):
            for sentence in find_unused_settings(part, prefix):
                self.log.warning("%s", sentence)

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read, run, write; an algorithm that could not do its work is reported as such."""
        inputs = butlerQC.get(inputRefs)
        try:
            results = self.run(**inputs)
        except AlgorithmError as error:
            raise AnnotatedPartialOutputsError.annotate(error, self, log=self.log) from error
        butlerQC.put(results, outputRefs)

    @timeMethod
    def run(self, template: Any, science: Any, sources: Any, visitSummary: Any = None) -> Struct:
        """Subtract.

        Parameters
        ----------
        template, science : `lsst.afw.image.ExposureF`
            Exposures of one band on the same WCS; the template covers all pixels of the science exposure.
            They are not modified.
        sources : `lsst.afw.table.SourceCatalog` or `None`
            Sources of the science exposure, from which stars for the kernel are chosen; `None` to have them
            found on the image.
        visitSummary : `lsst.afw.table.ExposureCatalog`, optional
            PSF and aperture corrections that take the place of the science exposure's, by detector number.

        Returns
        -------
        results : `lsst.pipe.base.Struct`
            - ``difference`` (`lsst.afw.image.ExposureF`): all but pixels and PSF is the science exposure's;
              no pixel is NaN.
            - ``matchedTemplate``, ``matchedScience`` (`lsst.afw.image.ExposureF`): what was subtracted from
              what, before whitening.
            - ``backgroundModel`` (`lsst.afw.math.Chebyshev1Function2D`): background that the difference is
              free of, `None` unless ``doSubtractBackground``.
            - ``psfMatchingKernel`` (`lsst.afw.math.LinearCombinationKernel`).
            - ``kernelSources`` (`lsst.afw.table.SourceCatalog`): stars of the kernel, with footprints.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            Too little of the template has data.
        AssertionError
            The exposures do not belong together.
        lsst.pipe.base.AlgorithmError
            Too few stars, or an unusable exposure.
        """
        return self._subtract(
            template, science, visitSummary, partial(self._match_and_subtract, sources=sources), sources
        )

    def _subtract(
        self,
        template: Any,
        science: Any,
        visit_summary: Any,
        match: Callable[[_Pair, str], tuple[Any, Struct]],
        sources: Any = None,
    ) -> Struct:
        """Subtract with what ``match`` makes of a pair and a mode: stars of a kernel, if any, and results."""
        self._validate_exposures(template, science)
        coverage = self._require_coverage(template[science.getBBox()], science)
        pair = self._prepare_pair(template, science, visit_summary)
        self._measure_psfs(pair)
        mode = self._choose_mode(pair)
        try:
            kernel_sources, result = match(pair, mode)
        except (AlgorithmError, ValueError) as error:
            limit = self.config.minTemplateFractionForExpectedSuccess
            if coverage < limit:
                raise NoWorkFound(
                    f"The template covers {100 * coverage:.1f} percent of the science exposure, less than "
                    f"the {100 * limit:.1f} percent with which success can be expected, and failed: {error}"
                ) from error
            raise
        results = self._assemble(pair, result)
        if kernel_sources is not None:
            results.kernelSources = kernel_sources
        stars = sources if sources is not None else kernel_sources
        if stars is not None:
            for name, value in footprint_ratios(science, results.difference, stars).items():
                self.metadata[name] = value
        return results

    def _validate_exposures(self, template: Any, science: Any) -> None:
        """Refuse exposures that do not belong together."""
        if template.getWcs() != science.getWcs():
            raise MismatchedExposuresError(
                "Template and science exposure have not the same WCS; warp the template first."
            )
        bands = science.getFilter().bandLabel, template.getFilter().bandLabel
        if bands[0] != bands[1]:
            raise MismatchedExposuresError(
                f"The science exposure is in band {bands[0]}, the template in band {bands[1]}; "
                f"choose a template in band {bands[0]}."
            )
        if not template.getBBox().contains(science.getBBox()):
            raise MismatchedExposuresError(
                f"The pixels of the template, {box_from_afw(template.getBBox())}, do not contain those of "
                f"the science exposure, {box_from_afw(science.getBBox())}; warp the template onto them."
            )

    def _require_coverage(self, template: Any, science: Any) -> float:
        """Return the fraction of pixels with data in both."""
        fraction = covered_fraction(template, science)
        self.metadata["templateCoveragePercent"] = 100.0 * fraction
        required = self.config.requiredTemplateFraction
        if fraction < required:
            raise NoWorkFound(
                f"The template covers {100 * fraction:.1f} percent of the science exposure, less than the "
                f"{100 * required:.1f} percent required (requiredTemplateFraction)."
            )
        return fraction

    def _prepare_pair(self, template: Any, science: Any, visit_summary: Any) -> _Pair:
        """Copy the exposures, mask unusable pixels, scale variances, sort mask planes."""
        science, template = science.clone(), template[science.getBBox()].clone()
        if visit_summary is not None:
            self._apply_calibrations(science, visit_summary)
        images = []
        for exposure, role in ((science, "Science"), (template, "Template")):
            image, flaws = checks.mask_flaws(visit_image_from_afw(exposure, name=role.lower()))
            if flaws:
                self.log.warning("The %s exposure has %s; masked.", role.lower(), flaws)
            checks.require_good_pixels(image, role.lower())
            if self.config.doScaleVariance:
                factor = self.scaleVariance.run(_without_sky(image)).factor
                self.metadata[f"scale{role}VarianceFactor"] = factor
                exposure.variance.array[...] *= np.float32(factor)
                if not np.shares_memory(image.variance.array, exposure.variance.array):
                    image.variance.array[...] *= np.float32(factor)
            images.append(image)
        prepare_science_mask(science.mask)
        planes = prepare_template_mask(
            template.mask,
            preserve=list(self.config.preserveTemplateMask),
            rename=list(self.config.renameTemplateMask),
        )
        return _Pair(science, template, images[0], images[1], planes)

    def _apply_calibrations(self, science: Any, visit_summary: Any) -> None:
        """Take PSF and aperture corrections from the summary of the visit, if it has both."""
        number = science.getDetector().getId()
        row = visit_summary.find(number)
        if row is None:
            self.log.warning("visitSummary has no detector %s; the exposure keeps its calibrations.", number)
            return
        psf, corrections = row.getPsf(), row.getApCorrMap()
        if psf is None or corrections is None:
            missing = "PSF" if psf is None else "aperture corrections"
            self.log.warning(
                "visitSummary has no %s for detector %s; the exposure keeps its own.", missing, number
            )
            return
        science.setPsf(psf)
        science.info.setApCorrMap(corrections)

    def _measure_psfs(self, pair: _Pair) -> None:
        """Measure PSF sizes and depths as the stack defines them."""
        from lsst.pex.exceptions import Exception as StackException

        try:
            sizes = [psf_fwhm(exposure.getPsf()) for exposure in (pair.template, pair.science)]
        except StackException:
            # The sentence that tests of the stack look for.
            self.log.info(
                "Unable to evaluate PSF at the average position. Evaluting PSF on a grid of points."
            )
            config = self.config.makeKernel
            sizes = [
                mean_psf_fwhm(e, grid=config.fwhmExposureGrid, buffer=config.fwhmExposureBuffer)
                for e in (pair.template, pair.science)
            ]
        self.templatePsfSize, self.sciencePsfSize = sizes
        self.metadata["sciencePsfSize"] = self.sciencePsfSize
        self.metadata["templatePsfSize"] = self.templatePsfSize
        depths = {
            "science": self._calculateMagLim(pair.science, fallbackPsfSize=self.sciencePsfSize),
            "template": self._calculateMagLim(pair.template, fallbackPsfSize=self.templatePsfSize),
        }
        limits = [float(10 ** (-0.4 * depth)) for depth in depths.values() if not np.isnan(depth)]
        depths["diffim"] = (
            float(-2.5 * np.log10(np.hypot(limits[0], limits[1]))) if len(limits) == 2 else depths["science"]
        )
        for name, depth in depths.items():
            self.metadata[f"{name}LimitingMagnitude"] = depth

    def _calculateMagLim(
        self, exposure: Any, nsigma: float = 5.0, fallbackPsfSize: float | None = None
    ) -> float:
        """Return the stack's limiting magnitude of an exposure."""
        depth = limiting_magnitude(exposure, self.log, fallback_fwhm=fallbackPsfSize)
        return depth - 2.5 * float(np.log10(nsigma / 5.0))

    def _choose_mode(self, pair: _Pair) -> str:
        """Return which image is convolved, ``convolveTemplate`` or ``convolveScience``."""
        mode = getattr(self.config, "mode", "convolveTemplate")
        if mode == "auto":
            mode = "convolveTemplate" if self._template_is_narrower(pair) else "convolveScience"
        self.matchedPsfSize = self.sciencePsfSize if mode == "convolveTemplate" else self.templatePsfSize
        return mode

    def _template_is_narrower(self, pair: _Pair) -> bool:
        """Tell whether the template's PSF is not wider along at least one axis, as the stack asks."""
        from lsst.pex.exceptions import InvalidParameterError, RangeError

        try:
            ours, theirs = (
                psf.computeShape(psf.getAveragePosition())
                for psf in (pair.template.getPsf(), pair.science.getPsf())
            )
        except (InvalidParameterError, RangeError):
            return self.templatePsfSize <= self.sciencePsfSize
        return bool(ours.getIxx() <= theirs.getIxx() or ours.getIyy() <= theirs.getIyy())

    def _match_and_subtract(self, pair: _Pair, mode: str, sources: Any) -> tuple[Any, Struct]:
        """Choose stars, make the kernel, subtract and whiten."""
        kernel_sources = None
        if sources is not None:
            kernel_sources = self._sourceSelector(pair.template, pair.science, sources)
        self.engine.config.mode = mode
        table = source_table(kernel_sources) if kernel_sources is not None else None
        try:
            result = self.engine.run(pair.template_image, pair.science_image, sources=table)
        except TooFewStarsError as error:
            raise insufficient_kernel_sources(
                error.numbers["nSources"], error.numbers["nRequired"]
            ) from error
        if kernel_sources is None:
            used = result.kernelSources[result.kernelSources["used"]]
            schema = sources.schema if sources is not None else minimal_schema()
            kernel_sources = make_source_catalog(schema, used, half=self._kernel_size())
        self.metadata["nPsfSources"] = len(kernel_sources)
        self.metadata["convolvedExposure"] = self.engine.metadata["convolvedExposure"]
        return kernel_sources, self._whiten(pair, result)

    def _whiten(self, pair: _Pair, result: Struct) -> Struct:
        """Return results with a white difference, if that is asked for, and ``unwhitened``."""
        result.unwhitened = result.difference
        if self.config.doDecorrelation and not result.whitened:
            result.difference = self.decorrelate.run(
                pair.science_image,
                pair.template_image,
                result.difference,
                result.psfMatchingKernel,
                templateMatched=result.convolvedTemplate,
            ).correctedExposure
            result.whitened = True
        return result

    def _kernel_size(self) -> int:
        target = self.matchedPsfSize
        convolved = self.templatePsfSize if target == self.sciencePsfSize else self.sciencePsfSize
        return int(self.makeKernel.kernel_size(fwhm_convolved=convolved, fwhm_target=target))

    def _sourceSelector(self, template: Any, science: Any, sources: Any) -> Any:
        """Choose stars for the kernel from a catalogue.

        Returns
        -------
        sources : `lsst.afw.table.SourceCatalog` or `None`
            Stars with square footprints; `None` if they are too few and the subtraction may find its own.
        """
        config, size = self.config, self._kernel_size()
        chosen = select_kernel_sources(
            sources,
            self.sourceSelector.selectSources(sources).selected,
            (science.mask, template.mask[science.getBBox()]),
            kernel_size=size,
            exclude=list(config.excludeMaskPlanes),
            border=size if config.restrictKernelEdgeSources else 0,
        )
        chosen = keep_brightest(chosen, config.maxKernelSources)
        self.log.info("%d of %d sources can serve for the kernel.", len(chosen), len(sources))
        if len(chosen) >= config.minKernelSources:
            return chosen
        if config.allowKernelSourceDetection:
            self.log.warning(
                "The catalogue has %d sources for the kernel, %d are needed: stars are sought on the image.",
                len(chosen),
                config.minKernelSources,
            )
            return None
        raise insufficient_kernel_sources(len(chosen), config.minKernelSources)

    def _assemble(self, pair: _Pair, result: Struct) -> Struct:
        """Put the results into copies of the afw exposures."""
        box = pair.science_image.bbox
        background = result.backgroundModel.render(box, dtype=np.float32).array
        background -= result.templateBackground.render(box, dtype=np.float32).array
        keep = not self.config.doSubtractBackground
        difference, matched = pair.science.clone(), pair.template
        self._put_difference(difference, pair, result, background if keep else None)
        put_pixels(matched, result.matchedTemplate.image.array, result.matchedTemplate.variance.array)
        matched.setPhotoCalib(pair.science.photoCalib)
        if result.convolvedTemplate:
            matched.setPsf(pair.science.getPsf())
        self._spread_planes(matched, result, pair)
        return Struct(
            difference=difference,
            matchedTemplate=matched,
            matchedScience=self._match_science(pair, result),
            backgroundModel=None if keep else _background_function(result),
            psfMatchingKernel=result.psfMatchingKernel.to_legacy(),
        )

    def _put_difference(
        self, difference: Any, pair: _Pair, result: Struct, background: np.ndarray | None
    ) -> None:
        image, variance = result.difference.image.array, result.difference.variance.array
        excess = getattr(result, "excessVariance", None)
        if background is not None:
            no_data = result.difference.mask.get("NO_DATA")
            image = np.where(no_data, image, image + background)
        put_pixels(difference, image, variance if excess is None else variance + excess)
        for name in pair.template_planes:
            pixels = plane_pixels(pair.template.mask, name)
            difference.mask.array[pixels] |= np.asarray(
                difference.mask.getPlaneBitMask(name), dtype=difference.mask.array.dtype
            )
        keep = tuple(n for n in result.difference.mask.schema.names if n not in _SPREAD)
        merge_planes(difference.mask, result.difference.mask, skip=keep)
        if result.whitened:
            difference.setPsf(psf_to_afw(result.difference.psf, pair.science_image.bbox))
        elif not result.convolvedTemplate:
            difference.setPsf(pair.template.getPsf())

    def _spread_planes(self, matched: Any, result: Struct, pair: _Pair) -> None:
        """Mask in the matched template what its convolution has spoilt."""
        added = result.matchedTemplate.mask.copy()
        for name in _SPREAD:
            if name in pair.science_image.mask.schema.names:
                added.set(name, added.get(name) & ~pair.science_image.mask.get(name))
        keep = tuple(n for n in added.schema.names if n not in _SPREAD or n == "SATURATED")
        merge_planes(matched.mask, added, skip=keep)

    def _match_science(self, pair: _Pair, result: Struct) -> Any:
        """Return the science exposure as it was subtracted from."""
        if result.convolvedTemplate:
            return pair.science
        matched = pair.science.clone()
        template = result.matchedTemplate
        image = result.unwhitened.image.array + template.image.array
        variance = result.unwhitened.variance.array - template.variance.array
        put_pixels(matched, image, np.maximum(variance, np.finfo(np.float32).tiny))
        matched.setPsf(pair.template.getPsf())
        return matched


def _without_sky(image: Any) -> Any:
    """Return pixels and mask without the slope of the sky, which is no noise."""
    from lsst.images import Image, MaskedImage

    bad = bad_pixels(image.mask, ["NO_DATA", "BAD", "SAT", "DETECTED"]) | ~np.isfinite(image.image.array)
    pixels = np.where(bad, np.float32(0.0), image.image.array)
    size = min(_SKY_CELL, max(16, min(bad.shape) // 5))
    terms = fit_sky(pixels, bad, size=size, order=_SKY_ORDER)
    flat = pixels - chebyshev_image(terms, shape=bad.shape, order=_SKY_ORDER)
    flattened = Image(flat, bbox=image.bbox, unit=image.unit)
    return MaskedImage(flattened, mask=image.mask, variance=image.variance)


def _background_function(result: Struct) -> Any:
    """Return the background that the difference is free of as a function of afw."""
    from lsst.images.fields import ChebyshevField

    own, other = result.backgroundModel, result.templateBackground
    return ChebyshevField(own.bounds, own.coefficients - other.coefficients).to_legacy_function2()
