"""Compiled adaptive moments and aperture fluxes."""

from __future__ import annotations

__all__ = ("aperture_sums", "measure_moments")

import math

import numpy as np

from ..compile_nb import LEAN, njit
from .spline_psf_nb import blend_nodes, draw_psf

# Divisions of a pixel along each axis where the rim of an aperture crosses it.
_DIVISIONS = 5
_CHANGE = 1e-5
_SMALLEST = 0.05
# Beyond this many standard deviations a Gaussian is 0.
_WIDTHS = 9.0


@njit(**LEAN)
def cut_source(  # type: ignore[no-untyped-def]
    residual, weight, coefficients, nodes, shares, n, x, y, flux, half, local, taps, inner, data, good
):
    """Copy pixels around source ``n`` with its own model added; return the central pixel, x and y.

    Parameters
    ----------
    residual, weight : ``(Ny, Nx)``, float32
        Image from which all sources have been subtracted, and inverse variance.
    coefficients, nodes, shares
        Those of `SplinePsf` and `SplinePsf.nodes_at`.
    x, y, flux : `float`
        The source.
    half : `int`
        Half side of the square.
    local, taps
        Filled with the PSF (`blend_nodes`), and work space of `draw_psf`.
    inner : ``(3, R, R)``, float64
        Filled with the PSF and its slopes; ``R`` may be less than the side of the square.
    data, good : ``(S, S)``, float64
        Filled with pixels and inverse variances, both 0 beyond the image and where there are no data.
    """
    ny, nx = residual.shape
    ix, iy = int(math.floor(x + 0.5)), int(math.floor(y + 0.5))  # noqa: RUF046
    reach = inner.shape[1] // 2
    blend_nodes(coefficients, nodes, shares, n, local)
    draw_psf(local, x - ix, y - iy, reach, taps, inner)
    for j in range(2 * half + 1):
        for i in range(2 * half + 1):
            row, col = iy + j - half, ix + i - half
            data[j, i], good[j, i] = 0.0, 0.0
            if 0 <= row < ny and 0 <= col < nx and weight[row, col] > 0.0:
                v, u = j - half + reach, i - half + reach
                drawn = 0 <= v <= 2 * reach and 0 <= u <= 2 * reach
                good[j, i] = weight[row, col]
                data[j, i] = residual[row, col] + (flux * inner[0, v, u] if drawn else 0.0)
    return ix, iy


@njit(**LEAN)
def adaptive_moments(data, sign, x, y, sigma, farthest, iterations, out):  # type: ignore[no-untyped-def]
    """Find the elliptical Gaussian that matches ``sign`` times an image; tell whether it was found.

    Pixels without data are 0. ``out`` has the start of x and y (pixels from the middle) and gets x, y, xx, xy
    and yy.
    """
    half = data.shape[0] // 2
    cx, cy, xx, xy, yy = x, y, sigma * sigma, 0.0, sigma * sigma
    for _ in range(iterations):
        determinant = xx * yy - xy * xy
        if not determinant > _SMALLEST**2:
            return False
        a, b, c = yy / determinant, -xy / determinant, xx / determinant
        change_of_ratio, width = math.exp(-a), _WIDTHS / math.sqrt(a)
        total, sx, sy, sxx, sxy, syy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(data.shape[0]):
            v = j - half - cy
            middle = half + cx - b * v / a
            low = int(max(0.0, math.ceil(middle - width)))
            high = int(min(data.shape[1], math.floor(middle + width) + 1.0))
            # The Gaussian from pixel to pixel: its logarithm has constant second differences.
            u = low - half - cx
            value = math.exp(-0.5 * (a * u * u + 2.0 * b * u * v + c * v * v))
            ratio = math.exp(-0.5 * (a * (2.0 * u + 1.0) + 2.0 * b * v))
            for i in range(low, high):
                u = i - half - cx
                w = sign * data[j, i] * value
                value *= ratio
                ratio *= change_of_ratio
                total += w
                sx += w * u
                sy += w * v
                sxx += w * u * u
                sxy += w * u * v
                syy += w * v * v
        if not total > 0.0:
            return False
        sx, sy = sx / total, sy / total
        sxx, sxy, syy = sxx / total - sx * sx, sxy / total - sx * sy, syy / total - sy * sy
        inner = sxx * syy - sxy * sxy
        if not (inner > 0.0 and sxx > 0.0):
            return False
        # The product of two Gaussians: inverse covariances add.
        p, q, r = syy / inner - a, -sxy / inner - b, sxx / inner - c
        outer = p * r - q * q
        if outer > 1e-4 * (a * c - b * b) and p > 0.0:
            nxx, nxy, nyy = r / outer, -q / outer, p / outer
        else:
            nxx, nxy, nyy = 2.0 * sxx, 2.0 * sxy, 2.0 * syy
        change = abs(nxx - xx) + abs(nxy - xy) + abs(nyy - yy) + 2.0 * (abs(sx) + abs(sy))
        cx, cy, xx, xy, yy = cx + 2.0 * sx, cy + 2.0 * sy, nxx, nxy, nyy
        if math.hypot(cx - x, cy - y) > farthest or xx + yy > half * half:
            return False
        if change < _CHANGE * (xx + yy):
            out[0], out[1], out[2], out[3], out[4] = cx, cy, xx, xy, yy
            return True
    return False


