"""Match a template to a science exposure in PSF, flux scale and background, and subtract it."""

from __future__ import annotations

__all__ = ("AlardLuptonSubtractConfig", "AlardLuptonSubtractTask")

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from lsst.pex.config import ChoiceField, Config, ConfigChoiceField, DictField, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.kernels import kernel_from_solution
from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.decorrelate.whiten import propagate_variance, source_variance
from ..algorithms.match.candidates import KernelCandidates, find_candidates, select_candidates
from ..algorithms.match.match import MatchResult, match_images
from ..algorithms.match.solve import KernelSolution, KernelSolveError, with_background
from ..algorithms.noise import NoiseMap
from ..algorithms.spatial import chebyshev_coefficients, chebyshev_image
from ..algorithms.subtract.matched import (
    convolve_kernel,
    refine_background,
    rim_error,
    spread_bad,
    spread_saturated,
)
from ..algorithms.subtract.prepare import PreparedImage, prepare_image
from ..algorithms.threads import get_num_threads
from .difference_image import make_difference_image, make_matched_image, merge_masks
from .errors import InsufficientKernelSourcesError, NoKernelCandidatesError, UnusableExposureError
from .kernel import AlardLuptonKernelConfig, make_basis, make_settings
from .subtraction_figures import footprint_ratios, limiting_magnitude

if TYPE_CHECKING:
    from lsst.images import Mask, VisitImage

