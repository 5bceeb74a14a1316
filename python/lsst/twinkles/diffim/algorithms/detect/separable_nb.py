"""Compiled correlation with kernels that are sums of products of a column and a row."""

from __future__ import annotations

__all__ = ("STEP", "correlate_separable")

import numpy as np

from ..compile_nb import LEAN, njit

# Taps that are taken at once; kernels have a multiple of it along each axis.
STEP = 5


@njit(**LEAN)
def correlate_separable(begin, end, image, tile, columns, rows, out):  # type: ignore[no-untyped-def]
    """Fill rows of ``out[y, x] = sum(kernel[j, i] image[y + j - half, x + i - half])``.

    Parameters
    ----------
    begin, end : `int`
        First row, and the one after the last.
    image : ``(Ny, Nx)``, float32
        Image; 0 beyond its rim.
    tile : `int`
        Side of the squares, from the first pixel on, that have kernels of their own.
    columns, rows : ``(Ty, Tx, R, K)``, float32
        Factors of the kernels, ``kernel[j, i] = sum_r columns[r, j] rows[r, i]``; ``K`` is an odd multiple of
        five.
    out : ``(Ny, Nx)``, float32
        Filled.
    """
    ny, nx = image.shape
    n_tiles, rank, taps = columns.shape[1], columns.shape[2], columns.shape[3]
    half = taps // 2
    line = np.empty(tile + 2 * half, np.float32)
    for y in range(begin, end):
        for t in range(n_tiles):
            x0, x1 = t * tile, min(nx, (t + 1) * tile)
            low, high = max(0, x0 - half), min(nx, x1 + half)
            target, result = line[low - x0 + half : high - x0 + half], out[y, x0:x1]
            for r in range(rank):
                down, along = columns[y // tile, t, r], rows[y // tile, t, r]
                for i in range(len(line)):
                    line[i] = np.float32(0.0)
                for j in range(0, taps, 5):
                    top = y + j - half
                    if top >= 0 and top + 5 <= ny:
                        s0, s1, s2 = image[top, low:high], image[top + 1, low:high], image[top + 2, low:high]
                        s3, s4 = image[top + 3, low:high], image[top + 4, low:high]
                        a0, a1, a2, a3, a4 = down[j], down[j + 1], down[j + 2], down[j + 3], down[j + 4]
                        for i in range(high - low):
                            target[i] += a0 * s0[i] + a1 * s1[i] + a2 * s2[i] + a3 * s3[i] + a4 * s4[i]
                    else:
                        for k in range(5):
                            if 0 <= top + k < ny:
                                a0, s0 = down[j + k], image[top + k, low:high]
                                for i in range(high - low):
                                    target[i] += a0 * s0[i]
                for j in range(0, taps, 5):
                    s0, s1, s2, s3, s4 = line[j:], line[j + 1 :], line[j + 2 :], line[j + 3 :], line[j + 4 :]
                    a0, a1, a2, a3, a4 = along[j], along[j + 1], along[j + 2], along[j + 3], along[j + 4]
                    first = r == 0 and j == 0
                    for i in range(x1 - x0):
                        before = np.float32(0.0) if first else result[i]
                        result[i] = before + (a0 * s0[i] + a1 * s1[i] + a2 * s2[i] + a3 * s3[i] + a4 * s4[i])
