"""Compiled robust statistics in the cells of an image."""

from __future__ import annotations

__all__ = ("clipped_medians", "interpolate_grid", "smooth_excess", "zero_below")

import numpy as np

from .compile_nb import njit

MAD_TO_SIGMA = 1.4826


@njit(cache=True, nogil=True)
def _gather(image, bad, y0, y1, x0, x1, most, least):  # type: ignore[no-untyped-def]
    """Return the good pixels of a regular lattice in a cell; none if there are too few."""
    step = max(1, int(np.sqrt((y1 - y0) * (x1 - x0) / most)))
    while True:
        values = np.empty(((y1 - y0 + step - 1) // step) * ((x1 - x0 + step - 1) // step), dtype=np.float32)
        good, seen = 0, 0
        for y in range(y0, y1, step):
            for x in range(x0, x1, step):
                seen += 1
                if not bad[y, x]:
                    values[good] = image[y, x]
                    good += 1
        # Where most pixels are bad the others have to be looked for more closely.
        if step == 1 or 4 * good > seen:
            break
        step = max(1, step // 2)
    if good < 9 or good < least * seen:
        good = 0
    return values[:good]


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


@njit(cache=True, nogil=True)
def clipped_medians(  # type: ignore[no-untyped-def]
    begin, end, image, bad, edge_y, edge_x, most, least, clip, iterations, median, sigma, number
):
    """Fill median, robust scatter and number of pixels of each cell from ``begin`` to ``end`` after clipping.

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
    for cell in range(begin, end):
        j, i = cell // n_x, cell % n_x
        values = _gather(image, bad, edge_y[j], edge_y[j + 1], edge_x[i], edge_x[i + 1], most, least)
        if len(values) > 0:
            median[j, i], sigma[j, i], number[j, i] = _clip(values, clip, iterations)


@njit(cache=True, nogil=True, fastmath=True)
def smooth_excess(begin, end, variance, sky, bad, half, out):  # type: ignore[no-untyped-def]
    """Average what a variance plane exceeds that of the sky by, over squares, in some rows.

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
    n = 2 * half + 1
    scale = np.float32(1.0 / n**2)
    rows = np.zeros((n, nx), dtype=np.float32)
    column = np.empty(nx + 2 * half, dtype=np.float32)
    for k in range(begin - half, end + half):
        row = min(max(k, 0), ny - 1)
        excess = rows[k % n]
        for x in range(nx):
            excess[x] = np.float32(0.0) if bad[row, x] else variance[row, x] - sky[row, x]
        y = k - half
        if y < begin:
            continue
        column[half : half + nx] = rows[0]
        for j in range(1, n):
            for x in range(nx):
                column[half + x] += rows[j, x]
        column[:half] = column[half]
        column[half + nx :] = column[half + nx - 1]
        target = out[y]
        for x in range(nx):
            target[x] = column[x]
        for j in range(1, n):
            for x in range(nx):
                target[x] += column[x + j]
        for x in range(nx):
            target[x] *= scale


@njit(cache=True, nogil=True, fastmath=True)
def interpolate_grid(begin, end, values, row, row_weight, column, column_weight, out):  # type: ignore[no-untyped-def]
    """Interpolate a coarse grid bilinearly to some rows of an image.

    Parameters
    ----------
    values : ``(Gy, Gx)``, float32
        Grid.
    row, column : ``(Ny,)``, ``(Nx,)``, int64
        Lower node of each row and column of the image.
    row_weight, column_weight : ``(Ny,)``, ``(Nx,)``
        Weight of the upper node.
    out : ``(Ny, Nx)``, float32
        Filled.
    """
    last_row, last_column = values.shape[0] - 1, values.shape[1] - 1
    for y in range(begin, end):
        low, high = values[row[y]], values[min(row[y] + 1, last_row)]
        v = np.float32(row_weight[y])
        nodes = low + v * (high - low)
        target = out[y]
        for x in range(out.shape[1]):
            a, b = nodes[column[x]], nodes[min(column[x] + 1, last_column)]
            target[x] = a + np.float32(column_weight[x]) * (b - a)


@njit(cache=True, nogil=True)
def zero_below(begin, end, image, limit):  # type: ignore[no-untyped-def]
    """Set what is fainter than a limit to zero in some rows, in place."""
    for y in range(begin, end):
        row = image[y]
        for x in range(len(row)):
            row[x] = row[x] if row[x] >= limit else np.float32(0.0)
