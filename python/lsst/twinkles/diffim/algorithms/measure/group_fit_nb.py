"""Compiled joint fits of positions and fluxes of overlapping point sources."""

from __future__ import annotations

__all__ = ("cut_group", "fit_groups")


import numpy as np

from ..compile_nb import LEAN, njit
from .linear_nb import factorize, invert, solve_factorized
from .spline_psf_nb import blend_nodes, draw_psf

# Farthest a source moves in one step, pixels; a fit ends when none moves farther than the second.
_LONGEST_STEP = 1.0
_SHORTEST_STEP = 1e-4
_STRONGEST_DAMPING = 1e8


@njit(**LEAN)
def cut_group(image, weight, centre, half, x0, y0, data, used):  # type: ignore[no-untyped-def]
    """Copy the pixels within ``half`` of any of some pixels ``(N, 2)``, x and y, and their weights.

    ``data`` and ``used`` have the shape of the common bounding box, whose lower corner is (x0, y0), and are 0
    before; weights elsewhere stay 0.
    """
    ny, nx = image.shape
    for k in range(len(centre)):
        ix, iy = centre[k, 0], centre[k, 1]
        for row in range(max(0, iy - half), min(ny, iy + half + 1)):
            for col in range(max(0, ix - half), min(nx, ix + half + 1)):
                if weight[row, col] > 0.0:  # elsewhere pixels may be anything
                    used[row - y0, col - x0] = weight[row, col]
                    data[row - y0, col - x0] = image[row, col]


@njit(**LEAN)
def centre_squares(place, reach, corners):  # type: ignore[no-untyped-def]
    """Put the lower corners of the squares in which sources are drawn around the pixels nearest to them."""
    for k in range(len(place)):
        corners[k, 0], corners[k, 1] = round(place[k, 0]) - reach, round(place[k, 1]) - reach


@njit(**LEAN)
def draw_group(local, place, reach, taps, features, corners):  # type: ignore[no-untyped-def]
    """Draw the PSFs of a group on squares whose lower corners are ``corners``."""
    for k in range(len(place)):
        dx, dy = place[k, 0] - corners[k, 0] - reach, place[k, 1] - corners[k, 1] - reach
        draw_psf(local[k], dx, dy, reach, taps, features[k])


