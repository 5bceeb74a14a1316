"""Compiled drawing of a PSF at fractions of a pixel."""

from __future__ import annotations

__all__ = ("add_sources", "draw_psf", "force_fluxes")

import math

import numpy as np

from ..compile_nb import njit

_OVERSAMPLING = 4


@njit(cache=True, nogil=True)
def spline_taps(shift, values, slopes):  # type: ignore[no-untyped-def]
    """Fill weights of four samples for a shift in pixels, and their derivatives; return the first sample."""
    position = -_OVERSAMPLING * shift
    first = math.floor(position)
    t = position - first
    s = 1.0 - t
    values[0], values[3] = s * s * s / 6.0, t * t * t / 6.0
    values[1] = (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0
    values[2] = (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0
    slopes[0], slopes[3] = 2.0 * s * s, -2.0 * t * t
    slopes[1] = -2.0 * (3.0 * t * t - 4.0 * t)
    slopes[2] = 2.0 * (3.0 * s * s - 4.0 * s)
    return int(first) - 1


@njit(cache=True, nogil=True)
def draw_psf(coefficients, nodes, shares, dx, dy, half, out):  # type: ignore[no-untyped-def]
    """Draw a PSF and its slopes on a square of pixels.

    Parameters
    ----------
    coefficients : ``(G, 4, 4, B, B)``, float64
        Those of `SplinePsf`.
    nodes, shares : ``(4,)``
        Nodes around the position and their weights.
    dx, dy : `float`
        Offset of the source from the central pixel, in pixels; with ``half`` at most ``B // 2 - 3``.
    half : `int`
        Half side of the square.
    out : ``(3, 2 half + 1, 2 half + 1)``, float64
        Filled with the PSF and its derivatives with respect to the position along x and y.
    """
    wx, wy, sx, sy = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    first_x, first_y = spline_taps(dx, wx, sx), spline_taps(dy, wy, sy)
    middle, side = coefficients.shape[3] // 2, 2 * half + 1
    out[:] = 0.0
    for k in range(4):
        if shares[k] == 0.0:
            continue
        for ty in range(4):
            sample_y = first_y + ty
            phase_y = sample_y % _OVERSAMPLING
            row = middle - half + (sample_y - phase_y) // _OVERSAMPLING
            for tx in range(4):
                sample_x = first_x + tx
                phase_x = sample_x % _OVERSAMPLING
                col = middle - half + (sample_x - phase_x) // _OVERSAMPLING
                raster = coefficients[nodes[k], phase_y, phase_x]
                a = shares[k] * wy[ty] * wx[tx]
                b = shares[k] * wy[ty] * sx[tx]
                c = shares[k] * sy[ty] * wx[tx]
                for j in range(side):
                    for i in range(side):
                        value = raster[row + j, col + i]
                        out[0, j, i] += a * value
                        out[1, j, i] += b * value
                        out[2, j, i] += c * value


@njit(cache=True, nogil=True)
def add_sources(image, coefficients, nodes, shares, x, y, flux, half):  # type: ignore[no-untyped-def]
    """Add sources to an image, in place.

    Parameters
    ----------
    image : ``(Ny, Nx)``, float32
        Image.
    coefficients, nodes, shares
        As in `draw_psf`, ``nodes`` and ``shares`` with a row for each source.
    x, y, flux : ``(N,)``, float64
        Positions and fluxes; a flux that is not finite adds nothing.
    half : `int`
        Half side of the squares over which they are added.
    """
    ny, nx = image.shape
    stamp = np.empty((3, 2 * half + 1, 2 * half + 1))
    for n in range(len(x)):
        if not math.isfinite(flux[n]) or flux[n] == 0.0:
            continue
        ix, iy = round(x[n]), round(y[n])
        draw_psf(coefficients, nodes[n], shares[n], x[n] - ix, y[n] - iy, half, stamp)
        for row in range(max(0, iy - half), min(ny, iy + half + 1)):
            for col in range(max(0, ix - half), min(nx, ix + half + 1)):
                image[row, col] += flux[n] * stamp[0, row - iy + half, col - ix + half]


@njit(cache=True, nogil=True)
def force_fluxes(  # type: ignore[no-untyped-def]
    begin, end, image, weight, coefficients, nodes, shares, x, y, half, out
):
    """Measure the least-squares amplitude of the PSF at given positions.

    Parameters
    ----------
    begin, end : `int`
        First source, and the one after the last.
    image, weight : ``(Ny, Nx)``, float32
        Image and inverse variance.
    coefficients, nodes, shares, x, y, half
        As in `add_sources`.
    out : ``(N, 4)``, float64
        Filled with ``sum(w P I)``, ``sum(w P**2)``, the number of pixels of positive weight and
        ``sum(w I**2)``.
    """
    ny, nx = image.shape
    for n in range(begin, end):
        stamp = np.empty((3, 2 * half + 1, 2 * half + 1))
        ix, iy = round(x[n]), round(y[n])
        draw_psf(coefficients, nodes[n], shares[n], x[n] - ix, y[n] - iy, half, stamp)
        moment, power, count, square = 0.0, 0.0, 0, 0.0
        for row in range(max(0, iy - half), min(ny, iy + half + 1)):
            for col in range(max(0, ix - half), min(nx, ix + half + 1)):
                w = weight[row, col]
                if w > 0.0:
                    p, d = stamp[0, row - iy + half, col - ix + half], image[row, col]
                    moment += w * p * d
                    power += w * p * p
                    square += w * d * d
                    count += 1
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = moment, power, count, square
