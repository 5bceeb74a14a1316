"""The metric in which kernels are fitted: stamps filtered so that the noise of their difference is white."""

from __future__ import annotations

__all__ = (
    "PrewhiteningFilters",
    "StampFilters",
    "cut_stamps",
    "feature_covariance",
    "filter_power",
    "filter_stamps",
    "matched_filter",
    "transform_psfs",
)

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.fft

from ..fourier import half_plane_weights, transform_stamps
from ..noise import NoiseMap
from ..psf_grid import PsfGrid

# Power of a PSF, relative to that at zero frequency, below which a model says nothing.
_FLOOR = 1e-10
# Radius, as a fraction of the stamp's, from which PSFs are tapered.
_TAPER = 0.7


class StampFilters(Protocol):
    """What stamps are convolved with before a kernel is fitted."""

    def __call__(
        self, *, x: np.ndarray, y: np.ndarray, side: int, flux_scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the filters of the image to be convolved and of the target.

        Parameters
        ----------
        x, y : `numpy.ndarray`, ``(N,)``
            Positions in pixels.
        side : `int`
            Side of the transforms.
        flux_scale : `float`
            Target counts over convolved counts.

        Returns
        -------
        convolved, target : `numpy.ndarray`, ``(N, side, side // 2 + 1)``
            1 at zero frequency; the noise of the difference of the filtered images is white.
        """
        ...


@dataclass(frozen=True)
class PrewhiteningFilters:
    """The same filter for both images, which whitens their difference once they are matched.

    Attributes
    ----------
    psf_convolved, psf_target : `PsfGrid`
        Unit-sum PSFs.
    sky_convolved, sky_target : `NoiseMap`
        Variances of the blank sky.

    Notes
    -----
    With the kernel the PSFs imply, ``K = f P_x / P_c``, the noise of ``X - K C`` has the power
    ``v_x + v_c |K|**2``; the filter is the inverse root of it (DMTN-021 equation 4 with the
    kernel from the PSF models).  A least-squares fit of a kernel is the maximum-likelihood
    one only in this metric: where the target is the sharper image, the noise of the
    convolved image is amplified at high frequencies and would drown the fit.
    """

    psf_convolved: PsfGrid
    psf_target: PsfGrid
    sky_convolved: NoiseMap
    sky_target: NoiseMap

    def __call__(
        self, *, x: np.ndarray, y: np.ndarray, side: int, flux_scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the filter twice (see `StampFilters`)."""
        pc, px = (
            np.abs(t) ** 2 for t in transform_psfs(self.psf_convolved, self.psf_target, x=x, y=y, side=side)
        )
        vc = self.sky_convolved.evaluate(x=x, y=y)[:, None, None] * flux_scale**2
        vx = self.sky_target.evaluate(x=x, y=y)[:, None, None]
        result = np.sqrt((vx + vc) * (pc + _FLOOR) / (vx * (pc + _FLOOR) + vc * (px + _FLOOR)))
        return result, result


def transform_psfs(
    *psfs: PsfGrid, x: np.ndarray, y: np.ndarray, side: int, dtype: type = np.float64
) -> list[np.ndarray]:
    """Return transforms of PSFs at positions, all from stamps of one size that ``side`` holds."""
    size = min(max(psf.size for psf in psfs), side - 1 + side % 2)
    tapered = [_taper(psf.padded(size).evaluate(x=x, y=y)) for psf in psfs]
    # Transformed in double precision in any case: filters are ratios of values far below the largest.
    kind = np.result_type(dtype, np.complex64)
    return [transform_stamps(stamps, side).astype(kind, copy=False) for stamps in tapered]


def _taper(stamps: np.ndarray) -> np.ndarray:
    """Let stamps go to zero smoothly towards their rim: an edge there would ring in their transforms."""
    half = stamps.shape[-1] // 2
    rows, cols = np.mgrid[-half : half + 1, -half : half + 1]
    fraction = (np.hypot(rows, cols) / half - _TAPER) / (1.0 - _TAPER)
    tapered = stamps * np.cos(0.5 * np.pi * np.clip(fraction, 0.0, 1.0)) ** 2
    return tapered / tapered.sum(axis=(-2, -1), keepdims=True)


def matched_filter(
    psf_convolved: PsfGrid,
    psf_target: PsfGrid,
    target: np.ndarray,
    *,
    x: np.ndarray,
    y: np.ndarray,
    side: int,
) -> np.ndarray:
    """Return what filter and matching kernel together do to the noise of the convolved image.

    The amplitude of ``A P_x / P_c``, ``A`` being the filter ``target`` of the other image.
    """
    pc, px = (np.abs(t) ** 2 for t in transform_psfs(psf_convolved, psf_target, x=x, y=y, side=side))
    return np.abs(target) * np.sqrt((px + _FLOOR) / (pc + _FLOOR))


def feature_covariance(images: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Return the covariance at a pixel of noise that went through filters and functions.

    Parameters
    ----------
    images : `numpy.ndarray`, ``(B, S, S)``
        Functions.
    spectrum : `numpy.ndarray`, ``(side, side // 2 + 1)``
        Power spectrum of the noise before them, of unit mean for white noise of unit variance.

    Returns
    -------
    covariance : `numpy.ndarray`, ``(B, B)``
        ``E[n_i n_j]``.
    """
    side = spectrum.shape[0]
    transforms = transform_stamps(images, side)
    scaled = (transforms * np.sqrt(spectrum * half_plane_weights(side))).reshape(len(images), -1) / side
    return (scaled @ scaled.conj().T).real


def filter_power(transforms: np.ndarray, side: int) -> np.ndarray:
    """Return the sums of squares of filters given by their transforms, ``(N,)``."""
    return (np.abs(transforms) ** 2 @ half_plane_weights(side)).sum(axis=-1) / side**2


def cut_stamps(image: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Cut stamps of side ``2 half + 1``; pixels beyond the rim repeat it by reflection.

    Returns
    -------
    stamps : `numpy.ndarray`, ``(N, 2 half + 1, 2 half + 1)``
        Copies.
    """
    offset = np.arange(-half, half + 1)
    ny, nx = image.shape
    rows, cols = _reflect(y[:, None] + offset, ny), _reflect(x[:, None] + offset, nx)
    return image[rows[:, :, None], cols[:, None, :]]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    period = 2 * size
    index = np.mod(index, period)
    return np.where(index < size, index, period - 1 - index)


def filter_stamps(stamps: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """Apply a filter (``rfft2`` on squares of ``side``) to stamps padded by reflection."""
    size = stamps.shape[1]
    before = (side - size) // 2
    after = side - size - before
    padded = np.pad(stamps.astype(np.float32), ((0, 0), (before, after), (before, after)), mode="symmetric")
    spectrum = scipy.fft.rfft2(padded)
    spectrum *= transform.astype(np.complex64)
    result = scipy.fft.irfft2(spectrum, s=(side, side), overwrite_x=True)
    return np.ascontiguousarray(result[:, before : before + size, before : before + size], dtype=np.float32)
