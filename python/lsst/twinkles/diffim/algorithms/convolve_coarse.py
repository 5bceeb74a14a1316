"""Convolution at half the resolution, for what varies smoothly: variances and weights."""

from __future__ import annotations

__all__ = ("convolve_coarse",)

from collections.abc import Callable
from typing import Literal

import numpy as np

from .convolve import convolve_varying, make_tile_grid
from .fourier import transform_stamps

StampsFunction = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def convolve_coarse(
    images: list[np.ndarray],
    stamps: StampsFunction,
    *,
    half: int,
    side: int,
    workers: int,
    tolerance: float,
    beyond: Literal["reflection", "zero"] = "reflection",
) -> np.ndarray:
    """Return the sum of images, each convolved with stamps that vary over it.

    Parameters
    ----------
    images : `list` [`numpy.ndarray`], each ``(Ny, Nx)``
        Images; averaged over 2 x 2 pixels.
    stamps : callable
        Takes positions ``x``, ``y``, ``(N,)``; returns for each image its stamps ``(N, S, S)``, ``S`` odd.
    half : `int`
        Half side of the largest stamp.
    side : `int`
        Side of the Fourier tiles.
    workers : `int`
        Threads.
    tolerance : `float`
        See `convolve.convolve_varying`.
    beyond : `str`
        See there.

    Returns
    -------
    result : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Bilinear between averages; sums are conserved, peaks are blurred by about a pixel.
    """
    ny, nx = images[0].shape
    coarse = [_bin(image) for image in images]
    grid = make_tile_grid(coarse[0].shape, halo=half // 2 + 2, side=side)

    def filters(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        fine = stamps(2.0 * x + 0.5, 2.0 * y + 0.5)
        return [transform_stamps(_coarsen(s).astype(np.float32), grid.side) for s in fine]

    result = convolve_varying(coarse, filters, grid, workers=workers, tolerance=tolerance, beyond=beyond)
    return np.ascontiguousarray(_double(_double(result, 0), 1)[:ny, :nx])


def _bin(image: np.ndarray) -> np.ndarray:
    """Average over 2 x 2 pixels; an odd last row or column is repeated."""
    ny, nx = image.shape
    if ny % 2 or nx % 2:
        image = np.pad(image, ((0, ny % 2), (0, nx % 2)), mode="edge")
    rows = image[0::2] + image[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def _double(image: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly to twice as many pixels along an axis."""
    image = np.moveaxis(image, axis, 0)
    fine = np.empty((2 * image.shape[0], *image.shape[1:]), dtype=image.dtype)
    before = np.concatenate([image[:1], image[:-1]])
    after = np.concatenate([image[1:], image[-1:]])
    fine[0::2] = np.float32(0.75) * image + np.float32(0.25) * before
    fine[1::2] = np.float32(0.75) * image + np.float32(0.25) * after
    return np.moveaxis(fine, 0, axis)


def _coarsen(stamps: np.ndarray) -> np.ndarray:
    """Share out stamps of odd side to pixels twice as large, linearly."""
    half = stamps.shape[-1] // 2
    coarse = (half + 1) // 2
    fine = np.arange(-half, half + 1) / 2.0
    split = np.maximum(0.0, 1.0 - np.abs(fine[None, :] - np.arange(-coarse, coarse + 1)[:, None]))
    return np.asarray(split @ stamps @ split.T)
