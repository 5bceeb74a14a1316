"""Compiled joint fits of positions and fluxes of overlapping point sources."""

from __future__ import annotations

__all__ = ("fit_group", "fit_groups")

import math

import numpy as np

from ..compile_nb import njit
from .linear_nb import factorize, invert, solve_factorized
from .spline_psf_nb import draw_psf

# Farthest a source moves in one step, pixels; a fit ends when none moves farther than the second.
_LONGEST_STEP = 1.0
_SHORTEST_STEP = 1e-4
_STRONGEST_DAMPING = 1e8


@njit(cache=True, nogil=True)
def cut_group(image, weight, ix, iy, half, data, used):  # type: ignore[no-untyped-def]
    """Copy the pixels within ``half`` of any of some pixels, and their weights; return the lower corner.

    ``data`` and ``used`` have the shape of the common bounding box; weights elsewhere are 0.
    """
    ny, nx = image.shape
    x0, y0 = ix.min() - half, iy.min() - half
    for k in range(len(ix)):
        for row in range(max(0, iy[k] - half), min(ny, iy[k] + half + 1)):
            for col in range(max(0, ix[k] - half), min(nx, ix[k] + half + 1)):
                if weight[row, col] > 0.0:  # elsewhere pixels may be anything
                    used[row - y0, col - x0] = weight[row, col]
                    data[row - y0, col - x0] = image[row, col]
    return x0, y0


@njit(cache=True, nogil=True)
def draw_group(coefficients, nodes, shares, x, y, reach, follow, features, corners):  # type: ignore[no-untyped-def]
    """Draw the PSFs of a group on squares whose lower corners are ``corners``.

    If the squares are to ``follow``, they are put around the nearest pixels first.
    """
    for k in range(len(x)):
        if follow:
            corners[k, 0], corners[k, 1] = round(x[k]) - reach, round(y[k]) - reach
        dx, dy = x[k] - corners[k, 0] - reach, y[k] - corners[k, 1] - reach
        draw_psf(coefficients, nodes[k], shares[k], dx, dy, reach, features[k])


@njit(cache=True, nogil=True)
def add_group(data, x0, y0, features, corners, flux, sign):  # type: ignore[no-untyped-def]
    """Add drawn sources, or subtract them, on an image whose lower corner is (x0, y0)."""
    height, width = data.shape
    side = features.shape[2]
    for k in range(len(flux)):
        if flux[k] == 0.0:
            continue
        cx, cy = corners[k, 0] - x0, corners[k, 1] - y0
        for row in range(max(0, cy), min(height, cy + side)):
            for col in range(max(0, cx), min(width, cx + side)):
                data[row, col] += sign * flux[k] * features[k, 0, row - cy, col - cx]


@njit(cache=True, nogil=True)
def chi_square(residual, used):  # type: ignore[no-untyped-def]
    """Return the weighted sum of squares."""
    total = 0.0
    for row in range(residual.shape[0]):
        for col in range(residual.shape[1]):
            total += used[row, col] * residual[row, col] * residual[row, col]
    return total


@njit(cache=True, nogil=True)
def group_equations(features, corners, flux, free, x0, y0, residual, used, normal, moment):  # type: ignore[no-untyped-def]
    """Fill the normal equations of fluxes and positions, three parameters a source.

    The position of a source that is not ``free`` gets a unit equation of no step.
    """
    height, width = residual.shape
    side = features.shape[2]
    normal[:] = 0.0
    moment[:] = 0.0
    for a in range(len(flux)):
        ax, ay = corners[a, 0] - x0, corners[a, 1] - y0
        for b in range(a + 1):
            bx, by = corners[b, 0] - x0, corners[b, 1] - y0
            for row in range(max(0, ay, by), min(height, ay + side, by + side)):
                for col in range(max(0, ax, bx), min(width, ax + side, bx + side)):
                    w = used[row, col]
                    if w == 0.0:
                        continue
                    for i in range(3):
                        left = w * features[a, i, row - ay, col - ax]
                        for j in range(3):
                            normal[3 * a + i, 3 * b + j] += left * features[b, j, row - by, col - bx]
                        if a == b:
                            moment[3 * a + i] += left * residual[row, col]
    for a in range(len(flux)):
        for i in range(1, 3):
            k = 3 * a + i
            scale = flux[a] if free[a] else 0.0
            for m in range(len(moment)):
                normal[k, m] *= scale
                normal[m, k] *= scale
            moment[k] *= scale
            if not free[a]:
                normal[k, k] = 1.0
    for k in range(len(moment)):
        for m in range(k):
            normal[m, k] = normal[k, m]


