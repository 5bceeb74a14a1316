"""Compiled loop of the Lanczos resampling."""

from __future__ import annotations

__all__ = ("resample_pixels",)

import math

import numpy as np

from ..compile_nb import njit


@njit(cache=True, nogil=True, inline="always")
def _blend(nodes, row, column, u, v):  # type: ignore[no-untyped-def]
    """Interpolate nodes bilinearly; return the value and its derivatives by u and v."""
    a, b = nodes[row, column], nodes[row, column + 1]
    c, d = nodes[row + 1, column], nodes[row + 1, column + 1]
    lower, upper = a + u * (b - a), c + u * (d - c)
    return lower + v * (upper - lower), (b - a) + v * ((d - c) - (b - a)), upper - lower


@njit(cache=True, nogil=True)
def resample_pixels(  # type: ignore[no-untyped-def]
    begin,
    end,
    image,
    variance,
    mask,
    valid,
    map_x,
    map_y,
    step,
    table,
    significant,
    out_image,
    out_variance,
    out_mask,
):
    """Fill the output pixels of some rows.

    Parameters
    ----------
    image, variance : ``(Hy, Hx)``, float32
        Input pixels and variances.
    mask : ``(Hy, Hx, B)``, uint8
        Input mask bytes.
    valid : ``(Hy, Hx)``, bool
        Input pixels that have data.
    map_x, map_y : ``(Gy, Gx)``, float64
        Input positions at the nodes of the output grid.
    step : `int`
        Output pixels between nodes.
    table : ``(F + 1, T)``, float64
        Unit-sum weights of the ``T`` taps for ``F + 1`` fractions from 0 to 1.
    significant : `float`
        Weights below this neither spread masks nor need data.
    out_image, out_variance : ``(Ny, Nx)``, float32
        Filled; NaN where there are no data.
    out_mask : ``(Ny, Nx, B)``, uint8
        Filled with the bits of all pixels of significant weight.
    """
    height, width = image.shape
    n_fractions, taps = table.shape[0] - 1, table.shape[1]
    n_bytes = mask.shape[2]
    for j in range(begin, end):
        wx, wy = np.empty(taps), np.empty(taps)
        row = min(j // step, map_x.shape[0] - 2)
        v = (j - row * step) / step
        for i in range(out_image.shape[1]):
            out_image[j, i], out_variance[j, i] = np.nan, np.nan
            column = min(i // step, map_x.shape[1] - 2)
            u = (i - column * step) / step
            x, x_u, x_v = _blend(map_x, row, column, u, v)
            y, y_u, y_v = _blend(map_y, row, column, u, v)
            if not (-1.0 < x < width and -1.0 < y < height):
                continue
            area = abs(x_u * y_v - x_v * y_u) / (step * step)
            x0 = _fill_weights(x, table, n_fractions, taps, wx)
            y0 = _fill_weights(y, table, n_fractions, taps, wy)
            total, total_variance, weight_sum, has_data = 0.0, 0.0, 0.0, True
            for q in range(taps):
                yy = y0 + q
                for p in range(taps):
                    weight = wy[q] * wx[p]
                    if weight == 0.0:
                        continue
                    xx = x0 + p
                    inside = 0 <= xx < width and 0 <= yy < height
                    heavy = abs(weight) >= significant
                    if inside and heavy:
                        for b in range(n_bytes):
                            out_mask[j, i, b] |= mask[yy, xx, b]
                    if inside and valid[yy, xx]:
                        total += weight * image[yy, xx]
                        total_variance += weight * weight * variance[yy, xx]
                        weight_sum += weight
                    elif heavy:
                        has_data = False
            if has_data and weight_sum > 0.5:
                out_image[j, i] = area * total / weight_sum
                out_variance[j, i] = area * area * total_variance / (weight_sum * weight_sum)


@njit(cache=True, nogil=True)
def _fill_weights(position, table, n_fractions, taps, weights):  # type: ignore[no-untyped-def]
    """Interpolate the weights of a position; return the index of the first tap."""
    base = math.floor(position)
    place = (position - base) * n_fractions
    k = min(int(place), n_fractions - 1)
    f = place - k
    if f < 1e-6:
        f = 0.0
    elif f > 1.0 - 1e-6:
        f = 1.0
    for t in range(taps):
        weights[t] = (1.0 - f) * table[k, t] + f * table[k + 1, t]
    return base - (taps // 2 - 1)
