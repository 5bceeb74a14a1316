"""Proper subtraction: the filters that make a white difference of two images in one step.

Notes
-----
Zackay, Ofek & Gal-Yam (2016), doi:10.3847/0004-637X/830/1/27, equation 13, with PSFs, noises and
a fitted correction that vary over the image.
"""

from __future__ import annotations

__all__ = ("DifferenceFilters", "ProperFilters", "fit_kernel_fields", "matching_kernel")

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft

from ..convolve import TileGrid
from ..fourier import half_plane_weights, measure_extent, stamps_from_transforms, transform_stamps
from ..match.prefilter import transform_psfs
from ..noise import NoiseMap
from ..psf_grid import PsfGrid
from ..spatial import chebyshev_terms

# Power of the PSFs, relative to that at zero frequency, below which the models say nothing.
_FLOOR = 1e-10
# Regularisation of the matching kernel: amplitudes are raised by 1 / (2 sqrt) at most.
_WIENER = 1e-3
# Pixels that the transforms of filters are wider than what is kept of these.
_MARGIN = 16
# Side of the transforms that tell what interpolated filters lose.
_LOSS_SIDE = 64
# Added to the transforms of the PSFs: keeps the filters compact where both models are only rounding.
_BLIND = 1e-6


@dataclass(frozen=True)
class ProperFilters:
    """Filters after which both images have the same PSF and their difference white noise.

    Attributes
    ----------
    psf_template, psf_science : `PsfGrid`
        Unit-sum PSFs.
    sky_template, sky_science : `NoiseMap`
        Variances of the blank sky.
    """

    psf_template: PsfGrid
    psf_science: PsfGrid
    sky_template: NoiseMap
    sky_science: NoiseMap

    def __call__(
        self, *, x: np.ndarray, y: np.ndarray, side: int, flux_scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the filters of template and science image, ``(N, side, side // 2 + 1)`` each.

        Notes
        -----
        ``P_s N`` and ``P_t N``, ``N**2 = (v_s + v_t f**2) / (v_s |P_t|**2 + v_t f**2 |P_s|**2)``, ``f``
        being the flux scale; 1 at zero frequency. No image is deconvolved: neither has to be the sharper one.
        A phase that both have in common is taken out, which leaves the filters compact.
        """
        pt, ps = transform_psfs(self.psf_template, self.psf_science, x=x, y=y, side=side, dtype=np.float32)
        pt += np.float32(_BLIND)
        ps += np.float32(_BLIND)
        vs, vt = (
            m.evaluate(x=x, y=y)[:, None, None].astype(np.float32)
            for m in (self.sky_science, self.sky_template)
        )
        vt = vt * np.float32(flux_scale**2)
        power = vs * (_power(pt) + np.float32(_FLOOR)) + vt * (_power(ps) + np.float32(_FLOOR))
        norm = np.sqrt((vs + vt) / power)
        common = ps * np.sqrt(vt) + pt * np.sqrt(vs)
        norm = norm * np.conj(common) / np.abs(common)
        return ps * norm, pt * norm


@dataclass(frozen=True)
class DifferenceFilters:
    """Filters ``a`` and ``b`` of the white difference ``a * science - b * template``.

    Attributes
    ----------
    base : `ProperFilters`
        Filters from the PSF models.
    correction : callable
        Takes ``x, y``, ``(N,)``; returns the fitted kernel stamps ``(N, S, S)`` that the template is
        convolved with on top of its filter.
    flux_scale : `float`
        Science counts over template counts.
    """

    base: ProperFilters
    correction: Callable[[np.ndarray, np.ndarray], np.ndarray]
    flux_scale: float

    def pair(self, x: np.ndarray, y: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``a`` and ``b`` at positions, ``(N, side, side // 2 + 1)`` complex64 each."""
        template, science = self.base(x=x, y=y, side=side, flux_scale=self.flux_scale)
        template = template * transform_stamps(self.correction(x, y).astype(np.float32), side)
        skies = (self.base.sky_science, self.base.sky_template)
        vs, vt = (m.evaluate(x=x, y=y)[:, None, None].astype(np.float32) for m in skies)
        total = vs + vt * np.float32(self.flux_scale**2)
        white = np.sqrt(total / (vs * _power(science) + vt * _power(template)))
        return science * white, template * white

    def compact(
        self, x: np.ndarray, y: np.ndarray, *, half: int, side: int, taper: int = 0
    ) -> list[np.ndarray]:
        """Return ``a`` and ``-b`` cut to stamps of ``2 half + 1`` pixels, as transforms of a larger ``side``.

        Made from transforms that are just large enough: the ratios of PSFs take most of the time. Filters
        that are longer fade out over ``taper`` pixels at the rim. At frequencies that neither PSF passes the
        ratio of two measured PSFs is noise, which has no end in pixels and does not matter, because no star
        has such frequencies; cut off sharply it would, with a ghost of each star along the cut.
        """
        small = scipy.fft.next_fast_len(2 * half + _MARGIN, real=True)
        a, b = self.pair(x, y, min(small, side))
        if small >= side:
            return [a, -b]
        window = _fade_out(2 * half + 1, taper)
        return [
            transform_stamps(stamps_from_transforms(filters, small, 2 * half + 1) * window, side)
            for filters in (a, -b)
        ]

    def sky_image(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the variance of blank sky of the difference, ``shape`` float32."""
        return self.base.sky_science.plus(self.base.sky_template.scaled(self.flux_scale**2)).image(shape)

    def psf(self, *, x: np.ndarray, y: np.ndarray, size: int, side: int) -> PsfGrid:
        """Return the PSF of the difference on a grid of columns ``x`` and rows ``y``."""
        grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
        # Not tapered as in the filters: the light of the wings belongs to the flux.
        ps = transform_stamps(self.base.psf_science.padded(size).evaluate(x=grid_x, y=grid_y), side)
        stamps = stamps_from_transforms(self.pair(grid_x, grid_y, side)[0] * ps, side, size).astype(float)
        stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return PsfGrid(stamps=stamps.reshape(len(y), len(x), size, size), x=np.asarray(x), y=np.asarray(y))

    def extent(self, *, x: float, y: float, tolerance: float, side: int = 256) -> int:
        """Return the half side that holds all but ``tolerance`` of the energy of both filters."""
        pair = self.pair(np.array([x]), np.array([y]), side)
        energy = sum(stamps_from_transforms(p, side, side - 1)[0] ** 2 for p in pair)
        return measure_extent(np.asarray(energy), tolerance)

    def noise_loss(self, grid: TileGrid) -> float:
        """Return what share of the noise is lost where filters are interpolated between corners of tiles.

        The largest of the middles of some tiles, three along each axis: mean filters of unlike ones let less
        noise pass than each.
        """
        x, y = (_spread(corners) for corners in (grid.node_x, grid.node_y))
        middle_x, middle_y = (a.ravel() for a in np.meshgrid(x.mean(axis=1), y.mean(axis=1)))
        noise = [m.evaluate(x=middle_x, y=middle_y) for m in (self.base.sky_science, self.base.sky_template)]
        corners = [np.meshgrid(x[:, i], y[:, j]) for i in (0, 1) for j in (0, 1)]
        pairs = [self.pair(at_x.ravel(), at_y.ravel(), _LOSS_SIDE) for at_x, at_y in corners]
        weights = half_plane_weights(_LOSS_SIDE) / _LOSS_SIDE**2
        left = sum(
            variance * (_power(np.mean(transforms, axis=0)) * weights).sum(axis=(1, 2))
            for variance, transforms in zip(noise, zip(*pairs, strict=True), strict=True)
        )
        total = noise[0] + noise[1] * self.flux_scale**2
        return float(np.max(1.0 - left / total))


def _spread(corners: np.ndarray) -> np.ndarray:
    """Return first and last corner of up to three of the tiles along an axis, ``(3, 2)``."""
    first = np.unique(np.linspace(0, len(corners) - 2, 3).astype(int))
    return np.stack([corners[first], corners[first + 1]], axis=1)


def _fade_out(size: int, taper: int) -> np.ndarray:
    """Return a window ``(size, size)``, float32, that falls as a cosine over so many pixels at its rim."""
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(taper) + 1) / (taper + 1))
    window = np.concatenate([rise, np.ones(size - 2 * taper), rise[::-1]])
    return np.outer(window, window).astype(np.float32)


def _power(transform: np.ndarray) -> np.ndarray:
    return transform.real**2 + transform.imag**2


def matching_kernel(
    filters: DifferenceFilters, *, x: np.ndarray, y: np.ndarray, size: int, reverse: bool
) -> np.ndarray:
    """Return kernels that give one image the PSF and flux scale of the other.

    Parameters
    ----------
    filters : `DifferenceFilters`
        PSFs and fitted correction.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels.
    size : `int`
        Side of the kernels (odd).
    reverse : `bool`
        Give the science image the PSF of the template, not the template that of the science image.

    Returns
    -------
    kernels : `numpy.ndarray`, ``(N, size, size)``
        Regularised, for masks, for filling holes and for looking; the difference does without them. They
        fade out at their rim, as the filters do.
    """
    side = 2 * size + size % 2
    base = filters.base
    pt, ps = transform_psfs(base.psf_template, base.psf_science, x=x, y=y, side=side)
    # The correction C takes the template's light to that of the science image: P_s ~ C P_s, P_t stays.
    ps = ps * transform_stamps(filters.correction(x, y), side) / filters.flux_scale
    source, goal = (ps, pt) if reverse else (pt, ps)
    power = np.abs(source) ** 2 + _WIENER * np.abs(goal) ** 2 + _FLOOR
    kernels = stamps_from_transforms(goal * np.conj(source) / power, side, size)
    kernels = kernels * _fade_out(size, size // 4)
    total = 1.0 / filters.flux_scale if reverse else filters.flux_scale
    return kernels * (total / kernels.sum(axis=(1, 2)))[:, None, None]


def fit_kernel_fields(
    kernels: np.ndarray, *, x: np.ndarray, y: np.ndarray, shape: tuple[int, int], order: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Express kernels at positions as few images with polynomial coefficients.

    Parameters
    ----------
    kernels : `numpy.ndarray`, ``(N, S, S)``
        Kernels at the positions.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels.
    shape : `tuple` [`int`, `int`]
        Shape of the image.
    order : `int`
        Degree of the polynomials.
    tolerance : `float`
        Components of which all coefficients are smaller than this, relative to the largest, are dropped.

    Returns
    -------
    images : `numpy.ndarray`, ``(C, S, S)``
        Mean kernel and principal components.
    terms : `numpy.ndarray`, ``(C, n_terms)``
        Chebyshev coefficients of each (see `spatial.chebyshev_terms`).
    """
    flat = kernels.reshape(len(kernels), -1)
    mean = flat.mean(axis=0)
    varying = flat - mean
    # Eigenvectors of the few products of kernels, rather than a decomposition of all their pixels.
    power, u = np.linalg.eigh(varying @ varying.T)
    power, u = power[::-1], u[:, ::-1]
    n = max(1, int(np.count_nonzero(power > (tolerance * np.linalg.norm(flat)) ** 2)))
    amplitude = np.sqrt(np.maximum(power[:n], np.finfo(float).tiny))
    components = (u[:, :n] / amplitude).T @ varying
    images = np.concatenate([mean[None], components]).reshape(n + 1, *kernels.shape[1:])
    weights = np.concatenate([np.ones((len(flat), 1)), u[:, :n] * amplitude], axis=1)
    basis = chebyshev_terms(x=x, y=y, shape=shape, order=order)
    return images, np.linalg.lstsq(basis, weights, rcond=None)[0].T
