"""Compiled robust statistics in the cells of an image."""

from __future__ import annotations

__all__ = ("clipped_medians", "smooth_excess")

import numpy as np
from numba import prange

from .compile_nb import njit

MAD_TO_SIGMA = 1.4826


@njit(cache=True, nogil=True)
def _gather(image, bad, y0, y1, x0, x1, most, least):  # type: ignore[no-untyped-def]
    """Return a regular subset of the good pixels of a cell; empty if there are too few."""
    good = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            if not bad[y, x]:
                good += 1
    if good < 9 or good < least * (y1 - y0) * (x1 - x0):
        return np.empty(0, dtype=np.float32)
    step = max(1, good // most)
    values = np.empty((good + step - 1) // step, dtype=np.float32)
    seen = 0
    for y in range(y0, y1):
        for x in range(x0, x1):
            if not bad[y, x]:
                if seen % step == 0:
                    values[seen // step] = image[y, x]
                seen += 1
    return values


@njit(cache=True, nogil=True)
def _clip(values, clip, iterations):  # type: ignore[no-untyped-def]
    """Return median, robust scatter and number of values after clipping."""
    middle, width = np.median(values), 0.0
    for _ in range(iterations):
        distance = np.abs(values - middle)
        width = MAD_TO_SIGMA * np.median(distance)
        smaller = values[distance <= clip * width]
        if len(smaller) == len(values) or len(smaller) < 3:
            break
        values = smaller
        middle = np.median(values)
    return middle, width, len(values)


@njit(cache=True, parallel=True, nogil=True)
def clipped_medians(image, bad, edge_y, edge_x, most, least, clip, iterations, median, sigma, number):  # type: ignore[no-untyped-def]
    """Fill median, robust scatter and number of pixels of each cell after clipping.

    Parameters
    ----------
    image, bad : ``(Ny, Nx)``
        Pixels, and those to leave out.
    edge_y, edge_x : ``(Cy + 1,)``, ``(Cx + 1,)``, int64
        Edges of the cells.
    most : `int`
        A regular subset of about this many pixels of a cell is used.
    least : `float`
        Cells with a smaller share of good pixels are left alone.
    clip : `float`
        Limit in standard deviations.
    iterations : `int`
        Rounds of clipping.
    median, sigma, number : ``(Cy, Cx)``
        Filled where there are enough pixels.
    """
    n_x = len(edge_x) - 1
    for cell in prange((len(edge_y) - 1) * n_x):
        j, i = cell // n_x, cell % n_x
        values = _gather(image, bad, edge_y[j], edge_y[j + 1], edge_x[i], edge_x[i + 1], most, least)
        if len(values) > 0:
            median[j, i], sigma[j, i], number[j, i] = _clip(values, clip, iterations)


@njit(cache=True, parallel=True, nogil=True, fastmath=True)
def smooth_excess(variance, sky, bad, half, out):  # type: ignore[no-untyped-def]
    """Average what a variance plane exceeds that of the sky by, over squares; bad pixels count as zero.

    Parameters
    ----------
    variance, sky, bad : ``(Ny, Nx)``
        Variance plane, variance of blank sky, pixels without a variance of their own.
    half : `int`
        Half side of the squares; those at the rim are repeated outwards.
    out : ``(Ny, Nx)``, float32
        Filled.
    """
    ny, nx = variance.shape
    scale = np.float32(1.0 / (2 * half + 1) ** 2)
    for y in prange(ny):
        column = np.zeros(nx, dtype=np.float32)
        for k in range(y - half, y + half + 1):
            row = min(max(k, 0), ny - 1)
            for x in range(nx):
                column[x] += np.float32(0.0) if bad[row, x] else variance[row, x] - sky[row, x]
        for x in range(nx):
            total = np.float32(0.0)
            for k in range(x - half, x + half + 1):
                total += column[min(max(k, 0), nx - 1)]
            out[y, x] = total * scale
