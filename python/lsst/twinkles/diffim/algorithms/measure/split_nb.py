"""Compiled search for second sources under one peak."""

from __future__ import annotations

__all__ = ("split_groups",)

import math

import numpy as np

from ..compile_nb import njit
from .group_fit_nb import add_group, chi_square, cut_group, draw_group, fit_group
from .linear_nb import factorize, solve_factorized
from .spline_psf_nb import draw_psf

# Step in pixels of the differences that give second derivatives of the PSF.
_STEP = 0.25


@njit(cache=True, nogil=True)
def soften(used, model, error):  # type: ignore[no-untyped-def]
    """Lower weights, in place, for a fractional error of the model."""
    for row in range(used.shape[0]):
        for col in range(used.shape[1]):
            w = used[row, col]
            used[row, col] = w / (1.0 + w * (error * model[row, col]) ** 2)


@njit(cache=True, nogil=True)
def quadrupole_features(coefficients, nodes, shares, x, y, half, out):  # type: ignore[no-untyped-def]
    """Fill the PSF, its slopes and second derivatives (xx, xy, yy) on a square of pixels, ``(6, S, S)``."""
    ix, iy = round(x), round(y)
    side = 2 * half + 1
    here, there = np.empty((3, side, side)), np.empty((3, side, side))
    draw_psf(coefficients, nodes, shares, x - ix, y - iy, half, here)
    out[:3] = here
    draw_psf(coefficients, nodes, shares, x + _STEP - ix, y - iy, half, here)
    draw_psf(coefficients, nodes, shares, x - _STEP - ix, y - iy, half, there)
    out[3], out[4] = (here[1] - there[1]) / (2 * _STEP), (here[2] - there[2]) / (2 * _STEP)
    draw_psf(coefficients, nodes, shares, x - ix, y + _STEP - iy, half, here)
    draw_psf(coefficients, nodes, shares, x - ix, y - _STEP - iy, half, there)
    out[5] = (here[2] - there[2]) / (2 * _STEP)


@njit(cache=True, nogil=True)
def test_quadrupole(coefficients, nodes, shares, x, y, half, x0, y0, residual, used):  # type: ignore[no-untyped-def]
    """Return by how much chi square falls if the source may be elongated, and the angle of its long axis."""
    side = 2 * half + 1
    features = np.empty((6, side, side))
    quadrupole_features(coefficients, nodes, shares, x, y, half, features)
    cx, cy = round(x) - half - x0, round(y) - half - y0
    height, width = residual.shape
    normal, moment = np.zeros((6, 6)), np.zeros(6)
    for row in range(max(0, cy), min(height, cy + side)):
        for col in range(max(0, cx), min(width, cx + side)):
            w = used[row, col]
            if w > 0.0:
                for i in range(6):
                    left = w * features[i, row - cy, col - cx]
                    moment[i] += left * residual[row, col]
                    for j in range(i + 1):
                        normal[i, j] += left * features[j, row - cy, col - cx]
    for i in range(6):
        for j in range(i):
            normal[j, i] = normal[i, j]
    lower, solution = np.empty((6, 6)), np.empty(6)
    if not factorize(normal, 0.0, lower):
        return 0.0, 0.0
    solve_factorized(lower, moment, solution)
    gain = 0.0
    for i in range(6):
        gain += solution[i] * moment[i]
    if factorize(normal[:3, :3].copy(), 0.0, lower[:3, :3]):
        part = np.empty(3)
        solve_factorized(lower[:3, :3], moment[:3], part)
        for i in range(3):
            gain -= part[i] * moment[i]
    return gain, 0.5 * math.atan2(solution[4], solution[3] - solution[5])


@njit(cache=True, nogil=True)
def best_addition(stamp, x, y, half, radius, x0, y0, residual, used):  # type: ignore[no-untyped-def]
    """Return the most significant flux that the residuals have within a radius, and its pixel's offset."""
    side = 2 * half + 1
    height, width = residual.shape
    best, best_x, best_y = 0.0, 0, 0
    reach = int(radius)
    for oy in range(-reach, reach + 1):
        for ox in range(-reach, reach + 1):
            if ox * ox + oy * oy > radius * radius:
                continue
            cx, cy = round(x) + ox - half - x0, round(y) + oy - half - y0
            moment, power = 0.0, 0.0
            for row in range(max(0, cy), min(height, cy + side)):
                for col in range(max(0, cx), min(width, cx + side)):
                    w = used[row, col]
                    if w > 0.0:
                        p = stamp[0, row - cy, col - cx]
                        moment += w * p * residual[row, col]
                        power += w * p * p
            if power > 0.0 and abs(moment) > best * math.sqrt(power):
                best, best_x, best_y = abs(moment) / math.sqrt(power), ox, oy
    return best, best_x, best_y