@njit(**LEAN)
def subtract_group(data, used, x0, y0, features, corners, place, sign, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with the data less ``sign`` times the drawn sources; return chi square."""
    height, width = data.shape
    side = features.shape[2]
    for row in range(height):
        for col in range(width):
            out[row, col] = data[row, col]
    for k in range(len(place)):
        flux, cx, cy = sign * place[k, 2], corners[k, 0] - x0, corners[k, 1] - y0
        low, high = max(0, cx), min(width, cx + side)
        for row in range(max(0, cy), min(height, cy + side)):
            target, feature = out[row, low:high], features[k, 0, row - cy, low - cx : high - cx]
            for i in range(high - low):
                target[i] -= flux * feature[i]
    total = 0.0
    for row in range(height):
        for col in range(width):
            total += used[row, col] * out[row, col] * out[row, col]
    return total


@njit(**LEAN)
def group_equations(features, corners, place, free, x0, y0, residual, used, normal, moment):  # type: ignore[no-untyped-def]
    """Fill the normal equations of fluxes and positions, three parameters a source.

    The position of a source that is not ``free`` gets a unit equation of no step.
    """
    height, width = residual.shape
    side, n = features.shape[2], len(place)
    for a in range(n):
        ax, ay = corners[a, 0] - x0, corners[a, 1] - y0
        for b in range(a + 1):
            bx, by = corners[b, 0] - x0, corners[b, 1] - y0
            low, high = max(0, ax, bx), min(width, ax + side, bx + side)
            n00, n01, n02, n10, n11, n12, n20, n21, n22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            m0, m1, m2 = 0.0, 0.0, 0.0
            for row in range(max(0, ay, by), min(height, ay + side, by + side)):
                w, r = used[row, low:high], residual[row, low:high]
                p0, q0 = features[a, 0, row - ay, low - ax :], features[b, 0, row - by, low - bx :]
                p1, q1 = features[a, 1, row - ay, low - ax :], features[b, 1, row - by, low - bx :]
                p2, q2 = features[a, 2, row - ay, low - ax :], features[b, 2, row - by, low - bx :]
                for i in range(high - low):
                    u0, u1, u2 = w[i] * p0[i], w[i] * p1[i], w[i] * p2[i]
                    n00 += u0 * q0[i]
                    n01 += u0 * q1[i]
                    n02 += u0 * q2[i]
                    n10 += u1 * q0[i]
                    n11 += u1 * q1[i]
                    n12 += u1 * q2[i]
                    n20 += u2 * q0[i]
                    n21 += u2 * q1[i]
                    n22 += u2 * q2[i]
                    m0 += u0 * r[i]
                    m1 += u1 * r[i]
                    m2 += u2 * r[i]
            i, j = 3 * a, 3 * b
            normal[i, j], normal[i, j + 1], normal[i, j + 2] = n00, n01, n02
            normal[i + 1, j], normal[i + 1, j + 1], normal[i + 1, j + 2] = n10, n11, n12
            normal[i + 2, j], normal[i + 2, j + 1], normal[i + 2, j + 2] = n20, n21, n22
            if a == b:
                moment[i], moment[i + 1], moment[i + 2] = m0, m1, m2
    for k in range(3 * n):
        for m in range(k):
            normal[m, k] = normal[k, m]
    for k in range(3 * n):
        if k % 3 == 0:
            continue
        scale = place[k // 3, 2] if free[k // 3] else 0.0
        for m in range(3 * n):
            normal[k, m] *= scale
            normal[m, k] *= scale
        moment[k] *= scale
        if not free[k // 3]:
            normal[k, k] = 1.0


@njit(**LEAN)
def fit_group(  # type: ignore[no-untyped-def]
    data, used, x0, y0, local, reach, follow, free, place, iterations, covariance
):
    """Fit the sources of a group at once (Levenberg-Marquardt); return chi square and whether it is solved.

    Parameters
    ----------
    data, used : ``(H, W)``, float64
        Pixels and their inverse variances; 0 for pixels that do not count.
    x0, y0 : `int`
        Pixel of their lower corner.
    local : ``(N, 4, 4, B, B)``, float32
        PSF of each source (`blend_nodes`).
    reach : `int`
        Half side of the squares in which sources are drawn.
    follow : `bool`
        Do the squares move with the sources? If not, they are all that of the data.
    free : ``(N,)``, bool
        May the position move?
    place : ``(N, 3)``, float64
        x, y and flux: start (the flux is not used) and result.
    iterations : `int`
        Most steps.
    covariance : ``(3 N, 3 N)``, float64
        Filled with that of flux, x and y of each source; NaN if singular.
    """
    n, side, size = len(place), 2 * reach + 1, 3 * len(place)
    features, corners = np.empty((2, n, 3, side, side)), np.empty((2, n, 2), np.int64)
    residual, trial, taps = np.empty((2, *data.shape)), np.empty((n, 3)), np.empty((4, 4))
    normal, lower, moment, step = (
        np.empty((size, size)),
        np.empty((size, size)),
        np.empty(size),
        np.empty(size),
    )
    room = np.inf if follow else local.shape[3] // 2 - reach - 3.0
    fixed = np.zeros(n, np.bool_)
    for k in range(n):
        for m in range(2):
            corners[m, k, 0], corners[m, k, 1] = x0, y0
        place[k, 2] = 0.0
    if follow:
        centre_squares(place, reach, corners[0])
    draw_group(local, place, reach, taps, features[0], corners[0])
    # Fluxes at the first positions.
    group_equations(features[0], corners[0], place, fixed, x0, y0, data, used, normal, moment)
    if not factorize(normal, 0.0, lower):
        for k in range(size):
            place[k // 3, 2] = np.nan
            for m in range(size):
                covariance[k, m] = np.nan
        return np.nan, False
    solve_factorized(lower, moment, step)
    for k in range(n):
        place[k, 2] = step[3 * k]
    chi2 = subtract_group(data, used, x0, y0, features[0], corners[0], place, 1.0, residual[0])
    now, damping = 0, 1e-3
    for _ in range(iterations):
        group_equations(features[now], corners[now], place, free, x0, y0, residual[now], used, normal, moment)
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
                trial[k, 0] = place[k, 0] + part * step[3 * k + 1]
                trial[k, 1] = place[k, 1] + part * step[3 * k + 2]
                trial[k, 2] = place[k, 2] + step[3 * k]
                longest = max(longest, part * length)
                farthest = max(farthest, abs(trial[k, 0] - x0 - reach), abs(trial[k, 1] - y0 - reach))
            if farthest > room:
                damping *= 10.0
                continue
            other, better = 1 - now, longest < _SHORTEST_STEP  # the last step: nothing has to be drawn anew
            if not better:
                if follow:
                    centre_squares(trial, reach, corners[other])
                draw_group(local, trial, reach, taps, features[other], corners[other])
                trial_chi2 = subtract_group(
                    data, used, x0, y0, features[other], corners[other], trial, 1.0, residual[other]
                )
                if trial_chi2 <= chi2:
                    better, moved, now, chi2 = True, longest, other, trial_chi2
            if better:
                for k in range(n):
                    place[k, 0], place[k, 1], place[k, 2] = trial[k, 0], trial[k, 1], trial[k, 2]
                damping = max(damping * 0.1, 1e-9)
                break
            damping *= 10.0
        if moved < _SHORTEST_STEP:
            break
    group_equations(features[now], corners[now], place, free, x0, y0, residual[now], used, normal, moment)
    solved = invert(normal, lower, covariance)
    if not solved:
        for k in range(size):
            for m in range(size):
                covariance[k, m] = np.nan
    return chi2, solved


@njit(**LEAN)
def soften(used, model, error):  # type: ignore[no-untyped-def]
    """Lower weights, in place, for a fractional error of the model."""
    for row in range(used.shape[0]):
        for col in range(used.shape[1]):
            w = used[row, col]
            used[row, col] = w / (1.0 + w * (error * model[row, col]) ** 2)


@njit(**LEAN)
def restore_group(  # type: ignore[no-untyped-def]
    residual, weight, coefficients, nodes, shares, reach, half, first, who, placed, model_error, corner,
    local, data, used,
):  # fmt: skip
    """Fill the pixels of a group, its sources as they were placed added again, and their weights.

    ``local`` gets the PSFs of the sources, ``data`` and ``used`` have to be 0; for the others see
    `fit_groups`.
    """
    n, side, x0, y0 = len(who), 2 * reach + 1, corner[0], corner[1]
    features, corners, taps = np.empty((n, 3, side, side)), np.empty((n, 2), np.int64), np.empty((4, 4))
    place, centre, model = np.empty((n, 3)), np.empty((n, 2), np.int64), np.empty(data.shape)
    for k in range(n):
        centre[k, 0], centre[k, 1] = round(first[who[k], 0]), round(first[who[k], 1])
        for m in range(3):
            place[k, m] = placed[who[k], m]
        blend_nodes(coefficients, nodes, shares, who[k], local[k])
    cut_group(residual, weight, centre, half, x0, y0, data, used)
    centre_squares(place, reach, corners)
    draw_group(local, place, reach, taps, features, corners)
    subtract_group(data, used, x0, y0, features, corners, place, -1.0, model)
    for row in range(data.shape[0]):
        for col in range(data.shape[1]):
            change = model[row, col] - data[row, col]
            data[row, col], model[row, col] = model[row, col], change
    if model_error > 0.0:
        soften(used, model, model_error)


@njit(**LEAN)
def group_box(first, who, half):  # type: ignore[no-untyped-def]
    """Return the lower corner and the shape of the box that holds the squares of a group."""
    x0, x1 = round(first[who[0], 0]), round(first[who[0], 0])
    y0, y1 = round(first[who[0], 1]), round(first[who[0], 1])
    for k in who:
        x, y = round(first[k, 0]), round(first[k, 1])
        x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    return (x0 - half, y0 - half), (y1 - y0 + 2 * half + 1, x1 - x0 + 2 * half + 1)


@njit(**LEAN)
def fit_groups(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, reach, half, first, members, starts, placed,
    model_error, x, y, flux, max_shift, iterations, results,
):  # fmt: skip
    """Fit groups of sources, each group at once.

    Parameters
    ----------
    begin, end : `int`
        First group, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Image without the sources as they were placed, and inverse variance.
    coefficients, nodes, shares
        PSF, those of `SplinePsf` and `SplinePsf.nodes_at`, a row for each source.
    reach : `int`
        Half side of the squares in which sources are drawn that have others beside them.
    half : `int`
        Half side of the squares of pixels around the first positions that are fitted.
    first : ``(N, 2)``, float64
        First positions, x and y.
    members, starts : int64
        Indices of the sources group by group, and where in them each group starts; one more than groups.
    placed : ``(N, 3)``, float64
        x, y and flux of the sources that were taken from the image.
    model_error : `float`
        Fractional error of the sources that were placed, added to the variances.
    x, y, flux : ``(N,)``, float64
        Positions to start from; all are replaced by the result.
    max_shift : `float`
        Farthest a position may move from the first, pixels; one that goes farther is put back, and held.
    iterations : `int`
        Most steps of a fit.
    results : ``(N, 9)``, float64
        Filled with variances of flux, x and y, covariances of x and y, flux and x, flux and y, chi square,
        number of pixels, and 1 where the position was held or could not be found.
    """
    ny, nx = residual.shape
    base = coefficients.shape[3]
    for g in range(begin, end):
        who = members[starts[g] : starts[g + 1]]
        n = len(who)
        corner, shape = group_box(first, who, half)
        data, used = np.zeros(shape), np.zeros(shape)
        local = np.empty((n, 4, 4, base, base), np.float32)
        restore_group(
            residual, weight, coefficients, nodes, shares, reach, half, first, who, placed, model_error,
            corner, local, data, used,
        )  # fmt: skip
        # One source is drawn on its own pixels; of several each spreads into the pixels of the others.
        follow = n > 1
        drawn = reach if follow else half
        place, free, covariance = np.empty((n, 3)), np.empty(n, np.bool_), np.empty((3 * n, 3 * n))
        for k in range(n):
            place[k, 0], place[k, 1], free[k] = x[who[k]], y[who[k]], True
        chi2 = 0.0
        for _ in range(n + 1):
            chi2, solved = fit_group(
                data, used, corner[0], corner[1], local, drawn, follow, free, place, iterations, covariance
            )
            lost = False
            for k in range(n):
                dx, dy = place[k, 0] - first[who[k], 0], place[k, 1] - first[who[k], 1]
                inside = -0.5 <= place[k, 0] <= nx - 0.5 and -0.5 <= place[k, 1] <= ny - 0.5
                if free[k] and not (inside and solved and dx * dx + dy * dy <= max_shift * max_shift):
                    free[k], lost = False, True
                    place[k, 0], place[k, 1] = first[who[k], 0], first[who[k], 1]
            if not lost:
                break
        count = 0
        for row in range(shape[0]):
            for col in range(shape[1]):
                count += used[row, col] > 0.0
        for k in range(n):
            i, c = who[k], 3 * k
            x[i], y[i], flux[i] = place[k, 0], place[k, 1], place[k, 2]
            results[i, 0], results[i, 1] = covariance[c, c], covariance[c + 1, c + 1]
            results[i, 2], results[i, 3] = covariance[c + 2, c + 2], covariance[c + 1, c + 2]
            results[i, 4], results[i, 5] = covariance[c, c + 1], covariance[c, c + 2]
            results[i, 6], results[i, 7], results[i, 8] = chi2, count, 0.0 if free[k] else 1.0
