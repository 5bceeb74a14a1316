"""Convolution of an image with its matching kernel, and the pixels that this spoils."""

from __future__ import annotations

__all__ = ("convolve_kernel", "refine_background", "rim_error", "spread_bad")

from collections.abc import Callable

import numpy as np

from ..convolve import convolve_varying, make_tile_grid
from ..fill_nb import spread_mask
from ..fourier import convolve_plane, transform_stamps
from ..in_threads import run_in_threads
from ..noise import cell_statistics, fit_cells

KernelFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


def convolve_kernel(
    image: np.ndarray, kernel: KernelFunction, *, size: int, side: int, workers: int
) -> np.ndarray:
    """Convolve an image with a kernel that varies over it.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Finite pixels.
    kernel : callable
        Takes positions ``x``, ``y`` of shape ``(N,)``; returns stamps ``(N, size, size)``.
    size : `int`
        Side of the kernel in pixels (odd).
    side : `int`
        Side of the Fourier tiles.
    workers : `int`
        Threads.

    Returns
    -------
    result : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Each pixel with the kernel of its own position.
    """
    grid = make_tile_grid(image.shape, halo=size // 2 + 1, side=side)
    return convolve_varying(
        [image],
        lambda x, y: [transform_stamps(kernel(x, y).astype(np.float32), grid.side)],
        grid,
        workers=workers,
    )


def spread_bad(bad: np.ndarray, kernel: np.ndarray, *, level: float) -> np.ndarray:
    """Return which pixels of a convolved image bad pixels have spoilt.

    Parameters
    ----------
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Bad pixels of the image that is convolved.
    kernel : `numpy.ndarray`, ``(S, S)``
        Kernel.
    level : `float`
        A pixel is spoilt if the kernel carries a bad one to it with more than this share of its peak.
    """
    out = bad.copy()
    if not bad.any():
        return out
    rows, cols = np.nonzero(np.abs(kernel) > level * np.abs(kernel).max())
    half = kernel.shape[0] // 2
    offsets = (rows - half).astype(np.int64), (cols - half).astype(np.int64)
    run_in_threads(spread_mask, len(bad), bad, *offsets, out)
    return out


def rim_error(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return how much of a convolved image came from beyond its rim, where there are no data.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted image, continued by reflection.
    kernel : `numpy.ndarray`, ``(S, S)``
        Kernel.

    Returns
    -------
    error : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Absolute contribution; zero farther from the rim than half the kernel.
    """
    half = kernel.shape[0] // 2
    error = np.zeros(image.shape, dtype=np.float32)
    for rows in (slice(0, 2 * half), slice(-2 * half, None)):
        for turned in (False, True):
            source = image.T if turned else image
            strip = source[rows]
            outside = np.pad(strip, half, mode="symmetric")
            outside[slice(half, None) if rows.start == 0 else slice(None, -half)] = 0.0
            carried = np.abs(convolve_plane(outside, kernel.T if turned else kernel))
            view = (error.T if turned else error)[rows]
            view += carried[half:-half, half:-half].astype(np.float32)
    return error


def refine_background(difference: np.ndarray, bad: np.ndarray, *, cell: int, order: int) -> np.ndarray:
    """Return Chebyshev coefficients of what is left of the background, from the whole image.

    The stamps of a fit see little blank sky; cells between the sources see all of it.
    """
    median, _, number, x, y = cell_statistics(difference, bad, size=cell, min_fraction=0.25)
    return fit_cells(median, number, x, y, shape=difference.shape, order=order)
