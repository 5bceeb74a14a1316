"""Compiled fits of trailed sources."""

from __future__ import annotations

__all__ = ("fit_trails",)

import math

import numpy as np

from ..compile_nb import LEAN, njit
from .linear_nb import factorize, invert, solve_factorized
from .shapes_nb import cut_source
from .spline_psf_nb import draw_psf

# Nodes and weights of the Gauss-Legendre quadrature of eight points on (-1, 1).
_NODES = np.array([
    -0.9602898564975363, -0.7966664774136267, -0.5255324099163290, -0.1834346424956498,
    0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363,
])  # fmt: skip
_WEIGHTS = 0.5 * np.array([
    0.1012285362903763, 0.2223810344533745, 0.3137066458778873, 0.3626837833783620,
    0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763,
])  # fmt: skip
_STRONGEST_DAMPING = 1e8


@njit(**LEAN)
def draw_trail(p, local, half, room, taps, stamp, features):  # type: ignore[no-untyped-def]
    """Draw a trail of unit flux and the derivatives by x, y and by the two components of its half length."""
    side = stamp.shape[1]
    for k in range(8):
        t, weight = _NODES[k], _WEIGHTS[k]
        x, y = p[1] + t * p[3], p[2] + t * p[4]
        draw_psf(local, min(max(x, -room), room), min(max(y, -room), room), half, taps, stamp)
        for m in range(5):
            kind, factor = (m, weight) if m < 3 else (m - 2, weight * t)
            for j in range(side):
                for i in range(side):
                    before = 0.0 if k == 0 else features[m, j, i]
                    features[m, j, i] = before + factor * stamp[kind, j, i]


@njit(**LEAN)
def trail_equations(p, data, good, features, normal, moment):  # type: ignore[no-untyped-def]
    """Fill the normal equations of flux, centre and half length; return chi square."""
    chi2, side = 0.0, data.shape[0]
    for a in range(5):
        left = 1.0 if a == 0 else p[0]
        for b in range(a + 1):
            total, right = 0.0, 0.0
            for j in range(side):
                for i in range(side):
                    w = good[j, i] * features[a, j, i]
                    total += w * features[b, j, i]
                    right += w * (data[j, i] - p[0] * features[0, j, i])
            normal[a, b] = left * total * (1.0 if b == 0 else p[0])
            normal[b, a], moment[a] = normal[a, b], left * right
    for j in range(side):
        for i in range(side):
            r = data[j, i] - p[0] * features[0, j, i]
            chi2 += good[j, i] * r * r
    return chi2


@njit(**LEAN)
def fit_trails(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, x, y, flux, start, half, longest, iterations,
    results,
):  # fmt: skip
    """Fit a line of constant brightness, convolved with the PSF, to each source.

    Parameters
    ----------
    begin, end : `int`
        First source, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Image from which all sources have been subtracted, and inverse variance.
    coefficients, nodes, shares
        Those of `SplinePsf` and `SplinePsf.nodes_at`.
    x, y, flux : ``(N,)``, float64
        Sources.
    start : ``(N, 2)``, float64
        First guess of the vector from the middle to one end, pixels; NaN: the source is not fitted.
    half : `int`
        Half side of the squares.
    longest : `float`
        Greatest half length, pixels.
    iterations : `int`
        Most steps.
    results : ``(N, 15)``, float64
        Filled with flux, x, y and the half-length vector, chi square, number of pixels, and whether there is
        a fit (1); after these 8 the variances of the five, and the covariance of the last two and of x and y.
    """
    side, base = 2 * half + 1, coefficients.shape[3]
    local, taps = np.empty((4, 4, base, base), np.float32), np.empty((4, 4))
    data, good, stamp = np.empty((side, side)), np.empty((side, side)), np.empty((3, side, side))
    features = np.empty((2, 5, side, side))
    normal, moment, lower, step = np.empty((2, 5, 5)), np.empty((2, 5)), np.empty((5, 5)), np.empty(5)
    room = base // 2 - half - 3.0
    p, trial = np.empty(5), np.empty(5)
    for n in range(begin, end):
        if not (math.isfinite(start[n, 0]) and math.isfinite(flux[n])):
            continue
        ix, iy = cut_source(
            residual, weight, coefficients, nodes, shares, n, x[n], y[n], flux[n], half, local, taps, stamp,
            data, good,
        )  # fmt: skip
        p[0], p[1], p[2], p[3], p[4] = flux[n], x[n] - ix, y[n] - iy, start[n, 0], start[n, 1]
        now, damping = 0, 1e-2
        draw_trail(p, local, half, room, taps, stamp, features[0])
        chi2 = trail_equations(p, data, good, features[0], normal[0], moment[0])
        for _ in range(iterations):
            moved = 0.0
            while damping < _STRONGEST_DAMPING:
                if factorize(normal[now], damping, lower):
                    solve_factorized(lower, moment[now], step)
                    for k in range(5):
                        trial[k] = p[k] + step[k]
                    reach = max(abs(trial[1]) + abs(trial[3]), abs(trial[2]) + abs(trial[4]))
                    if math.hypot(trial[3], trial[4]) < longest and reach < room:
                        other = 1 - now
                        draw_trail(trial, local, half, room, taps, stamp, features[other])
                        trial_chi2 = trail_equations(
                            trial, data, good, features[other], normal[other], moment[other]
                        )
                        if trial_chi2 <= chi2:
                            for k in range(5):
                                p[k] = trial[k]
                                if k > 0:
                                    moved = max(moved, abs(step[k]))
                            chi2, now, damping = trial_chi2, other, max(0.1 * damping, 1e-9)
                            break
                damping *= 10.0
            if moved < 1e-4:
                break
        inverse = normal[1 - now]
        if not invert(normal[now], lower, inverse):
            continue
        count = 0
        for j in range(side):
            for i in range(side):
                count += good[j, i] > 0.0
        results[n, 0], results[n, 1], results[n, 2] = p[0], p[1] + ix, p[2] + iy
        results[n, 3], results[n, 4], results[n, 5], results[n, 6] = p[3], p[4], chi2, count
        results[n, 7], results[n, 13], results[n, 14] = 1.0, inverse[3, 4], inverse[1, 2]
        for k in range(5):
            results[n, 8 + k] = inverse[k, k]
