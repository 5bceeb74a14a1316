"""Compiled sums along straight lines."""

from __future__ import annotations

__all__ = ("bin_significance", "join_strips", "sample_across")

import numpy as np
from numba import prange

from ..compile_nb import njit


@njit(cache=True, parallel=True, nogil=True)
def bin_significance(image, variance, bad, factor, clip, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with clipped significances of squares of pixels, of unit variance; 0 where all are bad."""
    ny, nx = out.shape
    low, high = np.float32(-clip), np.float32(clip)
    for y in prange(ny):
        for x in range(nx):
            total, number = np.float32(0.0), 0
            for yy in range(y * factor, min((y + 1) * factor, image.shape[0])):
                for xx in range(x * factor, min((x + 1) * factor, image.shape[1])):
                    if not bad[yy, xx]:
                        value = image[yy, xx] / np.sqrt(variance[yy, xx])
                        total += min(max(value, low), high)
                        number += 1
            if number > 0:
                out[y, x] = min(max(total / np.sqrt(np.float32(number)), low), high)


@njit(cache=True, parallel=True, nogil=True)
def join_strips(strips, out):  # type: ignore[no-untyped-def]
    """Join neighbouring strips of line sums to strips of twice the height.

    Parameters
    ----------
    strips : ``(S, H, Nx)``, float32
        Sums over the ``H`` rows of each strip along lines that start in column x of its first row and go
        0 to H - 1 columns to the right.
    out : ``(S / 2, 2 H, Nx)``, float32
        Filled with the same of pairs of strips.
    """
    n_strips, height, nx = strips.shape
    for k in prange(n_strips // 2 * 2 * height):
        pair, shift = k // (2 * height), k % (2 * height)
        low = shift // 2
        step = shift - low
        first, second = strips[2 * pair, low], strips[2 * pair + 1, low]
        target = out[pair, shift]
        for x in range(nx - step):
            target[x] = first[x] + second[x + step]
        for x in range(max(0, nx - step), nx):
            target[x] = first[x]


@njit(cache=True, parallel=True, nogil=True)
def sample_across(image, variance, bad, x0, y0, dx, dy, n_along, half, clip, out):  # type: ignore[no-untyped-def]
    """Fill ``out``, ``(n_along, 2 half + 1)``, with significances along and across a line, NaN outside.

    The line starts at (x0, y0) and goes in steps (dx, dy) of one pixel; the nearest pixels are taken.
    """
    ny, nx = image.shape
    for k in prange(n_along):
        for j in range(-half, half + 1):
            x = int(np.floor(x0 + k * dx - j * dy + 0.5))
            y = int(np.floor(y0 + k * dy + j * dx + 0.5))
            out[k, j + half] = np.nan
            if 0 <= x < nx and 0 <= y < ny and not bad[y, x]:
                value = image[y, x] / np.sqrt(variance[y, x])
                out[k, j + half] = min(max(value, -clip), clip)