@njit(cache=True, nogil=True)
def fit_group(  # type: ignore[no-untyped-def]
    data, used, x0, y0, coefficients, nodes, shares, reach, follow, free, x, y, flux, iterations, covariance
):
    """Fit the sources of a group at once (Levenberg-Marquardt); return chi square and whether it is solved.

    Parameters
    ----------
    data, used : ``(H, W)``, float64
        Pixels and their inverse variances; 0 for pixels that do not count.
    x0, y0 : `int`
        Pixel of their lower corner.
    coefficients, nodes, shares
        PSF, as in `draw_psf`, with a row for each source.
    reach : `int`
        Half side of the squares in which sources are drawn.
    follow : `bool`
        Do the squares move with the sources? If not, they are all that of the data.
    free : ``(N,)``, bool
        May the position move?
    x, y, flux : ``(N,)``, float64
        Start (the flux is not used) and result.
    iterations : `int`
        Most steps.
    covariance : ``(3 N, 3 N)``, float64
        Filled with that of flux, x and y of each source; NaN if singular.
    """
    n, side = len(x), 2 * reach + 1
    features, trial_features = np.empty((n, 3, side, side)), np.empty((n, 3, side, side))
    corners, trial_corners = np.empty((n, 2), np.int64), np.empty((n, 2), np.int64)
    normal, lower = np.empty((3 * n, 3 * n)), np.empty((3 * n, 3 * n))
    moment, step = np.empty(3 * n), np.empty(3 * n)
    residual, trial_residual = data.copy(), np.empty_like(data)
    corners[:, 0], corners[:, 1] = x0, y0
    trial_corners[:] = corners
    room = np.inf if follow else coefficients.shape[3] // 2 - reach - 3.0
    draw_group(coefficients, nodes, shares, x, y, reach, follow, features, corners)
    # Fluxes at the first positions.
    fixed = np.zeros(n, np.bool_)
    group_equations(features, corners, flux, fixed, x0, y0, residual, used, normal, moment)
    if not factorize(normal, 0.0, lower):
        covariance[:] = np.nan
        flux[:] = np.nan
        return np.nan, False
    solve_factorized(lower, moment, step)
    for k in range(n):
        flux[k] = step[3 * k]
    add_group(residual, x0, y0, features, corners, flux, -1.0)
    chi2 = chi_square(residual, used)
    damping = 1e-3
    trial_x, trial_y, trial_flux = np.empty(n), np.empty(n), np.empty(n)
    for _ in range(iterations):
        group_equations(features, corners, flux, free, x0, y0, residual, used, normal, moment)
        moved = 0.0
        while damping < _STRONGEST_DAMPING:
            if not factorize(normal, damping, lower):
                damping *= 10.0
                continue
            solve_factorized(lower, moment, step)
            farthest, longest = 0.0, 0.0
            for k in range(n):
                length = max(abs(step[3 * k + 1]), abs(step[3 * k + 2]))
                part = min(1.0, _LONGEST_STEP / length) if length > 0.0 else 1.0
                trial_x[k], trial_y[k] = x[k] + part * step[3 * k + 1], y[k] + part * step[3 * k + 2]
                trial_flux[k] = flux[k] + step[3 * k]
                longest = max(longest, part * length)
                farthest = max(farthest, abs(trial_x[k] - x0 - reach), abs(trial_y[k] - y0 - reach))
            if farthest > room:
                damping *= 10.0
                continue
            draw_group(
                coefficients, nodes, shares, trial_x, trial_y, reach, follow, trial_features, trial_corners
            )
            trial_residual[:] = data
            add_group(trial_residual, x0, y0, trial_features, trial_corners, trial_flux, -1.0)
            trial_chi2 = chi_square(trial_residual, used)
            if trial_chi2 <= chi2:
                moved = longest
                for k in range(n):
                    x[k], y[k], flux[k] = trial_x[k], trial_y[k], trial_flux[k]
                features, trial_features = trial_features, features
                corners, trial_corners = trial_corners, corners
                residual, trial_residual = trial_residual, residual
                chi2 = trial_chi2
                damping = max(damping * 0.1, 1e-9)
                break
            damping *= 10.0
        if moved < _SHORTEST_STEP:
            break
    group_equations(features, corners, flux, free, x0, y0, residual, used, normal, moment)
    if not invert(normal, lower, covariance):
        covariance[:] = np.nan
        return chi2, False
    return chi2, True


