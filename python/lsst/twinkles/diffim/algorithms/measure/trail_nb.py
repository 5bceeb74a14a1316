"""Compiled fits of trailed sources."""

from __future__ import annotations

__all__ = ("fit_trails",)

import math

import numpy as np

from ..compile_nb import njit
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


@njit(cache=True, nogil=True)
def draw_trail(p, coefficients, nodes, shares, half, room, stamp, features):  # type: ignore[no-untyped-def]
    """Draw a trail of unit flux and the derivatives by x, y and by the two components of its half length."""
    features[:] = 0.0
    for k in range(len(_NODES)):
        t, weight = _NODES[k], _WEIGHTS[k]
        x, y = p[1] + t * p[3], p[2] + t * p[4]
        x, y = min(max(x, -room), room), min(max(y, -room), room)
        draw_psf(coefficients, nodes, shares, x, y, half, stamp)
        for j in range(stamp.shape[1]):
            for i in range(stamp.shape[2]):
                features[0, j, i] += weight * stamp[0, j, i]
                features[1, j, i] += weight * stamp[1, j, i]
                features[2, j, i] += weight * stamp[2, j, i]
                features[3, j, i] += weight * t * stamp[1, j, i]
                features[4, j, i] += weight * t * stamp[2, j, i]


@njit(cache=True, nogil=True)
def trail_equations(p, data, good, features, normal, moment):  # type: ignore[no-untyped-def]
    """Fill the normal equations of flux, centre and half length; return chi square."""
    normal[:] = 0.0
    moment[:] = 0.0
    chi2, row_ = 0.0, np.empty(5)
    for j in range(data.shape[0]):
        for i in range(data.shape[1]):
            w = good[j, i]
            if w == 0.0:
                continue
            row_[0] = features[0, j, i]
            for k in range(1, 5):
                row_[k] = p[0] * features[k, j, i]
            r = data[j, i] - p[0] * features[0, j, i]
            chi2 += w * r * r
            for k in range(5):
                moment[k] += w * row_[k] * r
                for m in range(k + 1):
                    normal[k, m] += w * row_[k] * row_[m]
    for k in range(5):
        for m in range(k):
            normal[m, k] = normal[k, m]
    return chi2


@njit(cache=True, nogil=True)
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
        PSF, as in `draw_psf`.
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
    side = 2 * half + 1
    data, good, stamp = np.empty((side, side)), np.empty((side, side)), np.empty((3, side, side))
    features, trial_features = np.empty((5, side, side)), np.empty((5, side, side))
    normal, moment, lower, step = np.empty((5, 5)), np.empty(5), np.empty((5, 5)), np.empty(5)
    trial_normal, trial_moment, inverse = np.empty((5, 5)), np.empty(5), np.empty((5, 5))
    room = coefficients.shape[3] // 2 - half - 3
    p, trial = np.empty(5), np.empty(5)
    for n in range(begin, end):
        if not (math.isfinite(start[n, 0]) and math.isfinite(flux[n])):
            continue
        ix, iy = cut_source(
            residual, weight, coefficients, nodes[n], shares[n], x[n], y[n], flux[n], half, data, good, stamp
        )
        p[0], p[1], p[2], p[3], p[4] = flux[n], x[n] - ix, y[n] - iy, start[n, 0], start[n, 1]
        draw_trail(p, coefficients, nodes[n], shares[n], half, room, stamp, features)
        chi2 = trail_equations(p, data, good, features, normal, moment)
        damping = 1e-2
        for _ in range(iterations):
            moved = 0.0
            while damping < _STRONGEST_DAMPING:
                if factorize(normal, damping, lower):
                    solve_factorized(lower, moment, step)
                    trial[:] = p + step
                    reach = max(abs(trial[1]) + abs(trial[3]), abs(trial[2]) + abs(trial[4]))
                    if math.hypot(trial[3], trial[4]) < longest and reach < room:
                        draw_trail(
                            trial, coefficients, nodes[n], shares[n], half, room, stamp, trial_features
                        )
                        trial_chi2 = trail_equations(
                            trial, data, good, trial_features, trial_normal, trial_moment
                        )
                        if trial_chi2 <= chi2:
                            moved = np.abs(step[1:]).max()
                            p[:], chi2 = trial, trial_chi2
                            normal[:], moment[:], features[:] = trial_normal, trial_moment, trial_features
                            damping = max(0.1 * damping, 1e-9)
                            break
                damping *= 10.0
            if moved < 1e-4:
                break
        if not invert(normal, lower, inverse):
            continue
        results[n, :5] = p
        results[n, 1] += ix
        results[n, 2] += iy
        results[n, 5], results[n, 7] = chi2, 1.0
        results[n, 6] = np.count_nonzero(good)
        for k in range(5):
            results[n, 8 + k] = inverse[k, k]
        results[n, 13], results[n, 14] = inverse[3, 4], inverse[1, 2]
