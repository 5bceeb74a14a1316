"""Compiled loops of the convolution by tiles."""

from __future__ import annotations

__all__ = ("add_scattered", "assemble_tiles", "cut_tiles", "multiply_filters")

from numba import prange

from .compile_nb import njit


@njit(cache=True, parallel=True, nogil=True)
def cut_tiles(image, first_row, columns, side, out):  # type: ignore[no-untyped-def]
    """Copy the tiles of one row of tiles, ``out[t] = image[first_row:, columns[t]:]``."""
    for k in prange(len(columns) * side):
        t, j = k // side, k % side
        for i in range(side):
            out[t, j, i] = image[first_row + j, columns[t] + i]


@njit(cache=True, parallel=True, nogil=True, fastmath=True)
def multiply_filters(spectrum, low, high, terms, add, out):  # type: ignore[no-untyped-def]
    """Multiply transforms of tiles with filters that are bilinear between the tiles' corners.

    Parameters
    ----------
    spectrum : ``(T, side, half)``, complex64
        Transforms of the tiles.
    low, high : ``(T + 1, side, half)``, complex64
        Filters at the lower and upper corners.
    terms : ``(n,)``, int64
        Which terms are wanted: 0 constant, 1 along x, 2 along y, 3 crossed.
    add : `bool`
        Add to ``out``; otherwise overwrite.
    out : ``(n, T, side, half)``, complex64
        Filled with the products.
    """
    n_tile, side, half = spectrum.shape
    for k in prange(n_tile * side):
        t, j = k // side, k % side
        for i in range(half):
            a, b = low[t, j, i], low[t + 1, j, i]
            c, d = high[t, j, i], high[t + 1, j, i]
            s = spectrum[t, j, i]
            for n in range(len(terms)):
                if terms[n] == 0:
                    f = a + b + c + d
                elif terms[n] == 1:
                    f = b + d - a - c
                elif terms[n] == 2:
                    f = c + d - a - b
                else:
                    f = a + d - b - c
                value = s * f * 0.25
                if add:
                    out[n, t, j, i] += value
                else:
                    out[n, t, j, i] = value


@njit(cache=True, parallel=True, nogil=True, fastmath=True)
def assemble_tiles(parts, terms, halo, ramp, rows, out):  # type: ignore[no-untyped-def]
    """Add the terms of one row of tiles and put them side by side.

    Parameters
    ----------
    parts : ``(n, T, side, side)``, float32
        Convolved tiles for each term (see `multiply_filters`).
    terms : ``(n,)``, int64
        Which terms these are.
    halo : `int`
        Pixels at each edge that are left out.
    ramp : ``(inner,)``, float32
        -1 to 1 across the kept part of a tile.
    rows : `int`
        Rows to keep.
    out : ``(rows, Nx)``, float32
        Filled.
    """
    inner = len(ramp)
    for j in prange(rows):
        v = ramp[j]
        for x in range(out.shape[1]):
            t, i = x // inner, x % inner
            u = ramp[i]
            total = parts[0, t, halo + j, halo + i]
            for n in range(1, len(terms)):
                value = parts[n, t, halo + j, halo + i]
                if terms[n] == 1:
                    total += u * value
                elif terms[n] == 2:
                    total += v * value
                else:
                    total += u * v * value
            out[j, x] = total


@njit(cache=True, parallel=True, nogil=True, fastmath=True)
def add_scattered(image, stamps, tile, out):  # type: ignore[no-untyped-def]
    """Add a mostly empty image, convolved with stamps that are constant within square tiles.

    Parameters
    ----------
    image : ``(Ny, Nx)``, float32
        Zero nearly everywhere; what it costs goes with the pixels that are not.
    stamps : ``(Ty, Tx, S, S)``, float32, ``S`` odd
        Stamp of each tile of ``out``.
    tile : `int`
        Side of the tiles.
    out : ``(Ny, Nx)``, float32
        Added to.
    """
    ny, nx = image.shape
    n_x = stamps.shape[1]
    half = stamps.shape[2] // 2
    for number in prange(stamps.shape[0] * n_x):
        j0, i0 = number // n_x * tile, number % n_x * tile
        j1, i1 = min(ny, j0 + tile), min(nx, i0 + tile)
        stamp = stamps[number // n_x, number % n_x]
        for y in range(max(0, j0 - half), min(ny, j1 + half)):
            for x in range(max(0, i0 - half), min(nx, i1 + half)):
                value = image[y, x]
                if value != 0.0:
                    first, last = max(i0, x - half), min(i1, x + half + 1)
                    for j in range(max(j0, y - half), min(j1, y + half + 1)):
                        for i in range(first, last):
                            out[j, i] += value * stamp[j - y + half, i - x + half]
