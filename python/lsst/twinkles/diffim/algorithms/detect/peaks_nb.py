"""Compiled search for local maxima."""

from __future__ import annotations

__all__ = ("find_maxima",)

from numba import prange

from ..compile_nb import njit


@njit(cache=True, parallel=True, nogil=True)
def find_maxima(image, sign, threshold, radius, counts, xs):  # type: ignore[no-untyped-def]
    """Find pixels of ``sign * image`` above a threshold that no neighbour exceeds.

    Parameters
    ----------
    image : ``(Ny, Nx)``, float32
        Image.
    sign : `float`
        1 for maxima, -1 for minima.
    threshold : `float`
        Least value.
    radius : `int`
        Half side of the square of neighbours; of equal ones the first counts.
    counts : ``(Ny,)``, int64
        Filled with the number found in each row.
    xs : ``(Ny, M)``, int32
        Filled with their columns; at most ``M`` a row.
    """
    ny, nx = image.shape
    most = xs.shape[1]
    for y in prange(ny):
        n = 0
        for x in range(nx):
            value = sign * image[y, x]
            if not value > threshold:
                continue
            peak = True
            for yy in range(max(0, y - radius), min(ny, y + radius + 1)):
                for xx in range(max(0, x - radius), min(nx, x + radius + 1)):
                    other = sign * image[yy, xx]
                    if other > value or (other == value and (yy < y or (yy == y and xx < x))):
                        peak = False
            if peak and n < most:
                xs[y, n] = x
                n += 1
        counts[y] = n
