"""Transforms of centred stamps."""

from __future__ import annotations

__all__ = (
    "convolve_plane",
    "half_plane_weights",
    "measure_extent",
    "shift_and_slopes",
    "shift_stamps",
    "stamps_from_transforms",
    "transform_stamps",
)

import numpy as np
import scipy.fft


def transform_stamps(stamps: np.ndarray, side: int, *, workers: int = 1) -> np.ndarray:
    """Return ``rfft2`` of stamps whose centre is rolled to the first pixel of a square of ``side``.

    Parameters
    ----------
    stamps : `numpy.ndarray`, ``(N, S, S)``
        Stamps with odd ``S <= side``, centred on the middle pixel.
    side : `int`
        Side of the transform.

    Returns
    -------
    transforms : `numpy.ndarray`, ``(N, side, side // 2 + 1)``, complex of the input's precision
        Filters in the sense of `convolve.convolve_varying`.
    """
    size = stamps.shape[-1]
    if size > side:
        raise ValueError(f"Stamps of {size} pixels do not fit a transform of {side}; enlarge the tiles.")
    half = size // 2
    # Along x only where there are pixels: most rows of the square are empty.
    rows = np.zeros((len(stamps), size, side), dtype=stamps.dtype)
    rows[:, :, : half + 1] = stamps[:, :, half:]
    if half:
        rows[:, :, -half:] = stamps[:, :, :half]
    along_x = scipy.fft.rfft(rows, axis=-1, workers=workers)
    square = np.zeros((len(stamps), side, along_x.shape[-1]), dtype=along_x.dtype)
    square[:, : half + 1] = along_x[:, half:]
    if half:
        square[:, -half:] = along_x[:, :half]
    return scipy.fft.fft(square, axis=1, workers=workers, overwrite_x=True)


def stamps_from_transforms(transforms: np.ndarray, side: int, size: int) -> np.ndarray:
    """Return the central ``size`` (odd) pixels of the inverse transforms, ``(N, size, size)``."""
    half = size // 2
    images = scipy.fft.irfft2(transforms, s=(side, side))
    return np.roll(images, (half, half), axis=(-2, -1))[:, :size, :size]


def convolve_plane(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return an image, zero beyond its rim, convolved with one kernel of odd sides; of the image's shape.

    What `scipy.signal.fftconvolve` does with ``mode="same"``, without half a second for that import.
    """
    shape = [
        scipy.fft.next_fast_len(n + k - 1, real=True) for n, k in zip(image.shape, kernel.shape, strict=True)
    ]
    full = scipy.fft.irfft2(scipy.fft.rfft2(image, s=shape) * scipy.fft.rfft2(kernel, s=shape), s=shape)
    y, x = (k // 2 for k in kernel.shape)
    return full[y : y + image.shape[0], x : x + image.shape[1]]


def shift_stamps(stamps: np.ndarray, *, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return stamps ``(N, S, S)`` that vanish towards their edges, shifted by fractions of a pixel."""
    spectrum, side, *_ = _shifted_spectra(stamps, dx, dy)
    return _cut_inverse(spectrum, side, stamps.shape[-1])


def shift_and_slopes(
    stamps: np.ndarray, *, dx: np.ndarray, dy: np.ndarray, step: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shifted stamps (see `shift_stamps`) and their slopes along x and y.

    A slope is the difference of two that are shifted by ``step`` more and less, over the distance.
    """
    spectrum, side, ky, kx = _shifted_spectra(stamps, dx, dy)
    centred, along_x, along_y = (
        _cut_inverse(spectrum * factor, side, stamps.shape[-1])
        for factor in (1.0, 1j * np.sin(kx * step) / step, 1j * np.sin(ky * step) / step)
    )
    return centred, along_x, along_y


def _shifted_spectra(
    stamps: np.ndarray, dx: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Return transforms of shifted stamps, their side, and the frequencies along y and x."""
    side = scipy.fft.next_fast_len(stamps.shape[-1] + 4, real=True)
    ky = 2.0 * np.pi * np.fft.fftfreq(side)[:, None]
    kx = 2.0 * np.pi * np.fft.rfftfreq(side)[None, :]
    spectra = scipy.fft.rfft2(stamps, s=(side, side))
    spectra *= np.exp(-1j * kx * dx[:, None, None])
    spectra *= np.exp(-1j * ky * dy[:, None, None])
    return spectra, side, ky, kx


def _cut_inverse(spectra: np.ndarray, side: int, size: int) -> np.ndarray:
    return np.asarray(scipy.fft.irfft2(spectra, s=(side, side))[:, :size, :size])


def half_plane_weights(side: int) -> np.ndarray:
    """Return how many frequencies each column of an ``rfft2`` of ``side`` stands for."""
    weights = np.full(side // 2 + 1, 2.0)
    weights[0] = 1.0
    if side % 2 == 0:
        weights[-1] = 1.0
    return weights


def measure_extent(energy: np.ndarray, tolerance: float) -> int:
    """Return the half side of the centred square that holds all but a share of an odd image."""
    half = energy.shape[0] // 2
    rows, cols = np.mgrid[-half : half + 1, -half : half + 1]
    ring = np.bincount(np.maximum(np.abs(rows), np.abs(cols)).ravel(), weights=energy.ravel())
    return int(np.searchsorted(np.cumsum(ring) / ring.sum(), 1.0 - tolerance)) + 1
