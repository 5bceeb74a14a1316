"""Compiled search for pixels that are sharper than any point source."""

from __future__ import annotations

__all__ = ("find_sharp_pixels", "repair_pixels", "spread_along_tracks")

import numpy as np

from ..compile_nb import njit

_PAIRS = np.array([[0, 1], [1, 0], [1, 1], [1, -1]])
_RING = np.array(
    [[j, i] for j in range(-3, 4) for i in range(-3, 4) if max(abs(j), abs(i)) == 3], dtype=np.int64
)
_LOW_RANK = 6
_BELOW_SKY = 0.67
"""Standard deviations by which the lower quartile of blank sky lies below its mean."""


@njit(cache=True, nogil=True)
def _low_level(image, bad, y, x, values):  # type: ignore[no-untyped-def]
    """Return the lower quartile of the good pixels three pixels away; NaN with fewer than eight."""
    ny, nx = image.shape
    n = 0
    for k in range(len(_RING)):
        yy, xx = y + _RING[k, 0], x + _RING[k, 1]
        if 0 <= yy < ny and 0 <= xx < nx and not bad[yy, xx]:
            # Insertion keeps the values in order.
            value, j = image[yy, xx], n
            while j > 0 and values[j - 1] > value:
                values[j] = values[j - 1]
                j -= 1
            values[j] = value
            n += 1
    if n < 8:
        return np.nan
    return values[n * _LOW_RANK // len(_RING)]


@njit(cache=True, nogil=True)
def _is_sharp(image, variance, bad, y, x, level, ratios, margin):  # type: ignore[no-untyped-def]
    """Tell whether one of the four pairs of opposite neighbours is fainter than a point source has it."""
    ny, nx = image.shape
    height, v = image[y, x] - level, variance[y, x]
    for k in range(4):
        j, i = _PAIRS[k, 0], _PAIRS[k, 1]
        y0, y1, x0, x1 = y - j, y + j, x - i, x + i
        if y0 < 0 or y1 >= ny or x0 < 0 or x1 < 0 or x0 >= nx or x1 >= nx:
            continue
        if bad[y0, x0] or bad[y1, x1]:
            continue
        pair = 0.5 * (image[y0, x0] + image[y1, x1]) - level
        noise = np.sqrt(ratios[k] * ratios[k] * v + 0.25 * (variance[y0, x0] + variance[y1, x1]))
        if pair + margin * noise < ratios[k] * height:
            return True
    return False


@njit(cache=True, nogil=True)
def _mark_standing(image, variance, y, step2, standing):  # type: ignore[no-untyped-def]
    """Mark the pixels of a row that stand above the faintest pair by more than so many sigma, squared."""
    half, zero = np.float32(0.5), np.float32(0.0)
    above, row, below = image[y - 1], image[y], image[y + 1]
    for x in range(1, image.shape[1] - 1):
        pair = min(row[x - 1] + row[x + 1], above[x] + below[x])
        pair = min(pair, min(above[x - 1] + below[x + 1], above[x + 1] + below[x - 1]))
        rise = max(row[x] - half * pair, zero)
        standing[x] = rise * rise > step2 * variance[y, x]


@njit(cache=True, nogil=True)
def find_sharp_pixels(begin, end, image, variance, bad, ratios, threshold, least, margin, out):  # type: ignore[no-untyped-def]
    """Set ``out`` at pixels of some rows that stand out more sharply than a point source.

    Parameters
    ----------
    image, variance : ``(Ny, Nx)``
        Pixels, of any sky, and their variance.
    bad : ``(Ny, Nx)``, bool
        Pixels that are not looked at.
    ratios : ``(4,)``
        For neighbours in a row, in a column and on the two diagonals: mean of the pair over the pixel, above
        the level around, below which it is no point source.
    threshold : `float`
        Least height above the level around, in standard deviations.
    least : `float`
        Least height in counts.
    margin : `float`
        Standard deviations by which a pair has to miss what a point source would have.
    out : ``(Ny, Nx)``, bool
        Result.
    """
    ny, nx = image.shape
    # What a sharp pixel has at least above its faintest pair follows from the two conditions.
    step = threshold * (1.0 - ratios.max()) + margin * ratios.min()
    for y in range(max(begin, 1), min(end, ny - 1)):
        values = np.empty(len(_RING))
        standing = np.zeros(nx, dtype=np.bool_)
        _mark_standing(image, variance, y, np.float32(step * step), standing)
        for x in range(1, nx - 1):
            if not standing[x] or bad[y, x]:
                continue
            level = _low_level(image, bad, y, x, values)
            height = image[y, x] - level
            if not (height > least and height > (threshold + _BELOW_SKY) * np.sqrt(variance[y, x])):
                continue
            if _is_sharp(image, variance, bad, y, x, level, ratios, margin):
                out[y, x] = True


@njit(cache=True, nogil=True)
def spread_along_tracks(image, variance, bad, found, ratios, threshold, margin):  # type: ignore[no-untyped-def]
    """Add to ``found``, in place, its sharp neighbours above a lower threshold; return how many."""
    ny, nx = image.shape
    values = np.empty(len(_RING))
    blocked = bad | found
    rows, cols = np.nonzero(found)
    added = 0
    for k in range(len(rows)):
        for j in range(-1, 2):
            for i in range(-1, 2):
                y, x = rows[k] + j, cols[k] + i
                if y < 1 or x < 1 or y >= ny - 1 or x >= nx - 1 or blocked[y, x] or found[y, x]:
                    continue
                level = _low_level(image, blocked, y, x, values)
                if not image[y, x] - level > (threshold + _BELOW_SKY) * np.sqrt(variance[y, x]):
                    continue
                if _is_sharp(image, variance, blocked, y, x, level, ratios, margin):
                    found[y, x] = True
                    added += 1
    return added


@njit(cache=True, nogil=True)
def repair_pixels(image, bad, rows, cols, reach, sigma, out):  # type: ignore[no-untyped-def]
    """Fill ``out[k]`` with the mean of the good pixels around pixel k, Gaussian weights; NaN if none is."""
    ny, nx = image.shape
    for k in range(len(rows)):
        total, norm = 0.0, 0.0
        for y in range(max(0, rows[k] - reach), min(ny, rows[k] + reach + 1)):
            for x in range(max(0, cols[k] - reach), min(nx, cols[k] + reach + 1)):
                if not bad[y, x]:
                    d2 = (y - rows[k]) ** 2 + (x - cols[k]) ** 2
                    weight = np.exp(-0.5 * d2 / (sigma * sigma))
                    total += weight * image[y, x]
                    norm += weight
        out[k] = total / norm if norm > 0.0 else np.nan
