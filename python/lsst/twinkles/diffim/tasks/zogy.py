"""Proper subtraction with a fitted correction."""

from __future__ import annotations

__all__ = ("ZogyEngine",)

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.kernels import kernel_from_fields
from ..adapters.psfs import psf_from_grid
from ..algorithms.convolve import choose_tile_grid, convolve_varying
from ..algorithms.decorrelate.whiten import propagate_variance
from ..algorithms.match.candidates import KernelCandidates
from ..algorithms.match.match import MatchResult, match_images
from ..algorithms.noise import NoiseMap
from ..algorithms.spatial import chebyshev_image, chebyshev_terms
from ..algorithms.subtract.matched import convolve_kernel, refine_background
from ..algorithms.subtract.prepare import PreparedImage
from ..algorithms.subtract.proper import (
    DifferenceFilters,
    ProperFilters,
    fit_kernel_fields,
    matching_kernel,
)
from ..algorithms.threads import get_num_threads
from .engines import Exposures, Roles, Subtraction, convolved_noise, measure_excess
from .kernel import ZogyKernelConfig, make_correction_basis, make_settings

if TYPE_CHECKING:
    from ..algorithms.psf_grid import PsfGrid

_TILE = 512
# Reach in pixels of the filters of the difference, and pixels at its end over which they fade out: as ever,
# and where it is not enough.
_SMALLEST_HALO, _LARGEST_HALO = 16, 64
_TAPER, _LONG_TAPER = 8, 24
_KERNEL_NODES = 7
_KERNEL_ORDER = 4
_KERNEL_TOLERANCE = 1e-5
_PSF_NODES = 6
# Share of the noise that interpolated filters may lose in the middle of a tile.
_LARGEST_LOSS = 0.02
# Variation of a filter within a tile that is left out: a tenth of a sigma at a signal-to-noise ratio of 1000.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _DirectMatch:
    """The sharper image convolved to the PSF of the other.

    Attributes
    ----------
    source, goal : `PreparedImage`
        The sharper image and the other.
    source_image, goal_image, predicted : `numpy.ndarray`, ``(Ny, Nx)``
        Both free of background, and the first convolved.
    images, terms : `numpy.ndarray`
        The kernel as images with Chebyshev coefficients; ``centre`` is that at the centre.
    noise : `NoiseMap`
        Pixel variance of blank sky of ``predicted``.
    template_convolved : `bool`
        The template is the sharper image.
    """

    source: PreparedImage
    goal: PreparedImage
    source_image: np.ndarray
    goal_image: np.ndarray
    predicted: np.ndarray
    images: np.ndarray
    terms: np.ndarray
    centre: np.ndarray
    noise: NoiseMap
    template_convolved: bool

    @property
    def pixel_noise(self) -> float:
        """Typical pixel variance of the difference of the two (`float`)."""
        return self.noise.median + self.goal.data.sky.median