@njit(cache=True, nogil=True)
def fit_with_one_more(  # type: ignore[no-untyped-def]
    data, used, x0, y0, coefficients, nodes, shares, reach, x, y, k, ax, ay, bx, by, iterations, out
):  # fmt: skip
    """Fit a group with source ``k`` at (ax, ay) and one more at (bx, by); return chi square.

    ``out`` gets x, y, flux and variance of the flux of both, ``(8,)``.
    """
    n = len(x) + 1
    tx, ty, tf = np.empty(n), np.empty(n), np.zeros(n)
    tx[: n - 1], ty[: n - 1] = x, y
    tx[k], ty[k], tx[n - 1], ty[n - 1] = ax, ay, bx, by
    tn, ts = np.empty((n, 4), np.int64), np.empty((n, 4))
    tn[: n - 1], ts[: n - 1] = nodes, shares
    tn[n - 1], ts[n - 1] = nodes[k], shares[k]
    covariance = np.empty((3 * n, 3 * n))
    free = np.ones(n, np.bool_)
    chi2, solved = fit_group(
        data, used, x0, y0, coefficients, tn, ts, reach, True, free, tx, ty, tf, iterations, covariance
    )
    if not solved:
        return np.inf
    last = n - 1
    out[0], out[1], out[2], out[3] = tx[k], ty[k], tf[k], covariance[3 * k, 3 * k]
    out[4], out[5], out[6], out[7] = tx[last], ty[last], tf[last], covariance[3 * last, 3 * last]
    return chi2


@njit(cache=True, nogil=True)
def split_groups(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, reach, half, members,
    starts, x, y, flux, error, fwhm, min_snr, screen, model_error, iterations, results,
):  # fmt: skip
    """Try to explain each source by two.

    Parameters
    ----------
    begin, end : `int`
        First group, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Image from which all sources have been subtracted, and inverse variance.
    coefficients, nodes, shares, reach, half, members, starts
        As in `fit_groups`.
    x, y, flux, error : ``(N,)``, float64
        Sources, each fitted as a single one, and the errors of the fluxes.
    fwhm : `float`
        FWHM in pixels.
    min_snr : `float`
        Fainter sources are not tried.
    screen : `float`
        Least gain of chi square by an elongation, or by an addition, that is worth a fit.
    model_error : `float`
        Fractional error of the model, added to the variances.
    iterations : `int`
        Most steps of a fit.
    results : ``(N, 10)``, float64
        Filled with x, y, flux and variance of the flux of the two, the gain of chi square (0: not tried),
        and the chi square of the single source.
    """
    for g in range(begin, end):
        who = members[starts[g] : starts[g + 1]]
        n = len(who)
        gx, gy, gf = x[who], y[who], flux[who]
        gn, gs = nodes[who], shares[who]
        ix, iy = np.empty(n, np.int64), np.empty(n, np.int64)
        tried = False
        for k in range(n):
            ix[k], iy[k] = round(gx[k]), round(gy[k])
            tried |= abs(gf[k]) > min_snr * error[who[k]]
        if not tried:
            continue
        shape = (iy.max() - iy.min() + 2 * half + 1, ix.max() - ix.min() + 2 * half + 1)
        rest, used, model = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        x0, y0 = cut_group(residual, weight, ix, iy, half, rest, used)
        features, corners = np.empty((n, 3, 2 * reach + 1, 2 * reach + 1)), np.empty((n, 2), np.int64)
        draw_group(coefficients, gn, gs, gx, gy, reach, True, features, corners)
        add_group(model, x0, y0, features, corners, gf, 1.0)
        soften(used, model, model_error)
        data = rest + model
        single = chi_square(rest, used)
        stamp = np.empty((3, 2 * half + 1, 2 * half + 1))
        found, trial = np.empty(8), np.empty(8)
        for k in range(n):
            i = who[k]
            results[i, 9] = single
            if not abs(gf[k]) > min_snr * error[i]:
                continue
            gain, angle = test_quadrupole(coefficients, gn[k], gs[k], gx[k], gy[k], half, x0, y0, rest, used)
            draw_psf(coefficients, gn[k], gs[k], gx[k] - ix[k], gy[k] - iy[k], half, stamp)
            height, ox, oy = best_addition(stamp, gx[k], gy[k], half, 1.5 * fwhm, x0, y0, rest, used)
            if gain < screen and height * height < screen:
                continue
            cx, cy = 0.4 * fwhm * math.cos(angle), 0.4 * fwhm * math.sin(angle)
            best = fit_with_one_more(
                data, used, x0, y0, coefficients, gn, gs, reach, gx, gy, k,
                gx[k] - cx, gy[k] - cy, gx[k] + cx, gy[k] + cy, iterations, found,
            )  # fmt: skip
            other = fit_with_one_more(
                data, used, x0, y0, coefficients, gn, gs, reach, gx, gy, k,
                gx[k] - 0.1 * ox, gy[k] - 0.1 * oy, gx[k] + ox, gy[k] + oy, iterations, trial,
            )  # fmt: skip
            if other < best:
                best = other
                found[:] = trial
            if best < np.inf:
                results[i, :8] = found
                results[i, 8] = single - best