@njit(cache=True, nogil=True)
def fit_groups(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, reach, half, first,
    members, starts, x, y, flux, max_shift, iterations, results,
):  # fmt: skip
    """Fit many groups, each on its pixels of an image from which all sources have been subtracted.

    Parameters
    ----------
    begin, end : `int`
        First group, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Image without the sources as they stand, and inverse variance.
    coefficients, nodes, shares, reach
        PSF, as in `fit_group`.
    half : `int`
        Half side of the squares of pixels around the first positions that are fitted.
    first : ``(N, 2)``, float64
        First positions, x and y.
    members, starts : int64
        Indices of the sources group by group, and where in them each group starts; one more than groups.
    x, y, flux : ``(N,)``, float64
        Sources as they stand; replaced by the result.
    max_shift : `float`
        Farthest a position may move from the first, pixels; one that goes farther is put back, and held.
    iterations : `int`
        Most steps of a fit.
    results : ``(N, 9)``, float64
        Filled with variances of flux, x and y, covariances of x and y, flux and x, flux and y, chi square,
        number of pixels, and 1 where the position was held or could not be found.
    """
    for g in range(begin, end):
        who = members[starts[g] : starts[g + 1]]
        ny, nx = residual.shape
        n = len(who)
        gx, gy, gf = x[who], y[who], flux[who]
        fx, fy = first[who, 0], first[who, 1]
        gn, gs = nodes[who], shares[who]
        ix, iy = np.empty(n, np.int64), np.empty(n, np.int64)
        for k in range(n):
            ix[k], iy[k] = round(fx[k]), round(fy[k])
        shape = (iy.max() - iy.min() + 2 * half + 1, ix.max() - ix.min() + 2 * half + 1)
        data, used = np.zeros(shape), np.zeros(shape)
        x0, y0 = cut_group(residual, weight, ix, iy, half, data, used)
        features, corners = np.empty((n, 3, 2 * reach + 1, 2 * reach + 1)), np.empty((n, 2), np.int64)
        draw_group(coefficients, gn, gs, gx, gy, reach, True, features, corners)
        add_group(data, x0, y0, features, corners, gf, 1.0)
        # One source is drawn on its own pixels; of several each spreads into the pixels of the others.
        follow = n > 1
        drawn = reach if follow else half
        free = np.ones(n, np.bool_)
        covariance = np.empty((3 * n, 3 * n))
        chi2 = 0.0
        for _ in range(n + 1):
            chi2, solved = fit_group(
                data,
                used,
                x0,
                y0,
                coefficients,
                gn,
                gs,
                drawn,
                follow,
                free,
                gx,
                gy,
                gf,
                iterations,
                covariance,
            )
            lost = False
            for k in range(n):
                far = not math.hypot(gx[k] - fx[k], gy[k] - fy[k]) <= max_shift
                far |= not (-0.5 <= gx[k] <= nx - 0.5 and -0.5 <= gy[k] <= ny - 0.5)
                if free[k] and (far or not solved):
                    free[k], lost = False, True
                    gx[k], gy[k] = fx[k], fy[k]
            if not lost:
                break
        count = 0
        for value in used.flat:
            count += value > 0.0
        for k in range(n):
            i, c = who[k], 3 * k
            x[i], y[i], flux[i] = gx[k], gy[k], gf[k]
            results[i, 0], results[i, 1], results[i, 2] = (
                covariance[c, c], covariance[c + 1, c + 1], covariance[c + 2, c + 2]
            )  # fmt: skip
            results[i, 3], results[i, 4], results[i, 5] = (
                covariance[c + 1, c + 2], covariance[c, c + 1], covariance[c, c + 2]
            )  # fmt: skip
            results[i, 6], results[i, 7], results[i, 8] = chi2, count, 0.0 if free[k] else 1.0
