"""Compiled tests of residuals for second sources under one peak."""

from __future__ import annotations

__all__ = ("screen_groups",)

import math

import numpy as np

from ..compile_nb import LEAN, njit
from .group_fit_nb import group_box, restore_group
from .linear_nb import factorize, solve_factorized
from .spline_psf_nb import draw_psf

# Step in pixels of the differences that give second derivatives of the PSF.
_STEP = 0.25


@njit(**LEAN)
def quadrupole_features(local, dx, dy, half, taps, out):  # type: ignore[no-untyped-def]
    """Fill the PSF, its slopes and second derivatives (xx, xy, yy) on a square of pixels, ``(11, S, S)``.

    The first six count; the others are work space.
    """
    draw_psf(local, dx, dy, half, taps, out[:3])
    for axis in range(2):
        x, y = (_STEP, 0.0) if axis == 0 else (0.0, _STEP)
        draw_psf(local, dx + x, dy + y, half, taps, out[5:8])
        draw_psf(local, dx - x, dy - y, half, taps, out[8:11])
        for j in range(out.shape[1]):
            for i in range(out.shape[2]):
                steep_x, steep_y = out[6, j, i] - out[9, j, i], out[7, j, i] - out[10, j, i]
                if axis == 0:
                    out[3, j, i], out[4, j, i] = steep_x / (2 * _STEP), steep_y / (2 * _STEP)
                else:
                    out[5, j, i] = steep_y / (2 * _STEP)


@njit(**LEAN)
def solve_part(normal, moment, lower, solution):  # type: ignore[no-untyped-def]
    """Return by how much chi square falls by the first ``N`` features, ``lower`` being ``(N, N)``.

    0 if they depend on each other.
    """
    if not factorize(normal, 0.0, lower):
        return 0.0
    solve_factorized(lower, moment, solution)
    gain = 0.0
    for i in range(len(lower)):
        gain += solution[i] * moment[i]
    return gain


@njit(**LEAN)
def test_quadrupole(features, cx, cy, residual, used, normal, moment, small, large, solution):  # type: ignore[no-untyped-def]
    """Return by how much chi square falls if the source may be elongated, and the angle of its long axis.

    (cx, cy) is the lower corner of the features in the residuals.
    """
    side = features.shape[1]
    height, width = residual.shape
    for i in range(6):
        for j in range(i + 1):
            total, right = 0.0, 0.0
            for row in range(max(0, cy), min(height, cy + side)):
                for col in range(max(0, cx), min(width, cx + side)):
                    left = used[row, col] * features[i, row - cy, col - cx]
                    total += left * features[j, row - cy, col - cx]
                    right += left * residual[row, col]
            normal[i, j], normal[j, i], moment[i] = total, total, right
    gain = solve_part(normal, moment, small, solution)
    all_gain = solve_part(normal, moment, large, solution)
    if all_gain == 0.0:
        return 0.0, 0.0
    return all_gain - gain, 0.5 * math.atan2(solution[4], solution[3] - solution[5])


@njit(**LEAN)
def best_addition(stamp, cx, cy, radius, residual, used):  # type: ignore[no-untyped-def]
    """Return the most significant flux that the residuals have within a radius, and its pixel's offset."""
    side = stamp.shape[1]
    height, width = residual.shape
    best, best_x, best_y = 0.0, 0, 0
    reach = int(radius)
    for oy in range(-reach, reach + 1):
        for ox in range(-reach, reach + 1):
            if ox * ox + oy * oy > radius * radius:
                continue
            x, y = cx + ox, cy + oy
            low, high = max(0, x), min(width, x + side)
            moment, power = 0.0, 0.0
            for row in range(max(0, y), min(height, y + side)):
                w, r, p = used[row, low:high], residual[row, low:high], stamp[0, row - y, low - x :]
                for i in range(high - low):
                    left = w[i] * p[i]
                    moment += left * r[i]
                    power += left * p[i]
            if power > 0.0 and abs(moment) > best * math.sqrt(power):
                best, best_x, best_y = abs(moment) / math.sqrt(power), ox, oy
    return best, best_x, best_y


@njit(**LEAN)
def screen_groups(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, coefficients, nodes, shares, reach, half, first, members, starts, placed,
    model_error, error, fwhm, min_snr, results,
):  # fmt: skip
    """Ask the residuals of each source whether a second one beside it would be worth a fit.

    Parameters
    ----------
    begin, end, residual, weight, coefficients, nodes, shares, reach, half, first, members, starts, placed
        As in `~lsst.twinkles.diffim.algorithms.measure.group_fit_nb.fit_groups`.
    model_error : `float`
        Fractional error of the model, added to the variances.
    error : ``(N,)``, float64
        Errors of the fluxes.
    fwhm : `float`
        FWHM in pixels.
    min_snr : `float`
        Fainter sources are not tried.
    results : ``(N, 6)``, float64
        Filled with the fall of chi square by an elongation, and the angle of its long axis; the fall by one
        more point source, and its place, x and y in pixels from the source; chi square of the group.
    """
    side, base = 2 * half + 1, coefficients.shape[3]
    features, taps = np.empty((11, side, side)), np.empty((4, 4))
    normal, moment, solution = np.empty((6, 6)), np.empty(6), np.empty(6)
    small, large = np.empty((3, 3)), np.empty((6, 6))
    for g in range(begin, end):
        who = members[starts[g] : starts[g + 1]]
        tried = False
        for i in who:
            tried |= abs(placed[i, 2]) > min_snr * error[i]
        if not tried:
            continue
        corner, shape = group_box(first, who, half)
        data, used = np.zeros(shape), np.zeros(shape)
        local = np.empty((len(who), 4, 4, base, base), np.float32)
        restore_group(
            residual, weight, coefficients, nodes, shares, reach, half, first, who, placed, model_error,
            corner, local, data, used,
        )  # fmt: skip
        single = 0.0
        for row in range(shape[0]):
            for col in range(shape[1]):
                # The data come with the sources: what is left are the pixels of the residual.
                y, x = corner[1] + row, corner[0] + col
                data[row, col] = residual[y, x] if used[row, col] > 0.0 else 0.0
                single += used[row, col] * data[row, col] ** 2
        for k in range(len(who)):
            i = who[k]
            results[i, 5] = single
            if not abs(placed[i, 2]) > min_snr * error[i]:
                continue
            ix, iy = round(placed[i, 0]), round(placed[i, 1])
            cx, cy = ix - half - corner[0], iy - half - corner[1]
            quadrupole_features(local[k], placed[i, 0] - ix, placed[i, 1] - iy, half, taps, features)
            results[i, 0], results[i, 1] = test_quadrupole(
                features, cx, cy, data, used, normal, moment, small, large, solution
            )
            height, ox, oy = best_addition(features, cx, cy, 1.5 * fwhm, data, used)
            results[i, 2], results[i, 3], results[i, 4] = height * height, ox, oy