class ZogyEngine:
    """Convolve each image with the other's PSF, and the template with a fitted correction.

    Parameters
    ----------
    config : `ZogyKernelConfig`
        Configuration.

    Notes
    -----
    Zackay, Ofek & Gal-Yam (2016), doi:10.3847/0004-637X/830/1/27, with PSFs and noises of each position.
    What PSF models, flux scale and registration lack is fitted to the stars as a small Alard-Lupton kernel in
    the metric of the white difference, so that no image is deconvolved and errors of the models do not stay.
    """

    name = "zogy"

    def __init__(self, config: ZogyKernelConfig) -> None:
        self._config = config

    def choose_roles(self, exposures: Exposures, mode: str) -> Roles:
        """Return the template as the image that gets the correction, whatever ``mode``."""
        return Roles(
            convolved=exposures.prepared_template, target=exposures.prepared_science, template_convolved=True
        )

    def match(
        self,
        exposures: Exposures,
        roles: Roles,
        candidates: KernelCandidates,
        *,
        min_sources: int,
        record: Callable[[str, object], None],
    ) -> MatchResult:
        """Determine the correction."""
        basis = make_correction_basis(self._config, fwhm=exposures.widest)
        record("ALBasisNGauss", len(basis.sigmas))
        record("ALBasisDegGauss", list(basis.degrees))
        record("ALBasisSigGauss", [float(s) for s in basis.sigmas])
        record("ALKernelSize", basis.size)
        record("ALBasisMode", "correction")
        return match_images(
            roles.convolved.data,
            roles.target.data,
            candidates=candidates,
            basis=basis,
            settings=make_settings(
                self._config,
                fwhm=exposures.widest,
                min_sources=min_sources,
                ridge=self._config.correctionRidge,
            ),
            filters=_proper_filters(roles),
        )

    def subtract(self, exposures: Exposures, roles: Roles, match: MatchResult, *, cell: int) -> Subtraction:
        """Make the white difference in one step, and the matched template beside it."""
        science, template = roles.target.data, roles.convolved.data
        solution, shape, order = match.solution, science.image.shape, match.solution.background_order
        filters = DifferenceFilters(
            base=_proper_filters(roles),
            correction=solution.kernel_at,
            flux_scale=solution.kernel_sum,
        )
        background = chebyshev_image(solution.background_terms, shape=shape, order=order)
        direct = self._match_directly(exposures, roles, filters, science.image - background)
        difference = self._difference(filters, direct)
        correction = refine_background(difference, science.bad | template.bad, cell=cell, order=order)
        left = chebyshev_image(correction, shape=shape, order=order)
        difference -= left
        scale = np.float32(filters.flux_scale)
        matched = direct.predicted if direct.template_convolved else scale * template.image
        matched += background
        matched += left
        excess = (
            measure_excess(exposures.science, roles.target),
            measure_excess(exposures.template, roles.convolved),
        )
        power = np.float32((direct.centre**2).sum() if direct.template_convolved else scale**2)
        matched_sky = direct.noise if direct.template_convolved else template.sky.scaled(float(scale) ** 2)
        variance = propagate_variance(
            *excess,
            filters=filters.pair,
            sky=filters.sky_image(shape),
            psfs=(science.psf.mean(), template.psf.mean()),
        )
        matched_variance = excess[1]
        matched_variance *= power
        matched_variance += matched_sky.image(shape)
        box = exposures.science.bbox
        return Subtraction(
            difference=difference,
            matched=matched,
            variance=variance,
            matched_variance=matched_variance,
            psf=psf_from_grid(self._difference_psf(filters, shape), box, order=_PSF_NODES // 2),
            matched_psf=exposures.science.psf if direct.template_convolved else exposures.template.psf,
            background_terms=solution.background_terms + correction,
            kernel_model=kernel_from_fields(direct.images, direct.terms, _KERNEL_ORDER, box),
            centre_kernel=direct.centre,
            noise=direct.pixel_noise,
            template_convolved=direct.template_convolved,
            whitened=True,
        )

    def _match_directly(
        self, exposures: Exposures, roles: Roles, filters: DifferenceFilters, science: np.ndarray
    ) -> _DirectMatch:
        """Convolve the sharper image to the PSF of the other."""
        template_convolved = exposures.fwhm_template <= exposures.fwhm_science
        source, goal = (
            (roles.convolved, roles.target) if template_convolved else (roles.target, roles.convolved)
        )
        light = (roles.convolved.data.image, science)
        images = light if template_convolved else light[::-1]
        shape = science.shape
        axes = (np.linspace(0, n - 1, _KERNEL_NODES) for n in shape[::-1])
        x, y = (a.ravel() for a in np.meshgrid(*axes))
        size = self._config.matchedKernelSize
        kernels = matching_kernel(filters, x=x, y=y, size=size, reverse=not template_convolved)
        functions, terms = fit_kernel_fields(
            kernels, x=x, y=y, shape=shape, order=_KERNEL_ORDER, tolerance=_KERNEL_TOLERANCE
        )
        kernel = partial(_combine, functions, terms, shape)
        noise = convolved_noise(source.data.sky, kernel)
        return _DirectMatch(
            source=source,
            goal=goal,
            source_image=images[0],
            goal_image=images[1],
            predicted=convolve_kernel(images[0], kernel, size=size, side=_TILE, workers=get_num_threads()),
            images=functions,
            terms=terms,
            centre=kernel(np.array([shape[1] / 2]), np.array([shape[0] / 2]))[0],
            noise=noise,
            template_convolved=template_convolved,
        )

    def _difference(self, filters: DifferenceFilters, direct: _DirectMatch) -> np.ndarray:
        """Convolve and subtract, without letting bad pixels spread."""
        ny, nx = direct.predicted.shape
        light = direct.source.saturation.carried(direct.centre, (ny, nx))
        spoilt = direct.goal.data.bad | (light > 3.0 * float(np.sqrt(direct.pixel_noise)))
        # Where one of the two tells nothing, the wider image is taken to be what the sharper one predicts.
        filled = np.where(spoilt, direct.predicted, direct.goal_image)
        science, template = (
            (filled, direct.source_image) if direct.template_convolved else (direct.source_image, filled)
        )
        extent = filters.extent(x=nx / 2, y=ny / 2, tolerance=1e-6)
        halo = int(np.clip(extent, _SMALLEST_HALO, _LARGEST_HALO))
        grid = choose_tile_grid(
            (ny, nx), halo=halo, side=_TILE, error=filters.noise_loss, largest_error=_LARGEST_LOSS
        )
        # Those elsewhere may be longer than that in the middle.
        taper = _LONG_TAPER if extent > halo else _TAPER
        pair = partial(filters.compact, half=halo, side=grid.side, taper=taper)
        return convolve_varying(
            [science, template], pair, grid, workers=get_num_threads(), tolerance=_TOLERANCE
        )

    def _difference_psf(self, filters: DifferenceFilters, shape: tuple[int, int]) -> PsfGrid:
        x, y = (np.linspace(0, n - 1, min(_PSF_NODES, n)) for n in shape[::-1])
        base = filters.base
        size = max(base.psf_science.size, base.psf_template.size, self._config.psfSize)
        return filters.psf(x=x, y=y, size=size, side=2 * size)


def _proper_filters(roles: Roles) -> ProperFilters:
    template, science = roles.convolved.data, roles.target.data
    return ProperFilters(template.psf, science.psf, template.sky, science.sky)


def _combine(
    images: np.ndarray, terms: np.ndarray, shape: tuple[int, int], x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Evaluate a kernel of images with polynomial coefficients."""
    weights = chebyshev_terms(x=x, y=y, shape=shape, order=_KERNEL_ORDER) @ terms.T
    return np.tensordot(weights, images, axes=1)