@njit(**LEAN)
def measure_moments(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, x, y, flux, half, sigma, farthest, iterations,
    results,
):  # fmt: skip
    """Measure adaptive moments of sources and of the PSF at their places.

    Parameters
    ----------
    begin, end : `int`
        First source, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Image from which all sources have been subtracted, and inverse variance.
    coefficients, nodes, shares
        PSF, as in `draw_psf`.
    x, y, flux : ``(N,)``, float64
        Sources; negative ones are measured upside down.
    half : `int`
        Half side of the squares.
    sigma : `float`
        First guess of the width, pixels.
    farthest : `float`
        Farthest that the centre may move, pixels.
    iterations : `int`
        Most rounds.
    results : ``(N, 8)``, float64
        Filled with xx, xy and yy of the source and of the PSF, and whether either was found (1).
    """
    side = 2 * half + 1
    base = coefficients.shape[3]
    data, good, stamp = np.empty((side, side)), np.empty((side, side)), np.empty((3, side, side))
    local, taps, out = np.empty((4, 4, base, base), np.float32), np.empty((4, 4)), np.empty(5)
    for n in range(begin, end):
        if not math.isfinite(flux[n]):
            continue
        ix, iy = cut_source(
            residual, weight, coefficients, nodes, shares, n, x[n], y[n], flux[n], half, local, taps, stamp,
            data, good,
        )  # fmt: skip
        sign = -1.0 if flux[n] < 0.0 else 1.0
        if adaptive_moments(data, sign, x[n] - ix, y[n] - iy, sigma, farthest, iterations, out):
            results[n, 0], results[n, 1], results[n, 2], results[n, 6] = out[2], out[3], out[4], 1.0
        if adaptive_moments(stamp[0], 1.0, x[n] - ix, y[n] - iy, sigma, farthest, iterations, out):
            results[n, 3], results[n, 4], results[n, 5], results[n, 7] = out[2], out[3], out[4], 1.0


@njit(**LEAN)
def covered_share(u, v, radius):  # type: ignore[no-untyped-def]
    """Return the share of a pixel at (u, v) from the centre that lies within a circle."""
    distance = math.hypot(u, v)
    if distance < radius - 0.8:
        return 1.0
    if distance > radius + 0.8:
        return 0.0
    inside = 0
    for j in range(_DIVISIONS):
        for i in range(_DIVISIONS):
            a, b = u + (i + 0.5) / _DIVISIONS - 0.5, v + (j + 0.5) / _DIVISIONS - 0.5
            inside += a * a + b * b <= radius * radius
    return inside / _DIVISIONS**2


@njit(**LEAN)
def aperture_sums(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, x, y, flux, half, radius, results
):
    """Add up the pixels of sources within a circle.

    Parameters
    ----------
    begin, end, residual, weight, coefficients, nodes, shares, x, y, flux
        As in `measure_moments`.
    half : `int`
        Half side of squares that hold the circle.
    radius : `float`
        Radius in pixels.
    results : ``(N, 4)``, float64
        Filled with the sum, its variance, the sum of the PSF over the same pixels, and the number of pixels
        of the circle that have no data.
    """
    side = 2 * half + 1
    base, reach = coefficients.shape[3], min(half, coefficients.shape[3] // 2 - 4)
    data, good = np.empty((side, side)), np.empty((side, side))
    stamp = np.empty((3, 2 * reach + 1, 2 * reach + 1))
    local, taps = np.empty((4, 4, base, base), np.float32), np.empty((4, 4))
    for n in range(begin, end):
        own = flux[n] if math.isfinite(flux[n]) else 0.0
        ix, iy = cut_source(
            residual,
            weight,
            coefficients,
            nodes,
            shares,
            n,
            x[n],
            y[n],
            own,
            half,
            local,
            taps,
            stamp,
            data,
            good,
        )
        total, variance, model, missing = 0.0, 0.0, 0.0, 0
        for j in range(side):
            for i in range(side):
                share = covered_share(i - half - (x[n] - ix), j - half - (y[n] - iy), radius)
                if share == 0.0:
                    continue
                if good[j, i] > 0.0:
                    total += share * data[j, i]
                    variance += share * share / good[j, i]
                    v, u = j - half + reach, i - half + reach
                    if 0 <= v <= 2 * reach and 0 <= u <= 2 * reach:
                        model += share * stamp[0, v, u]
                else:
                    missing += 1
        results[n, 0], results[n, 1], results[n, 2], results[n, 3] = total, variance, model, missing
