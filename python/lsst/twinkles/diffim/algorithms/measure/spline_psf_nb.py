"""Compiled drawing of a PSF at fractions of a pixel."""

from __future__ import annotations

__all__ = ("add_sources", "blend_nodes", "draw_psf", "force_fluxes")

import math

import numpy as np

from ..compile_nb import LEAN, njit

_OVERSAMPLING = 4


@njit(**LEAN)
def blend_nodes(coefficients, nodes, shares, n, local):  # type: ignore[no-untyped-def]
    """Fill the spline coefficients of the PSF at a source, ``(4, 4, B, B)``, from those of the nodes around.

    ``nodes`` and ``shares`` have a row for each source, of which row ``n`` is taken.
    """
    side = local.shape[2]
    a, b = np.float32(shares[n, 0]), np.float32(shares[n, 1])
    c, d = np.float32(shares[n, 2]), np.float32(shares[n, 3])
    for py in range(_OVERSAMPLING):
        for px in range(_OVERSAMPLING):
            for j in range(side):
                target = local[py, px, j]
                s0, s1 = coefficients[nodes[n, 0], py, px, j], coefficients[nodes[n, 1], py, px, j]
                s2, s3 = coefficients[nodes[n, 2], py, px, j], coefficients[nodes[n, 3], py, px, j]
                for i in range(side):
                    target[i] = a * s0[i] + b * s1[i] + c * s2[i] + d * s3[i]


@njit(**LEAN)
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


@njit(**LEAN)
def draw_psf(local, dx, dy, half, taps, out):  # type: ignore[no-untyped-def]
    """Draw a PSF and its slopes on a square of pixels.

    Parameters
    ----------
    local : ``(4, 4, B, B)``, float32
        Coefficients at the source (`blend_nodes`, or those of a node of `SplinePsf`).
    dx, dy : `float`
        Offset of the source from the central pixel, in pixels; with ``half`` at most ``B // 2 - 3``.
    half : `int`
        Half side of the square.
    taps : ``(4, 4)``, float64
        Work space.
    out : ``(3, 2 half + 1, 2 half + 1)``, float64
        Filled with the PSF and its derivatives with respect to the position along x and y.

    Notes
    -----
    Four samples a pixel along each axis: the weights of x combine four neighbouring samples of a row, which
    lie in rasters of four phases at the same pixel or the next, those of y four such rows. The loop along x
    has no branches and becomes vector instructions.
    """
    first_x, first_y = spline_taps(dx, taps[0], taps[1]), spline_taps(dy, taps[2], taps[3])
    low, side = local.shape[2] // 2 - half, 2 * half + 1
    a0, a1, a2, a3 = taps[0, 0], taps[0, 1], taps[0, 2], taps[0, 3]
    b0, b1, b2, b3 = taps[1, 0], taps[1, 1], taps[1, 2], taps[1, 3]
    p0, p1 = first_x % _OVERSAMPLING, (first_x + 1) % _OVERSAMPLING
    p2, p3 = (first_x + 2) % _OVERSAMPLING, (first_x + 3) % _OVERSAMPLING
    c0, c1 = low + (first_x - p0) // _OVERSAMPLING, low + (first_x + 1 - p1) // _OVERSAMPLING
    c2, c3 = low + (first_x + 2 - p2) // _OVERSAMPLING, low + (first_x + 3 - p3) // _OVERSAMPLING
    for j in range(side):
        value, slope_x, slope_y = out[0, j], out[1, j], out[2, j]
        for k in range(4):
            phase = (first_y + k) % _OVERSAMPLING
            row = low + (first_y + k - phase) // _OVERSAMPLING + j
            s0, s1 = local[phase, p0, row, c0 : c0 + side], local[phase, p1, row, c1 : c1 + side]
            s2, s3 = local[phase, p2, row, c2 : c2 + side], local[phase, p3, row, c3 : c3 + side]
            v, w = taps[2, k], taps[3, k]
            for i in range(side):
                along = a0 * s0[i] + a1 * s1[i] + a2 * s2[i] + a3 * s3[i]
                steep = b0 * s0[i] + b1 * s1[i] + b2 * s2[i] + b3 * s3[i]
                if k == 0:
                    value[i], slope_x[i], slope_y[i] = v * along, v * steep, w * along
                else:
                    value[i] += v * along
                    slope_x[i] += v * steep
                    slope_y[i] += w * along


@njit(**LEAN)
def add_sources(begin, end, image, coefficients, nodes, shares, x, y, flux, half):  # type: ignore[no-untyped-def]
    """Add sources to some rows of an image, in place.

    Parameters
    ----------
    begin, end : `int`
        First row, and the one after the last.
    image : ``(Ny, Nx)``, float32
        Image.
    coefficients, nodes, shares
        Those of `SplinePsf` and `SplinePsf.nodes_at`, a row for each source.
    x, y, flux : ``(N,)``, float64
        Positions and fluxes; a flux that is not finite adds nothing.
    half : `int`
        Half side of the squares over which they are added.
    """
    nx, base, side = image.shape[1], coefficients.shape[3], 2 * half + 1
    stamp, local, taps = np.empty((3, side, side)), np.empty((4, 4, base, base), np.float32), np.empty((4, 4))
    for n in range(len(x)):
        if not math.isfinite(flux[n]) or flux[n] == 0.0:
            continue
        ix, iy = round(x[n]), round(y[n])
        if iy + half < begin or iy - half >= end or ix + half < 0 or ix - half >= nx:
            continue
        blend_nodes(coefficients, nodes, shares, n, local)
        draw_psf(local, x[n] - ix, y[n] - iy, half, taps, stamp)
        for row in range(max(begin, iy - half), min(end, iy + half + 1)):
            for col in range(max(0, ix - half), min(nx, ix + half + 1)):
                image[row, col] += flux[n] * stamp[0, row - iy + half, col - ix + half]


@njit(**LEAN)
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
    base, side = coefficients.shape[3], 2 * half + 1
    stamp, local, taps = np.empty((3, side, side)), np.empty((4, 4, base, base), np.float32), np.empty((4, 4))
    for n in range(begin, end):
        ix, iy = round(x[n]), round(y[n])
        blend_nodes(coefficients, nodes, shares, n, local)
        draw_psf(local, x[n] - ix, y[n] - iy, half, taps, stamp)
        moment, power, count, square = 0.0, 0.0, 0, 0.0
        for row in range(max(0, iy - half), min(ny, iy + half + 1)):
            for col in range(max(0, ix - half), min(nx, ix + half + 1)):
                w = weight[row, col]
                if w > 0.0:  # elsewhere pixels may be anything
                    p, d = stamp[0, row - iy + half, col - ix + half], image[row, col]
                    moment += w * p * d
                    power += w * p * p
                    square += w * d * d
                    count += 1
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = moment, power, count, square
