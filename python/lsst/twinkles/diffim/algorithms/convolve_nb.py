"""Compiled loops of the convolution by tiles."""

from __future__ import annotations

__all__ = ("add_scattered", "add_weighted", "cut_tile")


from .compile_nb import njit


@njit(cache=True, nogil=True)
def cut_tile(image, first_row, first_column, mirror, out):  # type: ignore[no-untyped-def]
    """Copy a part of an image that may reach beyond it.

    What lies beyond is the reflection of the image (``mirror``) or zero.
    """
    ny, nx = image.shape
    tall, wide = out.shape
    begin, end = max(0, -first_column), min(wide, nx - first_column)
    for j in range(tall):
        row = first_row + j
        if not mirror and (row < 0 or row >= ny):
            for i in range(wide):
                out[j, i] = 0.0
            continue
        row = row % (2 * ny)
        source = image[min(row, 2 * ny - 1 - row)]
        for i in range(begin, end):
            out[j, i] = source[first_column + i]
        for i in range(wide - (end - begin)):
            beyond = i if i < begin else end - begin + i
            column = (first_column + beyond) % (2 * nx)
            out[j, beyond] = source[min(column, 2 * nx - 1 - column)] if mirror else 0.0


@njit(cache=True, nogil=True, fastmath=True)
def add_weighted(part, along_y, along_x, halo, y, x, add, out):  # type: ignore[no-untyped-def]
    """Put what is kept of a convolved tile, with weights, into the image.

    Parameters
    ----------
    part : ``(side, side)``, float32
        Convolved tile.
    along_y, along_x : ``(inner,)``, float32
        Weights of its rows and columns.
    halo : `int`
        Pixels at each edge that are left out.
    y, x : `int`
        Where the first pixel that is kept goes.
    add : `bool`
        Add to ``out``; otherwise overwrite.
    out : ``(Ny, Nx)``, float32
        What reaches beyond it is dropped.
    """
    tall, wide = min(len(along_y), out.shape[0] - y), min(len(along_x), out.shape[1] - x)
    for j in range(tall):
        source, target = part[halo + j], out[y + j]
        for i in range(wide):
            value = along_y[j] * along_x[i] * source[halo + i]
            target[x + i] = target[x + i] + value if add else value


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