_NOISE_CELL = 256
_TILE = 360


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
        doc="Kind of matching kernel.", typemap={"AL": AlardLuptonKernelConfig}, default="AL"
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
    kernelMaskFraction = RangeField[float](
        doc="A bad pixel of the convolved image spoils those to which this share of the kernel carries it.",
        default=0.9,
        min=0.0,
        max=1.0,
    )
    saturationLimit = RangeField[float](
        doc="A pixel to which the convolution carries more than this, in standard deviations of the noise, of "
        "the light of saturated pixels is masked like them.",
        default=3.0,
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


@dataclass(frozen=True)
class _Roles:
    """Which image is convolved, and which one the other is matched to."""

    convolved: PreparedImage
    target: PreparedImage
    template_convolved: bool


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
            - ``psfMatchingKernel`` (`lsst.images.convolution_kernels.ImageBasisConvolutionKernel`).
            - ``kernelSources`` (`astropy.table.Table`): stars that were tried, and their fit.
            - ``convolvedTemplate`` (`bool`): the template was convolved, not the science image.

        Raises
        ------
        InsufficientKernelSourcesError, NoKernelCandidatesError
            Too few stars.
        UnusableExposureError
            An image has no usable pixel.
        """
        prepared = {
            "science": self._prepare(science, "science"),
            "template": self._prepare(template, "template"),
        }
        fwhm = {name: psf_fwhm(p.data.psf) for name, p in prepared.items()}
        roles = self._choose_roles(prepared, fwhm)
        candidates = self._find_candidates(science, template, prepared, sources, max(fwhm.values()))
        match = self._match(roles, candidates, fwhm)
        difference, matched, solution = self._subtract(roles, match.solution, prepared)
        result = self._assemble(science, template, prepared, roles, solution, difference, matched)
        self._record(science, prepared, fwhm, roles, match, result.difference)
        return Struct(
            kernelSources=_make_source_table(match, science),
            convolvedTemplate=roles.template_convolved,
            **result.getDict(),
        )

    def _prepare(self, exposure: VisitImage, role: str) -> PreparedImage:
        """Sample the PSF, fill holes, subtract the sky, measure the noise."""
        image, variance = exposure.image.array, exposure.variance.array
        holes = bad_pixels(exposure.mask, self.config.holeMaskPlanes)
        holes |= ~np.isfinite(image)
        bad = bad_pixels(exposure.mask, self.config.badMaskPlanes)
        with np.errstate(invalid="ignore"):
            bad |= holes | ~(variance > 0) | ~np.isfinite(variance)
        try:
            prepared = prepare_image(
                image,
                variance,
                bad=bad,
                holes=holes,
                psf=sample_psf(exposure.psf, exposure.bbox),
                sky_cell=self.config.backgroundCell,
                sky_order=self.config.kernel.active.spatialBgOrder,
                noise_cell=_NOISE_CELL,
            )
        except ValueError as error:
            raise UnusableExposureError(f"The {role} exposure cannot be used: {error}", role=role) from error
        self._check_noise(prepared.noise_ratio, role)
        return prepared

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

    def _choose_roles(self, prepared: dict[str, PreparedImage], fwhm: dict[str, float]) -> _Roles:
        mode = self.config.mode
        template_convolved = mode == "convolveTemplate" or (
            mode == "auto" and fwhm["template"] <= fwhm["science"]
        )
        convolved, target = ("template", "science") if template_convolved else ("science", "template")
        self.log.info(
            "PSF of science %.2f and template %.2f pixels FWHM; the %s is convolved.",
            fwhm["science"],
            fwhm["template"],
            convolved,
        )
        return _Roles(prepared[convolved], prepared[target], template_convolved)

    def _find_candidates(
        self,
        science: VisitImage,
        template: VisitImage,
        prepared: dict[str, PreparedImage],
        sources: Table | None,
        fwhm: float,
    ) -> KernelCandidates:
        """Find stars, reject those on bad pixels, share them out over the image."""
        config, kernel = self.config, self.config.kernel.active
        data = prepared["science"].data
        exclude = bad_pixels(science.mask, config.excludeMaskPlanes)
        exclude |= bad_pixels(template.mask, config.excludeMaskPlanes)
        exclude |= data.bad | prepared["template"].data.bad
        half = make_settings(kernel, fwhm=fwhm, min_sources=config.minKernelSources).stamp_half
        if sources is None:
            threshold = config.detectionThreshold * 3.0 * np.sqrt(data.sky.median)
            found = find_candidates(data.image, threshold=threshold, border=half)
        else:
            found = _as_candidates(sources, science, data.image)
        chosen = select_candidates(
            found,
            bad=exclude,
            half=half,
            core=max(2, round(fwhm)),
            max_bad_fraction=kernel.maxBadFraction,
            cell_size=min(kernel.sizeCellX, kernel.sizeCellY),
            per_cell=kernel.nStarPerCell,
            separation=max(3.0, 2.0 * fwhm),
            max_number=config.maxKernelSources,
        )
        self.metadata["nPsfSources"] = len(chosen)
        if len(chosen) < config.minKernelSources:
            raise InsufficientKernelSourcesError(
                len(chosen),
                config.minKernelSources,
                f"{len(found)} were found on the science image above detectionThreshold="
                f"{config.detectionThreshold:g}; the others lie on masked pixels or near the rim. "
                " Lower it, or look at the masks and at the overlap of the images.",
            )
        return chosen

    def _match(self, roles: _Roles, candidates: KernelCandidates, fwhm: dict[str, float]) -> MatchResult:
        """Determine the kernel."""
        convolved, target = ("template", "science") if roles.template_convolved else ("science", "template")
        config = self.config.kernel.active
        basis, mode = make_basis(config, fwhm_convolved=fwhm[convolved], fwhm_target=fwhm[target])
        self.metadata["ALBasisNGauss"] = len(basis.sigmas)
        self.metadata["ALBasisDegGauss"] = list(basis.degrees)
        self.metadata["ALBasisSigGauss"] = [float(s) for s in basis.sigmas]
        self.metadata["ALKernelSize"] = basis.size
        self.metadata["ALBasisMode"] = mode
        try:
            return match_images(
                roles.convolved.data,
                roles.target.data,
                candidates=candidates,
                basis=basis,
                settings=make_settings(
                    config, fwhm=max(fwhm.values()), min_sources=self.config.minKernelSources
                ),
                workers=get_num_threads(),
            )
        except KernelSolveError as error:
            raise NoKernelCandidatesError(
                f"Of {len(candidates)} stars only {error.n_stamps} agree on a kernel, {error.n_required} are "
                "needed; look whether the two images show the same sky, and at their registration.",
                nSources=error.n_stamps,
                nRequired=error.n_required,
            ) from error

    def _subtract(
        self, roles: _Roles, solution: KernelSolution, prepared: dict[str, PreparedImage]
    ) -> tuple[np.ndarray, np.ndarray, KernelSolution]:
        """Return difference and subtracted image, free of sky, and the final solution."""
        matched = convolve_kernel(
            roles.convolved.data.image,
            lambda x, y: solution.evaluate(x=x, y=y),
            size=solution.basis.size,
            side=_TILE,
            workers=get_num_threads(),
        )
        order = solution.background_order
        matched += chebyshev_image(solution.background_terms, shape=matched.shape, order=order)
        difference = roles.target.data.image - matched
        bad = roles.target.data.bad | roles.convolved.data.bad
        correction = refine_background(difference, bad, cell=self.config.backgroundCell, order=order)
        left = chebyshev_image(correction, shape=matched.shape, order=order)
        difference -= left
        if roles.template_convolved:
            matched += left
        else:
            matched = roles.target.data.image / np.float32(solution.kernel_sum)
            difference /= np.float32(-solution.kernel_sum)
        return difference, matched, with_background(solution, correction)

    def _assemble(
        self,
        science: VisitImage,
        template: VisitImage,
        prepared: dict[str, PreparedImage],
        roles: _Roles,
        solution: KernelSolution,
        difference: np.ndarray,
        matched: np.ndarray,
    ) -> Struct:
        """Make the exposures that are returned."""
        from lsst.images.fields import ChebyshevField

        shape, order = difference.shape, solution.background_order
        sky_terms = prepared["science"].sky.copy()
        if roles.template_convolved:
            sky_terms = sky_terms + solution.background_terms
        else:
            sky_terms = sky_terms - solution.background_terms / solution.kernel_sum
        sky = chebyshev_image(prepared["science"].sky, shape=shape, order=order)
        own, subtracted = self._propagate_variance(science, template, roles, solution)
        mask = merge_masks(
            science.mask,
            template.mask,
            preserve=self.config.preserveTemplateMask,
            rename=self.config.renameTemplateMask,
            spread=self._make_spreaders(roles, solution),
            template_convolved=roles.template_convolved,
        )
        self._mark_rim(mask, roles, solution)
        no_data = (prepared["science"].holes | prepared["template"].holes) & bad_pixels(mask, ["NO_DATA"])
        difference[no_data] = 0.0
        kernel = kernel_from_solution(solution, science.bbox)
        psf = science.psf if roles.template_convolved else template.psf
        exposure = make_difference_image(
            science, image=difference, variance=own, mask=mask, psf=psf, kernel=kernel
        )
        return Struct(
            difference=exposure,
            matchedTemplate=make_matched_image(
                science,
                template,
                image=matched + sky,
                variance=subtracted,
                mask=mask.copy(),
                psf=psf,
                convolved=roles.template_convolved,
            ),
            backgroundModel=ChebyshevField(
                science.bbox, chebyshev_coefficients(sky_terms, order), unit=science.unit
            ),
            psfMatchingKernel=kernel,
        )

    def _mark_rim(self, mask: Mask, roles: _Roles, solution: KernelSolution) -> None:
        """Mark pixels at the rim for which the kernel wanted light from beyond it."""
        kernel, limit = self._centre_kernel(roles, solution, self.config.rimLimit)
        error = rim_error(roles.convolved.data.image, kernel)
        mask.set("DETECTION_EDGE", mask.get("DETECTION_EDGE") | (error > limit))

    def _centre_kernel(
        self, roles: _Roles, solution: KernelSolution, n_sigma: float
    ) -> tuple[np.ndarray, float]:
        """Return the kernel at the centre, and so many standard deviations of the difference's noise."""
        ny, nx = solution.shape
        kernel = solution.evaluate(x=np.array([nx / 2]), y=np.array([ny / 2]))[0]
        noise = _convolved_noise(roles.convolved.data.sky, solution).median + roles.target.data.sky.median
        return kernel, n_sigma * float(np.sqrt(noise))

    def _make_spreaders(
        self, roles: _Roles, solution: KernelSolution
    ) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """Return what the convolution does to mask planes."""
        kernel, limit = self._centre_kernel(roles, solution, self.config.saturationLimit)
        image = roles.convolved.data.image
        by_share = partial(spread_bad, kernel=kernel, fraction=self.config.kernelMaskFraction)
        by_light = partial(spread_saturated, image=image, kernel=kernel, limit=limit)
        return {"BAD": by_share, "NO_DATA": by_share, "SATURATED": by_light}

    def _propagate_variance(
        self, science: VisitImage, template: VisitImage, roles: _Roles, solution: KernelSolution
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the variance planes of the difference and of the matched template, pixel by pixel."""
        pair = (template, science) if roles.template_convolved else (science, template)
        excess = [
            source_variance(e.variance.array, p.data.sky, p.data.bad)
            for e, p in zip(pair, (roles.convolved, roles.target), strict=True)
        ]
        shape = excess[0].shape
        sky = _convolved_noise(roles.convolved.data.sky, solution).image(shape)
        convolved = propagate_variance(
            np.zeros(shape, np.float32),
            excess[0],
            None,
            kernel=lambda x, y: solution.evaluate(x=x, y=y),
            sky=sky,
            workers=get_num_threads(),
            side=_TILE,
        )
        target = roles.target.data.sky.image(shape) + excess[1]
        if roles.template_convolved:
            return target + convolved, convolved
        scale = np.float32(solution.kernel_sum**2)
        return (target + convolved) / scale, target / scale

    def _record(
        self,
        science: VisitImage,
        prepared: dict[str, PreparedImage],
        fwhm: dict[str, float],
        roles: _Roles,
        match: MatchResult,
        difference: Any,
    ) -> None:
        """Put figures of quality into the metadata."""
        solution = match.solution
        self.metadata["sciencePsfSize"] = fwhm["science"]
        self.metadata["templatePsfSize"] = fwhm["template"]
        self.metadata["convolvedExposure"] = "Template" if roles.template_convolved else "Science"
        self.metadata["spatialKernelSum"] = solution.kernel_sum
        self.metadata["spatialConditionNum"] = solution.condition_number
        self.metadata["spatialKernelOrder"] = solution.kernel_order
        self.metadata["nKernelSourcesUsed"] = int(solution.used.sum())
        scale = solution.kernel_sum if roles.template_convolved else 1.0 / solution.kernel_sum
        limits = limiting_magnitude(science, prepared["science"].data, prepared["template"].data, scale)
        for name, value in limits.items():
            self.metadata[name] = value
        ratios = footprint_ratios(
            prepared["science"].data.image,
            difference.image.array,
            bad_pixels(difference.mask, ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]),
            x=match.candidates.x,
            y=match.candidates.y,
            half=round(max(fwhm.values())),
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


def _convolved_noise(noise: NoiseMap, solution: KernelSolution) -> NoiseMap:
    """Return the pixel variance of blank sky after the convolution."""
    x, y = (a.ravel() for a in np.meshgrid(noise.x, noise.y))
    power = (solution.evaluate(x=x, y=y) ** 2).sum(axis=(1, 2)).reshape(noise.values.shape)
    return NoiseMap(values=noise.values * power, x=noise.x, y=noise.y)


def _make_source_table(match: MatchResult, science: VisitImage) -> Table:
    """Return what became of each star."""
    solution = match.solution
    return Table(
        {
            "x": match.candidates.x + science.bbox.x.start,
            "y": match.candidates.y + science.bbox.y.start,
            "signalToNoise": solution.signal_to_noise,
            "chi2": solution.chi2,
            "fluxResidual": solution.flux_residual,
            "used": solution.used,
        },
        descriptions={
            "x": "Central pixel",
            "y": "Central pixel",
            "signalToNoise": "Of the matched profile",
            "chi2": "Reduced chi square of the stamp",
            "fluxResidual": "Residual flux over its error",
            "used": "Kept after clipping",
        },
        units={"x": "pix", "y": "pix"},
    )
