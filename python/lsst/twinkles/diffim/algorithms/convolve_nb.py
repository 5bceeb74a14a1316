"""Compiled loops of the convolution by tiles."""

from __future__ import annotations

__all__ = ("add_scattered", "assemble_tile", "cut_tile", "multiply_filters")

import numpy as np

from .compile_nb import njit


@njit(cache=True, nogil=True)
def cut_tile(image, first_row, first_column, mirror, out):  # type: ignore[no-untyped-def]
    """Copy a part of an image that may reach beyond it, ``out[j, i] = image[first_row + j, first_column + i]``.

    What lies beyond is the reflection of the image (``mirror``) or zero.
    """
    ny, nx = image.shape
    tall, wide = out.shape
    begin, end = max(0, -first_column), min(wide, nx - first_column)
    for j in range(tall):
        row = first_row + j
        if row < 0 or row >= ny:
            if not mirror:
                out[j] = 0.0
                continue
            row = row % (2 * ny)
            row = min(row, 2 * ny - 1 - row)
        for i in range(begin, end):
            out[j, i] = image[row, first_column + i]
        for i in range(wide):
            if begin <= i < end:
                continue
            column = (first_column + i) % (2 * nx)
            column = min(column, 2 * nx - 1 - column)
            out[j, i] = image[row, column] if mirror else 0.0


@njit(cache=True, nogil=True, fastmath=True)
def multiply_filters(spectrum, a, b, c, d, terms, add, out):  # type: ignore[no-untyped-def]
    """Multiply the transform of a tile with a filter that is bilinear between the tile's corners.

    Parameters
    ----------
    spectrum : ``(side, half)``, complex64
        Transform of the tile.
    a, b, c, d : ``(side, half)``, complex64
        Filters at the lower corners, left and right, and at the upper ones.
    terms : ``(n,)``, int64
        Which terms are wanted: 0 constant, 1 along x, 2 along y, 3 crossed.
    add : `bool`
        Add to ``out``; otherwise overwrite.
    out : ``(n, side, half)``, complex64
        Filled with the products.
    """
    quarter = np.float32(0.25)
    for n in range(len(terms)):
        term = terms[n]
        for j in range(spectrum.shape[0]):
            for i in range(spectrum.shape[1]):
                low, high = b[j, i], c[j, i]
                if term == 0:
                    f = (a[j, i] + d[j, i]) + (low + high)
                elif term == 1:
                    f = (d[j, i] - a[j, i]) + (low - high)
                elif term == 2:
                    f = (d[j, i] - a[j, i]) - (low - high)
                else:
                    f = (a[j, i] + d[j, i]) - (low + high)
                value = spectrum[j, i] * f * quarter
                if add:
                    out[n, j, i] += value
                else:
                    out[n, j, i] = value


@njit(cache=True, nogil=True, fastmath=True)
def assemble_tile(parts, terms, halo, inner, y, x, out):  # type: ignore[no-untyped-def]
    """Add the terms of a tile and put what is kept of it into the image.

    Parameters
    ----------
    parts : ``(n, side, side)``, float32
        Convolved tile for each term (see `multiply_filters`).
    terms : ``(n,)``, int64
        Which terms these are.
    halo, inner : `int`
        Pixels at each edge that are left out, and side of what is kept.
    y, x : `int`
        Where the first pixel that is kept goes.
    out : ``(Ny, Nx)``, float32
        Filled there; what reaches beyond it is dropped.
    """
    tall, wide = min(inner, out.shape[0] - y), min(inner, out.shape[1] - x)
    step = np.float32(2.0 / inner)
    first = np.float32(1.0 / inner - 1.0)
    for j in range(tall):
        v = first + step * np.float32(j)
        for i in range(wide):
            out[y + j, x + i] = parts[0, halo + j, halo + i]
        for n in range(1, len(terms)):
            term = terms[n]
            for i in range(wide):
                u = first + step * np.float32(i)
                factor = u if term == 1 else (v if term == 2 else u * v)
                out[y + j, x + i] += factor * parts[n, halo + j, halo + i]


@njit(cache=True, nogil=True, fastmath=True)
def add_scattered(begin, end, image, stamps, tile, out):  # type: ignore[no-untyped-def]
    """Add a mostly empty image, convolved with a stamp for each square tile, in some tiles.

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
    for number in range(begin, end):
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
