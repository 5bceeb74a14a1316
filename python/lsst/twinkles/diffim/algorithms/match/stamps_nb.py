"""Compiled loops over kernel stamps."""

from __future__ import annotations

__all__ = ("convolve_stamps", "count_in_squares", "find_peaks")

import numpy as np

from ..compile_nb import njit


@njit(cache=True, nogil=True, fastmath=True)
def convolve_stamps(begin, end, stamps, half, factors, row, column, out):  # type: ignore[no-untyped-def]
    """Convolve the stamps from ``begin`` to ``end`` with separable functions.

    Parameters
    ----------
    stamps : ``(N, P, P)``, float32
        Pixels around each centre, at least the kernel's half side wider than the result.
    half : `int`
        Half side of the results; they are ``2 * half + 1`` wide.
    factors : ``(F, size)``, float32
        One-dimensional functions.
    row, column : ``(B,)``, int64
        Factor along x and along y of each function.
    out : ``(N, B, 2 half + 1, 2 half + 1)``, float32
        Filled with the convolved stamps.
    """
    n_basis, side = out.shape[1], 2 * half + 1
    size = factors.shape[1]
    h = size // 2
    tall = side + 2 * h
    first = stamps.shape[1] // 2 - half - h
    for s in range(begin, end):
        rows = np.zeros((factors.shape[0], tall, side), dtype=np.float32)
        for f in range(factors.shape[0]):
            for j in range(tall):
                line = stamps[s, first + j]
                for k in range(size):
                    c = factors[f, k]
                    offset = first + 2 * h - k
                    for i in range(side):
                        rows[f, j, i] += c * line[offset + i]
        for b in range(n_basis):
            source = rows[row[b]]
            target = out[s, b]
            target[:] = 0.0
            for k in range(size):
                c = factors[column[b], k]
                for j in range(side):
                    for i in range(side):
                        target[j, i] += c * source[j + 2 * h - k, i]


@njit(cache=True, nogil=True)
def find_peaks(begin, end, image, threshold, border, counts, xs, ys, values):  # type: ignore[no-untyped-def]
    """Find pixels whose 3 x 3 sum is a local maximum above a threshold, in some rows.

    Parameters
    ----------
    image : ``(Ny, Nx)``, float32
        Sky-subtracted image, finite.
    threshold : `float`
        Least 3 x 3 sum.
    border : `int`
        Rows and columns left out at each side, at least 2.
    counts : ``(Ny,)``, int64
        Filled with the number of peaks in each row.
    xs, ys : ``(Ny, M)``, int32
        Filled with positions; at most ``M`` per row are kept.
    values : ``(Ny, M)``, float32
        Filled with the sums.
    """
    ny, nx = image.shape
    most = xs.shape[1]
    for y in range(max(begin, border), min(end, ny - border)):
        n = 0
        for x in range(border, nx - border):
            c = image[y, x]
            if c * 9.0 < threshold:
                continue
            peak = True
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    other = image[y + dy, x + dx]
                    if other > c or (other == c and (dy < 0 or (dy == 0 and dx < 0))):
                        peak = False
            if not peak:
                continue
            total = np.float32(0.0)
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    total += image[y + dy, x + dx]
            if total >= threshold and n < most:
                xs[y, n], ys[y, n], values[y, n] = x, y, total
                n += 1
        counts[y] = n


@njit(cache=True, nogil=True)
def count_in_squares(begin, end, bad, x, y, half, counts):  # type: ignore[no-untyped-def]
    """Count the bad pixels of squares of side ``2 half + 1``, all inside the image, around ``x``, ``y``."""
    for k in range(begin, end):
        n = 0
        for j in range(y[k] - half, y[k] + half + 1):
            for i in range(x[k] - half, x[k] + half + 1):
                n += bad[j, i]
        counts[k] = n
