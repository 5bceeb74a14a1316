"""The metric in which kernels are fitted: stamps filtered so that the noise of their difference is white."""

from __future__ import annotations

__all__ = ("cut_stamps", "filter_stamps", "prewhitening_filter")

import numpy as np
import scipy.fft

from ..fourier import transform_stamps


def prewhitening_filter(
    psf_convolved: np.ndarray,
    psf_target: np.ndarray,
    *,
    variance_convolved: float,
    variance_target: float,
    flux_scale: float,
    side: int,
) -> np.ndarray:
    """Return the filter that whitens the difference of a target and a perfectly matched image.

    Parameters
    ----------
    psf_convolved, psf_target : `numpy.ndarray`, ``(S, S)``
        Unit-sum PSF stamps.
    variance_convolved, variance_target : `float`
        Variances of the blank sky.
    flux_scale : `float`
        Target counts over convolved counts.
    side : `int`
        Side of the transform.

    Returns
    -------
    filter : `numpy.ndarray`, ``(side, side // 2 + 1)``, float64
        Real, positive, 1 at zero frequency.

    Notes
    -----
    With the kernel the PSFs imply, ``K = f P_x / P_c``, the noise of ``X - K C`` has the power
    ``v_x + v_c |K|**2``; the filter is the inverse root of it (DMTN-021 equation 4 with the
    kernel from the PSF models).  A least-squares fit of a kernel is the maximum-likelihood
    one only in this metric: where the target is the sharper image, the noise of the
    convolved image is amplified at high frequencies and would drown the fit.
    """
    pc, px = np.abs(transform_stamps(np.stack([psf_convolved, psf_target]).astype(float), side)) ** 2
    floor = 1e-10 * max(pc.max(), px.max())
    total = variance_target + variance_convolved * flux_scale**2
    return np.sqrt(
        total
        * (pc + floor)
        / (variance_target * (pc + floor) + variance_convolved * flux_scale**2 * (px + floor))
    )


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


def filter_stamps(stamps: np.ndarray, transform: np.ndarray, side: int, *, workers: int) -> np.ndarray:
    """Apply a filter (``rfft2`` on squares of ``side``) to stamps padded by reflection."""
    size = stamps.shape[1]
    before = (side - size) // 2
    after = side - size - before
    padded = np.pad(stamps.astype(np.float32), ((0, 0), (before, after), (before, after)), mode="symmetric")
    spectrum = scipy.fft.rfft2(padded, workers=workers)
    spectrum *= transform.astype(np.complex64)
    result = scipy.fft.irfft2(spectrum, s=(side, side), workers=workers, overwrite_x=True)
    return np.ascontiguousarray(result[:, before : before + size, before : before + size], dtype=np.float32)
