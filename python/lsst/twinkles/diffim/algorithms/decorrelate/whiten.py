"""The spatially varying filter that makes the noise of a difference image white."""

from __future__ import annotations

__all__ = ("Whitener", "propagate_variance", "source_variance", "whiten")

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..cells_nb import smooth_excess, zero_faint
from ..convolve import TileGrid, choose_tile_grid, convolve_varying
from ..convolve_nb import add_scattered
from ..fourier import measure_extent, stamps_from_transforms, transform_stamps
from ..in_threads import run_in_threads
from ..noise import NoiseMap
from ..psf_grid import PsfGrid
from ..robust import robust_scatter

# Error of the filter that is let pass: it leaves the noise white to a few thousandths.
_LARGEST_ERROR = 0.03

# Side of the transforms from which the squared filters that carry the variance of sources are made, and of
# the tiles within which these are constant.
_VARIANCE_SIDE = 64
_VARIANCE_TILE = 320
# Half side of the squares over which a variance plane is averaged.
_SMOOTHING_HALF = 2
# Noise of the mean of so many pixels over that of independent ones, at most: in resampled images.
_CORRELATED = 3.0
# Part of the variance of the sky that is taken from a pixel at most.
_DARKEST = -0.8

KernelFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
PairFunction = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Whitener:
    """Whitening filter of ``target - kernel * convolved``.

    Attributes
    ----------
    kernel : callable
        Takes positions ``x``, ``y`` of shape ``(N,)``; returns kernel stamps ``(N, S, S)``.
    target, convolved : `NoiseMap`
        Variance of the blank sky of the two images.
    kernel_sum : `float`
        Sum of the kernel.
    """

    kernel: KernelFunction
    target: NoiseMap
    convolved: NoiseMap
    kernel_sum: float

    def filters(self, x: np.ndarray, y: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return filter and kernel transforms at positions, ``(N, side, side // 2 + 1)`` each.

        Notes
        -----
        ``sqrt((v_x + v_c f**2) / (v_x + v_c |K|**2))``, ``f`` the kernel sum: equation 4 of DMTN-021,
        evaluated with the kernel and the noise of each position.  Real and 1 at zero frequency, so that
        positions and fluxes stay.
        """
        transforms = transform_stamps(self.kernel(x, y).astype(np.float32), side)
        target = self.target.evaluate(x=x, y=y)[:, None, None].astype(np.float32)
        convolved = self.convolved.evaluate(x=x, y=y)[:, None, None].astype(np.float32)
        power = transforms.real**2 + transforms.imag**2
        ratio = (target + convolved * np.float32(self.kernel_sum) ** 2) / (target + convolved * power)
        return np.sqrt(ratio), transforms

    def pair(self, x: np.ndarray, y: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what target and convolved image go through, ``(N, side, side // 2 + 1)`` each."""
        white, kernel = self.filters(x, y, side)
        return white, white * kernel

    def sky_image(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the variance of blank sky after whitening, ``shape`` float32."""
        return self.target.plus(self.convolved.scaled(self.kernel_sum**2)).image(shape)

    def stamps(self, *, x: np.ndarray, y: np.ndarray, size: int, side: int = 128) -> np.ndarray:
        """Return the filter as stamps, ``(N, size, size)``."""
        return stamps_from_transforms(self.filters(np.asarray(x), np.asarray(y), side)[0], side, size)

    def extent(self, *, x: float, y: float, tolerance: float, side: int = 256) -> int:
        """Return the half side that holds all but ``tolerance`` of the filter's energy."""
        stamp = self.stamps(x=np.array([x]), y=np.array([y]), size=side - 1, side=side)[0]
        return measure_extent(stamp**2, tolerance)

    def apply_to_psf(
        self, psf: PsfGrid, *, x: np.ndarray, y: np.ndarray, size: int, side: int = 128
    ) -> PsfGrid:
        """Return the PSF of the whitened difference on a grid of positions.

        Parameters
        ----------
        psf : `PsfGrid`
            PSF before whitening (that of the target).
        x, y : `numpy.ndarray`, ``(Gx,)``, ``(Gy,)``
            Grid columns and rows.
        size : `int`
            Side of the stamps.
        """
        grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
        filters, _ = self.filters(grid_x, grid_y, side)
        transforms = transform_stamps(psf.evaluate(x=grid_x, y=grid_y), side) * filters
        stamps = stamps_from_transforms(transforms, side, size)
        stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return PsfGrid(stamps=stamps.reshape(len(y), len(x), size, size), x=np.asarray(x), y=np.asarray(y))


def whiten(
    difference: np.ndarray, whitener: Whitener, *, workers: int, side: int, tolerance: float
) -> np.ndarray:
    """Convolve a difference image with its whitening filter.

    Parameters
    ----------
    difference : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Finite pixels.
    whitener : `Whitener`
        The filter.
    workers : `int`
        Threads.
    side : `int`
        Side of the Fourier tiles.
    tolerance : `float`
        Share of the filter's energy that may be cut.

    Returns
    -------
    corrected : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Difference with white noise.
    """
    grid = _grid_for(difference.shape, whitener, side, tolerance)
    return convolve_varying(
        [difference], lambda x, y: [whitener.filters(x, y, grid.side)[0]], grid, workers=workers
    )


def _grid_for(shape: tuple[int, int], whitener: Whitener, side: int, tolerance: float) -> TileGrid:
    """Return tiles within which the filter is nearly bilinear: a kernel that varies much needs small ones."""
    extent = whitener.extent(x=shape[1] / 2, y=shape[0] / 2, tolerance=tolerance)
    return choose_tile_grid(
        shape,
        halo=int(np.clip(extent, 8, 64)),
        side=side,
        error=partial(_interpolation_error, whitener),
        largest_error=_LARGEST_ERROR,
    )


def _interpolation_error(whitener: Whitener, grid: TileGrid) -> float:
    """Return the largest error of the filter in the middle of a tile, from its values at the corners."""
    x, y = grid.node_x, grid.node_y

    def evaluate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        grid_x, grid_y = np.meshgrid(x, y)
        filters, _ = whitener.filters(grid_x.ravel(), grid_y.ravel(), 64)
        return filters.reshape(len(y), len(x), *filters.shape[1:])

    corners, middle = evaluate(x, y), evaluate((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
    bilinear = (corners[1:, 1:] + corners[1:, :-1] + corners[:-1, 1:] + corners[:-1, :-1]) / 4
    return float(np.abs(bilinear / middle - 1).max())


def source_variance(
    variance: np.ndarray, sky: NoiseMap, bad: np.ndarray, *, threshold: float = 3.0
) -> np.ndarray:
    """Return what the sources add to a variance plane, free of the pixels' own noise.

    A variance plane made of observed counts follows the noise of its pixels; it is
    averaged over 5 x 5 pixels, and what does not stand out by ``threshold`` is set to zero.

    Returns
    -------
    excess : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Zero in blank sky and at bad pixels; negative in the dark places of a field so full of sources that
        the median of its variances, ``sky``, is not that of its darkest pixels.
    """
    smooth = np.empty(variance.shape, dtype=np.float32)
    level = sky.image(variance.shape)
    run_in_threads(smooth_excess, len(smooth), variance, level, bad, _SMOOTHING_HALF, smooth)
    width = _noise_of_variances(variance, level, smooth, bad)
    limit = np.float32(threshold * width + 1e-6 * sky.median)
    run_in_threads(zero_faint, len(smooth), smooth, level, limit, np.float32(_DARKEST))
    return smooth


def _noise_of_variances(
    variance: np.ndarray, level: np.ndarray, smooth: np.ndarray, bad: np.ndarray
) -> float:
    """Return the noise of a smoothed variance plane.

    It is the scatter of the smoothed one, unless light of sources is everywhere in it: not more than three
    times what the single pixels, which scatter about it, leave in a mean of so many independent ones.
    """
    every = np.s_[:: max(1, len(smooth) // 512), :: max(1, smooth.shape[1] // 512)]
    use = ~bad[every]
    if not use.any():
        return 0.0
    sample = smooth[every][use]
    single = np.asarray(variance[every][use], float) - level[every][use] - sample
    width, of_pixels = (robust_scatter(v) for v in (sample, single))
    return min(width, _CORRELATED * of_pixels / (2 * _SMOOTHING_HALF + 1))


def propagate_variance(
    target_excess: np.ndarray,
    convolved_excess: np.ndarray,
    *,
    filters: PairFunction,
    sky: np.ndarray,
    psfs: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return the variance plane of the difference.

    Parameters
    ----------
    target_excess, convolved_excess : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Variance that the sources add in the two images (`source_variance`), zero in most pixels.
    filters : callable
        Takes positions ``x``, ``y`` and the side of transforms; returns the transforms of the filters
        that the pixels of the two images went through (see `Whitener.pair`).
    sky : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Variance of the blank sky of the difference; becomes the result.
    psfs : 2-tuple of `numpy.ndarray`, ``(S, S)``, optional
        PSFs of the two images, unit sum, with which the plane gets right what errors of PSF fluxes need;
        without them it is that of single pixels.

    Returns
    -------
    variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Sky and photon noise: ``v + a**2 * e_x + b**2 * e_c`` with the filters ``a`` and
        ``b`` that the pixels of the two images went through. A variance needs them to a few percent only:
        constant within tiles, their squares cut where the last percent of their sum is left.

    Notes
    -----
    Where sky has been whitened, the photon noise of sources is not white: it went through one of the filters
    only. The variance of a PSF flux then is not what that of single pixels tells, but two thirds of it where
    that filter sharpens, and up to fourteen times where it is twice as wide as the PSF. With ``psfs`` each
    term is multiplied by that ratio for a star, the smoothing of `source_variance` allowed for
    (`_correlated_share`). On light that is wider by half, errors come out up to 4 percent too large.
    """
    variance = np.asarray(sky, dtype=np.float32)
    ny, nx = variance.shape
    x, y = (np.minimum(np.arange(0, n, _VARIANCE_TILE) + 0.5 * _VARIANCE_TILE, n - 1.0) for n in (nx, ny))
    grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
    pair = filters(grid_x, grid_y, _VARIANCE_SIDE)
    stamps_of = (None, None) if psfs is None else psfs
    for excess, transforms, psf in zip((target_excess, convolved_excess), pair, stamps_of, strict=True):
        squares = stamps_from_transforms(transforms, _VARIANCE_SIDE, _VARIANCE_SIDE - 1) ** 2
        total = squares.sum(axis=(1, 2), keepdims=True)
        if psf is not None:
            total = total * _correlated_share(transforms, squares, psf)
        cut = squares.shape[-1] // 2 - measure_extent(squares.mean(axis=0).astype(float), 0.01)
        if cut > 0:
            squares = squares[:, cut:-cut, cut:-cut]
        squares *= total / squares.sum(axis=(1, 2), keepdims=True)
        stamps = squares.reshape(len(y), len(x), *squares.shape[1:]).astype(np.float32)
        run_in_threads(add_scattered, len(grid_x), excess, stamps, _VARIANCE_TILE, variance)
    return variance


def _correlated_share(transforms: np.ndarray, squares: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return what the photon noise of a star adds to the variance of a PSF flux, over what its pixels tell.

    Parameters
    ----------
    transforms : `numpy.ndarray`, ``(N, side, side // 2 + 1)``
        Filters ``a`` that the pixels went through.
    squares : `numpy.ndarray`, ``(N, side - 1, side - 1)``
        Their squares, pixel by pixel.
    psf : `numpy.ndarray`, ``(S, S)``
        PSF ``p`` of the image.

    Returns
    -------
    share : `numpy.ndarray`, ``(N, 1, 1)``
        ``sum(p (a x q)**2) / sum((a**2 * p') q**2)`` with ``q = a * p`` and ``p'`` smoothed as
        `source_variance` does; ``*`` is a convolution, ``x`` a correlation.
    """
    side, size = _VARIANCE_SIDE, _VARIANCE_SIDE - 1
    cut = max(0, (psf.shape[-1] - size + 1) // 2)
    star = transform_stamps(psf[None, cut : psf.shape[0] - cut, cut : psf.shape[1] - cut].astype(float), side)
    width = 2 * _SMOOTHING_HALF + 1
    smooth = transform_stamps(np.full((1, width, width), 1.0 / width**2), side) * star
    spread = np.maximum(stamps_from_transforms(transform_stamps(squares, side) * smooth, side, size), 0.0)
    seen = stamps_from_transforms(transforms * star, side, size)
    weight = stamps_from_transforms(np.abs(transforms) ** 2 * star, side, size)
    profile = stamps_from_transforms(star, side, size)
    true, told = (profile * weight**2).sum(axis=(1, 2)), (spread * seen**2).sum(axis=(1, 2))
    return (true / told)[:, None, None]
