"""Compiled adaptive moments and aperture fluxes."""

from __future__ import annotations

__all__ = ("aperture_sums", "measure_moments")

import math

import numpy as np

from ..compile_nb import njit
from .spline_psf_nb import draw_psf

# Divisions of a pixel along each axis where the rim of an aperture crosses it.
_DIVISIONS = 5
_CHANGE = 1e-5
_SMALLEST = 0.05


@njit(cache=True, nogil=True)
def cut_source(  # type: ignore[no-untyped-def]
    residual, weight, coefficients, nodes, shares, x, y, flux, half, data, good, stamp
):
    """Copy pixels around a source with its own model added; return the central pixel.

    ``good`` gets inverse variances, 0 beyond the image; ``stamp`` the PSF and its slopes.
    """
    ny, nx = residual.shape
    ix, iy = int(math.floor(x + 0.5)), int(math.floor(y + 0.5))  # noqa: RUF046
    reach = min(half, coefficients.shape[3] // 2 - 4)
    stamp[:] = 0.0
    inner = np.empty((3, 2 * reach + 1, 2 * reach + 1))
    draw_psf(coefficients, nodes, shares, x - ix, y - iy, reach, inner)
    stamp[:, half - reach : half + reach + 1, half - reach : half + reach + 1] = inner
    for j in range(2 * half + 1):
        for i in range(2 * half + 1):
            row, col = iy + j - half, ix + i - half
            inside = 0 <= row < ny and 0 <= col < nx
            good[j, i] = weight[row, col] if inside else 0.0
            data[j, i] = residual[row, col] + flux * stamp[0, j, i] if good[j, i] > 0.0 else 0.0
    return ix, iy


@njit(cache=True, nogil=True)
def adaptive_moments(data, good, x, y, sigma, farthest, iterations, out):  # type: ignore[no-untyped-def]
    """Find the elliptical Gaussian that matches an image; tell whether it was found.

    ``out`` has the start of x and y (pixels from the middle) and gets x, y, xx, xy, yy.
    """
    half = data.shape[0] // 2
    cx, cy, xx, xy, yy = x, y, sigma * sigma, 0.0, sigma * sigma
    for _ in range(iterations):
        determinant = xx * yy - xy * xy
        if not determinant > _SMALLEST**2:
            return False
        a, b, c = yy / determinant, -xy / determinant, xx / determinant
        total, sx, sy, sxx, sxy, syy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(data.shape[0]):
            v = j - half - cy
            for i in range(data.shape[1]):
                if good[j, i] == 0.0:
                    continue
                u = i - half - cx
                w = data[j, i] * math.exp(-0.5 * (a * u * u + 2.0 * b * u * v + c * v * v))
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


@njit(cache=True, nogil=True)
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
    data, good, stamp = np.empty((side, side)), np.empty((side, side)), np.empty((3, side, side))
    every, out = np.ones((side, side)), np.empty(5)
    for n in range(begin, end):
        if not math.isfinite(flux[n]):
            continue
        ix, iy = cut_source(
            residual, weight, coefficients, nodes[n], shares[n], x[n], y[n], flux[n], half, data, good, stamp
        )
        if flux[n] < 0.0:
            data *= -1.0
        if adaptive_moments(data, good, x[n] - ix, y[n] - iy, sigma, farthest, iterations, out):
            results[n, 0], results[n, 1], results[n, 2], results[n, 6] = out[2], out[3], out[4], 1.0
        if adaptive_moments(stamp[0], every, x[n] - ix, y[n] - iy, sigma, farthest, iterations, out):
            results[n, 3], results[n, 4], results[n, 5], results[n, 7] = out[2], out[3], out[4], 1.0


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
    data, good, stamp = np.empty((side, side)), np.empty((side, side)), np.empty((3, side, side))
    for n in range(begin, end):
        own = flux[n] if math.isfinite(flux[n]) else 0.0
        ix, iy = cut_source(
            residual, weight, coefficients, nodes[n], shares[n], x[n], y[n], own, half, data, good, stamp
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
                    model += share * stamp[0, j, i]
                else:
                    missing += 1
        results[n, 0], results[n, 1], results[n, 2], results[n, 3] = total, variance, model, missing
