"""Compiled robust statistics in the cells of an image."""

from __future__ import annotations

__all__ = ("MAD_TO_SIGMA", "clipped_medians", "interpolate_grid", "smooth_excess", "zero_faint")

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
def _select(values, n, rank):  # type: ignore[no-untyped-def]
    """Return the value of a rank among the first ``n``, which are put in another order (quickselect)."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]


@njit(cache=True, nogil=True)
def _median(values, n):  # type: ignore[no-untyped-def]
    """Return the median of the first ``n`` values, which are put in another order.

    That of numpy, compiled, takes several times as long to compile as all else here.
    """
    middle = _select(values, n, n // 2)
    if n % 2 == 1:
        return float(middle)
    # What is left of the middle is not larger.
    below = values[0]
    for k in range(1, n // 2):
        below = max(below, values[k])
    return 0.5 * (below + middle)


@njit(cache=True, nogil=True)
def _clip(values, clip, iterations):  # type: ignore[no-untyped-def]
    """Return median, robust scatter and number of values after clipping; changes the values."""
    n = len(values)
    distance = np.empty(n, dtype=np.float32)
    middle, width = _median(values, n), 0.0
    for _ in range(iterations):
        for k in range(n):
            distance[k] = abs(values[k] - middle)
        width = MAD_TO_SIGMA * _median(distance, n)
        kept = 0
        for k in range(n):
            kept += abs(values[k] - middle) <= clip * width
        if kept == n or kept < 3:
            break
        kept = 0
        for k in range(n):
            if abs(values[k] - middle) <= clip * width:
                values[kept] = values[k]
                kept += 1
        n = kept
        middle = _median(values, n)
    return middle, width, n


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
        for x in range(nx):
            column[half + x] = rows[0, x]
        for j in range(1, n):
            for x in range(nx):
                column[half + x] += rows[j, x]
        for x in range(half):
            column[x], column[half + nx + x] = column[half], column[half + nx - 1]
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
def zero_faint(begin, end, image, level, limit, lowest):  # type: ignore[no-untyped-def]
    """Set what is within a limit of zero to zero, and less than ``lowest * level`` to that, in some rows."""
    for y in range(begin, end):
        row, floor = image[y], level[y]
        for x in range(len(row)):
            value = max(row[x], lowest * floor[x])
            row[x] = value if abs(value) >= limit else np.float32(0.0)
