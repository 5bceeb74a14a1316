"""Compiled passes over all pixels: weights, and signal-to-noise ratios."""

from __future__ import annotations

__all__ = ("divide_by_noise", "weigh_pixels")

import math

import numpy as np

from .compile_nb import LEAN, njit


@njit(**LEAN)
def weigh_pixels(begin, end, image, variance, bad, sky, data, weight):  # type: ignore[no-untyped-def]
    """Fill rows of an image without its sky and of its inverse variance.

    Both are 0 where a pixel is bad, not finite, or has a variance that is not a positive number.

    Parameters
    ----------
    begin, end : `int`
        First row, and the one after the last.
    image, variance : ``(Ny, Nx)``, float32
        Pixels; not modified.
    bad : ``(Ny, Nx)``, bool
        Pixels that do not count.
    sky : ``(Ny, T)``, float64
        Sky of each row, coefficients of the powers of ``(x + 0.5) * 2 / Nx - 1``, the constant first.
    data, weight : ``(Ny, Nx)``, float32
        Filled.
    """
    nx, n_terms = image.shape[1], sky.shape[1]
    zero, infinite, one = np.float32(0.0), np.float32(np.inf), np.float32(1.0)
    place, level = np.empty(nx, np.float32), np.empty(nx, np.float32)
    for x in range(nx):
        place[x] = (x + 0.5) * (2.0 / nx) - 1.0
    for y in range(begin, end):
        pixels, noise, worthless, out, inverse = image[y], variance[y], bad[y], data[y], weight[y]
        for x in range(nx):
            level[x] = zero
        for k in range(n_terms - 1, -1, -1):
            term = np.float32(sky[y, k])
            for x in range(nx):
                level[x] = level[x] * place[x] + term
        for x in range(nx):
            v, value = noise[x], pixels[x]
            # Without branches: these become vector instructions.
            good = (not worthless[x]) & (v > zero) & (v < infinite) & (abs(value) < infinite)
            out[x] = value - level[x] if good else zero
            inverse[x] = one / v if good else zero


@njit(**LEAN)
def divide_by_noise(begin, end, numerator, power, weight, core, least, out):  # type: ignore[no-untyped-def]
    """Fill rows with ``numerator / sqrt(power)``, and 0 where there are not enough good pixels around.

    Parameters
    ----------
    begin, end : `int`
        First row, and the one after the last.
    numerator, power, weight : ``(Ny, Nx)``, float32
        Pixels; good are those of positive weight.
    core : `int`
        Side of the square, odd, in which good pixels are counted; none are beyond the image.
    least : `float`
        Share of it that has to be exceeded.
    out : ``(Ny, Nx)``, float32
        Filled.
    """
    ny, nx = out.shape
    half, needed = core // 2, least * core * core
    counts = np.zeros(nx + 2 * half, np.int64)
    for y in range(max(0, begin - half), min(ny, begin + half)):
        for x in range(nx):
            counts[x + half] += weight[y, x] > 0.0
    for y in range(begin, end):
        if y + half < ny:
            for x in range(nx):
                counts[x + half] += weight[y + half, x] > 0.0
        if y - half - 1 >= 0 and y > begin:
            for x in range(nx):
                counts[x + half] -= weight[y - half - 1, x] > 0.0
        total = 0
        for x in range(2 * half):
            total += counts[x]
        for x in range(nx):
            total += counts[x + 2 * half]
            good = total > needed and power[y, x] > 0.0
            out[y, x] = numerator[y, x] / math.sqrt(power[y, x]) if good else 0.0
            total -= counts[x]
