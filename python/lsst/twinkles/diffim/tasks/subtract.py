"""Match a template to a science exposure in PSF, flux scale and background, and subtract it."""

from __future__ import annotations

__all__ = ("AlardLuptonSubtractConfig", "AlardLuptonSubtractTask")

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from lsst.pex.config import ChoiceField, Config, ConfigChoiceField, DictField, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels, set_plane
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.match.candidates import (
    KernelCandidates,
    find_candidates,
    select_candidates,
    share_among_cells,
)
from ..algorithms.match.match import MatchResult
from ..algorithms.match.solve import KernelSolveError
from ..algorithms.spatial import chebyshev_coefficients, chebyshev_image
from ..algorithms.subtract.matched import rim_error, spread_bad
from ..algorithms.subtract.prepare import PreparedImage, prepare_image
from ..algorithms.threads import get_num_threads, single_threaded_algebra
from .alard_lupton import AlardLuptonEngine
from .difference_image import make_difference_image, make_matched_image, merge_masks
from .engines import Exposures, Roles, Subtraction, scale_template_sky, template_scale
from .errors import InsufficientKernelSourcesError, NoKernelCandidatesError, UnusableExposureError
from .kernel import AlardLuptonKernelConfig, ZogyKernelConfig, make_settings
from .subtraction_figures import (
    footprint_ratios,
    limiting_magnitude,
    make_kernel_source_table,
    predicted_depth,
    registration_figures,
)
from .zogy import ZogyEngine

if TYPE_CHECKING:
    from lsst.images import Mask, VisitImage

    from ..algorithms.psf_grid import PsfGrid

_NOISE_CELL = 256


class AlardLuptonSubtractConfig(Config):
    """Configuration of `AlardLuptonSubtractTask`."""

    mode = ChoiceField[str](
        doc="Which image is convolved.",
        default="convolveTemplate",
        allowed={
            "convolveTemplate": "The template, whatever the seeing.",
            "convolveScience": "The science image; the difference stays on its flux scale.",
            "auto": "The one with the narrower PSF.",
        },
    )
    kernel = ConfigChoiceField(
        doc="Method: AL, the kernel of Alard & Lupton on one image, whitened afterwards; zogy, proper "
        "subtraction of Zackay et al. with a fitted correction, white by itself.",
        typemap={"AL": AlardLuptonKernelConfig, "zogy": ZogyKernelConfig},
        default="AL",
    )
    badMaskPlanes = ListField[str](
        doc="Planes whose pixels are not used for sky, noise and kernel.",
        default=["NO_DATA", "BAD", "SAT", "EDGE"],
    )
    holeMaskPlanes = ListField[str](
        doc="Planes whose pixels have no value and are interpolated before a convolution.",
        default=["NO_DATA", "BAD"],
    )
    excludeMaskPlanes = ListField[str](
        doc="A star with such a pixel in its core is not used for the kernel.",
        default=["NO_DATA", "BAD", "SAT", "EDGE", "FAKE", "HIGH_VARIANCE"],
    )
    preserveTemplateMask = ListField[str](
        doc="Template planes that are copied to the difference.", default=["NO_DATA", "BAD", "HIGH_VARIANCE"]
    )
    renameTemplateMask = DictField[str, str](
        doc="Template planes that are copied under another name.", default={"SAT": "SAT_TEMPLATE"}
    )
    kernelMaskLevel = RangeField[float](
        doc="A hole of the convolved image that could hide a star spoils the pixels to which the kernel "
        "carries it with more than this share of its peak.",
        default=0.1,
        min=0.0,
        max=1.0,
    )
    saturationLimit = RangeField[float](
        doc="A pixel to which the convolution carries more than this of what saturated and interpolated "
        "pixels may be wrong by, in standard deviations of the noise, is masked like them; less is added to "
        "the variance.",
        default=10.0,
        min=0.0,
    )
    rimLimit = RangeField[float](
        doc="A pixel at the rim is masked as an edge if more than this, in standard deviations of the noise, "
        "of what is subtracted there comes from beyond the rim, where the image is continued by reflection.",
        default=3.0,
        min=0.0,
    )
    detectionThreshold = RangeField[float](
        doc="Least signal-to-noise ratio, in 3 x 3 pixels of the science image, of a star for the kernel.",
        default=15.0,
        min=1.0,
    )
    minKernelSources = RangeField[int](doc="Fewest stars that make a kernel.", default=3, min=1)
    maxKernelSources = RangeField[int](
        doc="Most stars, the brightest; -1 for no limit.", default=1000, min=-1
    )
    backgroundCell = RangeField[int](
        doc="Side in pixels of the cells whose medians make the background.", default=64, min=16
    )
    noiseRatioLimit = RangeField[float](
        doc="Warn if the pixels of an image scatter by so much more or less than its variance plane claims.",
        default=1.25,
        min=1.0,
        inclusiveMin=False,
    )


_ENGINES: dict[str, type[AlardLuptonEngine] | type[ZogyEngine]] = {
    "AL": AlardLuptonEngine,
    "zogy": ZogyEngine,
}


class AlardLuptonSubtractTask(Task):
    """Subtract a template after the method of Alard & Lupton.

    Notes
    -----
    Alard & Lupton (1998), doi:10.1086/305984; spatial variation after Alard (2000),
    doi:10.1051/aas:2000214. Kernel and differential background are fitted together, in
    the metric in which the noise of the difference is white.
    """

    ConfigClass = AlardLuptonSubtractConfig
    _DefaultName = "subtract"
    config: AlardLuptonSubtractConfig

    @timeMethod
    @single_threaded_algebra
    def run(self, template: VisitImage, science: VisitImage, sources: Table | None = None) -> Struct:
        """Subtract.

        Parameters
        ----------
        template, science : `lsst.images.VisitImage`
            Exposures on the same pixels, with PSF, variance and mask; not modified.
        sources : `astropy.table.Table`, optional
            Stars for the kernel, columns ``x`` and ``y`` in the pixel frame of ``science``;
            found on the science image if not given.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``difference`` (`lsst.images.DifferenceImage`): on the flux scale of ``science``. Pixels
              without data in one of the two are 0 and masked ``NO_DATA``.
            - ``matchedTemplate`` (`lsst.images.VisitImage`): what was subtracted, plus the sky.
            - ``backgroundModel`` (`lsst.images.fields.ChebyshevField`): sky that the difference is free of.
            - ``templateBackground`` (`lsst.images.fields.ChebyshevField`): sky of the template on the flux
              scale of ``science``, so that the two differ by ``backgroundModel - templateBackground``.
            - ``psfMatchingKernel`` (`lsst.images.convolution_kernels.ImageBasisConvolutionKernel`).
            - ``kernelSources`` (`astropy.table.Table`): stars that were tried, and their fit.
            - ``convolvedTemplate`` (`bool`): that kernel belongs to the template, not to the science image.
            - ``whitened`` (`bool`): the noise of the difference is white already.
            - ``excessVariance`` (`numpy.ndarray`): to be added to the variance of the white difference: the
              square of the light that saturated pixels put in doubt.
            - ``astrometricScatter`` (`float`): scatter, in pixels along each axis, of the positions of static
              stars between the two images beyond what the noise of the pixels makes.

        Raises
        ------
        InsufficientKernelSourcesError, NoKernelCandidatesError
            Too few stars.
        UnusableExposureError
            An image has no usable pixel.
        """
        exposures = self.prepare_pair(science, template)
        candidates = self._find_candidates(exposures, sources)
        engine, roles, match = self._choose_match(exposures, candidates)
        self.log.info(
            "PSF of science %.2f and template %.2f pixels FWHM; method %s, %s convolved.",
            exposures.fwhm_science,
            exposures.fwhm_template,
            engine.name,
            "template" if roles.template_convolved else "science",
        )
        result = engine.subtract(exposures, roles, match, cell=self.config.backgroundCell)
        images = self.assemble(exposures, result)
        self.metadata["convolvedExposure"] = "Template" if result.template_convolved else "Science"
        self._record(exposures, roles, match, images.difference)
        registration = registration_figures(exposures, match, result, images.difference)
        for name, value in registration.items():
            self.metadata[name] = value
        return Struct(
            kernelSources=make_kernel_source_table(match, science),
            convolvedTemplate=result.template_convolved,
            whitened=result.whitened,
            astrometricScatter=registration.get("astrometricScatter", 0.0),
            templateBackground=scale_template_sky(
                exposures, roles, match, order=self.config.kernel.active.spatialBgOrder
            ),
            **images.getDict(),
        )

    def _choose_match(
        self, exposures: Exposures, candidates: KernelCandidates
    ) -> tuple[AlardLuptonEngine | ZogyEngine, Roles, MatchResult]:
        """Fit with the configured method, or with AL if the PSF models are not good enough for zogy."""
        config = self.config.kernel.active
        engine = _ENGINES[self.config.kernel.name](config)
        roles = engine.choose_roles(exposures, self.config.mode)
        limit = getattr(config, "maxStarChi2", np.inf)
        match, reason = None, ""
        try:
            match = self._match(engine, exposures, roles, candidates)
            if (chi2 := _bright_chi2(match)) > limit:
                reason = f"chi square {chi2:.2f} a pixel, maxStarChi2={limit:.2f}"
        except NoKernelCandidatesError as error:
            if limit == np.inf:
                raise
            reason = str(error)
        if match is None or reason:
            self.log.warning(
                "The PSF models leave residuals at the stars (%s): the difference is made with an "
                "Alard-Lupton kernel instead (kernel.name='AL').",
                reason,
            )
            fallback = self.config.kernel["AL"].copy()
            fallback.spatialBgOrder = config.spatialBgOrder
            engine = AlardLuptonEngine(fallback)
            roles = engine.choose_roles(exposures, "auto")
            match = self._match(engine, exposures, roles, candidates)
        self.metadata["subtractMethod"] = engine.name
        return engine, roles, match

    def prepare_pair(self, science: VisitImage, template: VisitImage) -> Exposures:
        """Fill holes, take out the sky and measure noise and PSF of both exposures, for an engine."""
        pair = {"science": science, "template": template}
        # Models of PSFs are not made for threads; the pixels of the two images are.
        psfs = [sample_psf(exposure.psf, exposure.bbox) for exposure in pair.values()]
        with ThreadPoolExecutor(min(2, get_num_threads())) as pool:
            own, other = pool.map(self._prepare, pair.values(), pair, psfs)
        for role, prepared in zip(pair, (own, other), strict=True):
            self._check_noise(prepared.noise_ratio, role)
        return Exposures(science, template, own, other, psf_fwhm(own.data.psf), psf_fwhm(other.data.psf))

    def _prepare(self, exposure: VisitImage, role: str, psf: PsfGrid) -> PreparedImage:
        """Fill holes, subtract the sky, measure the noise."""
        image, variance = exposure.image.array, exposure.variance.array
        holes = bad_pixels(exposure.mask, self.config.holeMaskPlanes)
        holes |= ~np.isfinite(image)
        bad = bad_pixels(exposure.mask, self.config.badMaskPlanes)
        with np.errstate(invalid="ignore"):
            bad |= holes | ~(variance > 0) | ~np.isfinite(variance)
        try:
            return prepare_image(
                image,
                variance,
                bad=bad,
                holes=holes,
                saturated=bad_pixels(exposure.mask, ["SAT"]),
                psf=psf,
                sky_cell=self.config.backgroundCell,
                sky_order=self.config.kernel.active.spatialBgOrder,
                noise_cell=_NOISE_CELL,
            )
        except ValueError as error:
            raise UnusableExposureError(f"The {role} exposure cannot be used: {error}", role=role) from error

    def _check_noise(self, ratio: float, role: str) -> None:
        self.metadata[f"{role}NoiseRatio"] = ratio
        limit = self.config.noiseRatioLimit
        # Resampling correlates pixels, so that a template may scatter less without any fault.
        if ratio > limit or (role == "science" and ratio < 1 / limit):
            self.log.warning(
                "The pixels of the %s exposure scatter by %.2f times what its variance plane claims; "
                "look at its gain and read noise.",
                role,
                ratio,
            )

    def _find_candidates(self, exposures: Exposures, sources: Table | None) -> KernelCandidates:
        """Find stars, reject those on bad pixels, share them out over the image."""
        config, kernel = self.config, self.config.kernel.active
        science, fwhm = exposures.science, exposures.widest
        data = exposures.prepared_science.data
        exclude = bad_pixels(science.mask, config.excludeMaskPlanes)
        exclude |= bad_pixels(exposures.template.mask, config.excludeMaskPlanes)
        exclude |= data.bad | exposures.prepared_template.data.bad
        half = make_settings(kernel, fwhm=fwhm, min_sources=config.minKernelSources).stamp_half
        if sources is None:
            threshold = config.detectionThreshold * 3.0 * np.sqrt(data.sky.median)
            found = find_candidates(data.image, threshold=threshold, border=half)
        else:
            found = _as_candidates(sources, science, data.image)
        cell_size = min(kernel.sizeCellX, kernel.sizeCellY)
        chosen = select_candidates(
            found,
            bad=exclude,
            half=half,
            core=max(2, round(fwhm)),
            max_bad_fraction=kernel.maxBadFraction,
            cell_size=cell_size,
            per_cell=share_among_cells(
                exclude.shape,
                cell_size=cell_size,
                per_cell=kernel.nStarPerCell,
                least=kernel.nStarSmallImage,
            ),
            separation=max(3.0, 2.0 * fwhm),
            max_number=config.maxKernelSources,
        )
        self.metadata["nPsfSources"] = len(chosen)
        if len(chosen) < config.minKernelSources:
            raise InsufficientKernelSourcesError(
                len(chosen),
                config.minKernelSources,
                f"{len(found)} were found on the {data.image.shape[1]} x {data.image.shape[0]} science image "
                f"above detectionThreshold={config.detectionThreshold:g} and {half} pixels from the rim; the "
                "others lie on masked pixels. Lower it, or look at the masks, the overlap and the size of "
                "the images.",
            )
        return chosen

    def _match(
        self,
        engine: AlardLuptonEngine | ZogyEngine,
        exposures: Exposures,
        roles: Roles,
        candidates: KernelCandidates,
    ) -> MatchResult:
        """Determine the kernel."""
        try:
            return engine.match(
                exposures,
                roles,
                candidates,
                min_sources=self.config.minKernelSources,
                record=self.metadata.__setitem__,
            )
        except KernelSolveError as error:
            raise NoKernelCandidatesError(
                f"Of {len(candidates)} stars only {error.n_stamps} agree on a kernel, {error.n_required} are "
                "needed; look whether the two images show the same sky, and at their registration.",
                nSources=error.n_stamps,
                nRequired=error.n_required,
            ) from error

    def assemble(self, exposures: Exposures, result: Subtraction) -> Struct:
        """Make what `run` returns of the pixels that an engine made."""
        from lsst.images.fields import ChebyshevField

        science, own_sky = exposures.science, exposures.prepared_science.sky

        order = self.config.kernel.active.spatialBgOrder
        mask, light = self._make_mask(exposures, result)
        holes = exposures.prepared_science.holes | exposures.prepared_template.holes
        no_data = holes & bad_pixels(mask, ["NO_DATA"])
        difference, matched = result.difference, result.matched
        difference[no_data] = 0.0
        exposure = make_difference_image(
            science,
            image=difference,
            variance=result.variance,
            mask=mask,
            psf=result.psf,
            kernel=result.kernel_model,
        )
        matched += chebyshev_image(own_sky, shape=difference.shape, order=order)
        matched_exposure = make_matched_image(
            science,
            exposures.template,
            image=matched,
            variance=result.matched_variance,
            mask=mask.copy(),
            psf=result.matched_psf,
            convolved=result.template_convolved,
        )
        terms = own_sky + result.background_terms
        # Counts of what the light fell on over those of the science image.
        unit = 1.0 if result.template_convolved else float(result.centre_kernel.sum())
        return Struct(
            difference=exposure,
            matchedTemplate=matched_exposure,
            backgroundModel=ChebyshevField(
                science.bbox, chebyshev_coefficients(terms, order), unit=science.unit
            ),
            psfMatchingKernel=result.kernel_model,
            excessVariance=(light / np.float32(unit)) ** 2,
        )

    def _make_mask(self, exposures: Exposures, result: Subtraction) -> tuple[Mask, np.ndarray]:
        """Merge the masks, with what the convolution does to them; return the light in doubt, too."""
        carrier = exposures.prepared_template if result.template_convolved else exposures.prepared_science
        kernel, noise = result.centre_kernel, float(np.sqrt(result.noise))
        limit, level = self.config.saturationLimit * noise, self.config.kernelMaskLevel
        saturation, interpolation = (
            doubt.carried(kernel, result.difference.shape)
            for doubt in (carrier.saturation, carrier.interpolation)
        )

        def by_share(plane: np.ndarray) -> np.ndarray:
            return plane | spread_bad(plane & ~carrier.interpolated, kernel, level=level)

        mask = merge_masks(
            exposures.science.mask,
            exposures.template.mask,
            preserve=self.config.preserveTemplateMask,
            rename=self.config.renameTemplateMask,
            spread={
                "BAD": by_share,
                "NO_DATA": by_share,
                "SATURATED": lambda plane: plane | (saturation > limit),
            },
            template_convolved=result.template_convolved,
        )
        set_plane(mask, "BAD", interpolation > limit)
        not_finite = ~np.isfinite(exposures.science.image.array) | ~np.isfinite(
            exposures.template.image.array
        )
        set_plane(mask, "NO_DATA", not_finite)
        error = rim_error(carrier.data.image, kernel)
        set_plane(mask, "DETECTION_EDGE", error > self.config.rimLimit * noise)
        return mask, saturation + interpolation

    def _record(self, exposures: Exposures, roles: Roles, match: MatchResult, difference: Any) -> None:
        """Put figures of quality into the metadata."""
        solution = match.solution
        self.metadata["sciencePsfSize"] = exposures.fwhm_science
        self.metadata["templatePsfSize"] = exposures.fwhm_template
        self.metadata["spatialKernelSum"] = solution.kernel_sum
        self.metadata["spatialConditionNum"] = min(solution.condition_number, 1e300)
        self.metadata["spatialKernelOrder"] = solution.kernel_order
        self.metadata["nKernelSourcesUsed"] = int(solution.used.sum())
        scale = template_scale(roles, match)
        data = exposures.prepared_science.data, exposures.prepared_template.data
        for name, value in limiting_magnitude(exposures.science, *data, scale).items():
            self.metadata[name] = value
        depth = predicted_depth(exposures.science, *data, scale)
        if depth is not None:
            self.metadata["predictedDepth"] = depth
        ratios = footprint_ratios(
            exposures.prepared_science.data.image,
            difference.image.array,
            bad_pixels(difference.mask, ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]),
            x=match.candidates.x,
            y=match.candidates.y,
            half=round(exposures.widest),
        )
        for name, value in ratios.items():
            self.metadata[name] = value
        self.log.info(
            "Kernel of order %d from %d of %d stars; sum %.4f, condition number %.1e.",
            solution.kernel_order,
            solution.used.sum(),
            len(solution.used),
            solution.kernel_sum,
            solution.condition_number,
        )


def _as_candidates(sources: Table, science: VisitImage, image: np.ndarray) -> KernelCandidates:
    """Return the stars of a table that lie on the image."""
    x = np.round(np.asarray(sources["x"], float) - science.bbox.x.start).astype(int)
    y = np.round(np.asarray(sources["y"], float) - science.bbox.y.start).astype(int)
    inside = (x >= 1) & (y >= 1) & (x < image.shape[1] - 1) & (y < image.shape[0] - 1)
    x, y = x[inside], y[inside]
    flux = sum(image[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1))
    return KernelCandidates(x=x, y=y, flux=np.asarray(flux, float).reshape(x.shape))


def _bright_chi2(match: MatchResult) -> float:
    """Return the median reduced chi square of the brighter half of the stars that were used."""
    solution = match.solution
    signal = solution.signal_to_noise
    bright = solution.used & (signal >= np.median(signal[solution.used]))
    return float(np.median(solution.chi2[bright]))
