"""Compiled fits of dipoles to a difference and the two images that it was made of."""

from __future__ import annotations

__all__ = ("fit_dipoles",)

import math

import numpy as np

from ..compile_nb import njit
from .group_fit_nb import chi_square, cut_group
from .linear_nb import factorize, invert, solve_factorized
from .spline_psf_nb import draw_psf

# Parameters: mean flux, centre x and y, separation x and y, three of the sky; then the flux difference.
_N = 8
_STRONGEST_DAMPING = 1e8


@njit(cache=True, nogil=True)
def try_dipole(stamp, half, ox, oy, data, used, best):  # type: ignore[no-untyped-def]
    """Fit a point dipole at an offset in pixels from the middle of the data; keep it if it is the best."""
    side, middle = 2 * half + 1, data.shape[0] // 2
    cx, cy = middle + ox - half, middle + oy - half
    nxx, nxy, nyy, bx, by = 0.0, 0.0, 0.0, 0.0, 0.0
    for row in range(max(0, cy), min(data.shape[0], cy + side)):
        for col in range(max(0, cx), min(data.shape[1], cx + side)):
            w = used[row, col]
            px, py = stamp[1, row - cy, col - cx], stamp[2, row - cy, col - cx]
            nxx += w * px * px
            nxy += w * px * py
            nyy += w * py * py
            bx += w * px * data[row, col]
            by += w * py * data[row, col]
    determinant = nxx * nyy - nxy * nxy
    if not determinant > 1e-6 * nxx * nyy:
        return
    mx, my = (nyy * bx - nxy * by) / determinant, (nxx * by - nxy * bx) / determinant
    gain = mx * bx + my * by
    if gain > best[4]:
        best[0], best[1], best[2], best[3], best[4] = ox, oy, mx, my, gain


@njit(cache=True, nogil=True)
def search_dipole(stamp, half, radius, data, used, best):  # type: ignore[no-untyped-def]
    """Fit point dipoles centred on every other pixel, and around the best of these on every one.

    ``best`` gets the offset of the best from the middle of the data, its two moments, and by how much it
    lowers chi square.
    """
    best[:] = 0.0
    start = -radius + radius % 2
    for oy in range(start, radius + 1, 2):
        for ox in range(start, radius + 1, 2):
            if ox * ox + oy * oy <= radius * radius:
                try_dipole(stamp, half, ox, oy, data, used, best)
    px, py = int(best[0]), int(best[1])
    for oy in range(py - 1, py + 2):
        for ox in range(px - 1, px + 2):
            try_dipole(stamp, half, ox, oy, data, used, best)


@njit(cache=True, nogil=True)
def dipole_equations(  # type: ignore[no-untyped-def]
    p, difference, used, mean, used_mean, share, lobes, normal, moment, meat, relative
):
    """Fill the normal equations at parameters ``p``; return chi square on difference and mean image.

    ``lobes`` holds PSFs and slopes, ``(4, 3, S, S)``: of the difference at the positive and the negative
    lobe, of the science image at the positive, of the template at the negative one. ``relative`` is the
    weight of the mean image; ``meat`` gets the covariance of the moments.
    """
    side = difference.shape[0]
    normal[:], moment[:], meat[:] = 0.0, 0.0, 0.0
    chi2, chi2_mean = 0.0, 0.0
    jd, jm = np.empty(_N + 1), np.empty(_N + 1)
    flux = p[0]
    for row in range(side):
        for col in range(side):
            w, wm = used[row, col], used_mean[row, col]
            if w == 0.0 and wm == 0.0:
                continue
            a, b = lobes[0, 0, row, col], lobes[1, 0, row, col]
            s, t = share * lobes[2, 0, row, col], (1.0 - share) * lobes[3, 0, row, col]
            jd[0], jm[0] = a - b, s + t
            jd[_N], jm[_N] = 0.5 * (a + b), 0.5 * (s - t)
            for i in range(1, 3):
                a, b = lobes[0, i, row, col], lobes[1, i, row, col]
                s, t = share * lobes[2, i, row, col], (1.0 - share) * lobes[3, i, row, col]
                jd[i], jm[i] = flux * (a - b), flux * (s + t)
                jd[2 + i], jm[2 + i] = 0.5 * flux * (a + b), 0.5 * flux * (s - t)
            u, v = (col - side // 2) / side, (row - side // 2) / side
            jd[5], jd[6], jd[7] = 0.0, 0.0, 0.0
            jm[5], jm[6], jm[7] = 1.0, u, v
            r = difference[row, col] - flux * jd[0]
            rm = mean[row, col] - flux * jm[0] - p[5] - p[6] * u - p[7] * v
            chi2 += w * r * r
            chi2_mean += wm * rm * rm
            for i in range(_N + 1):
                moment[i] += w * jd[i] * r + relative * wm * jm[i] * rm
                for j in range(i + 1):
                    d, m = w * jd[i] * jd[j], wm * jm[i] * jm[j]
                    normal[i, j] += d + relative * m
                    meat[i, j] += d + relative * relative * m
    for i in range(_N + 1):
        for j in range(i):
            normal[j, i], meat[j, i] = normal[i, j], meat[i, j]
    return chi2, chi2_mean


@njit(cache=True, nogil=True)
def draw_lobes(  # type: ignore[no-untyped-def]
    p, x0, y0, half, difference, science, template, nodes, shares, lobes
):
    """Draw the four PSFs of a dipole on a square whose middle pixel is (x0, y0)."""
    for k in range(4):
        sign = 0.5 if k % 2 == 0 else -0.5
        x, y = p[1] + sign * p[3] - x0, p[2] + sign * p[4] - y0
        if k < 2:
            draw_psf(difference, nodes[0], shares[0], x, y, half, lobes[k])
        elif k == 2:
            draw_psf(science, nodes[1], shares[1], x, y, half, lobes[k])
        else:
            draw_psf(template, nodes[2], shares[2], x, y, half, lobes[k])


@njit(cache=True, nogil=True)
def improve_dipole(  # type: ignore[no-untyped-def]
    p, x0, y0, half, psfs, nodes, shares, difference, used, mean, used_mean, share, relative, longest,
    iterations, normal, moment, meat, lobes,
):  # fmt: skip
    """Find the best parameters by Levenberg-Marquardt steps; return both chi squares at the best."""
    lower, step = np.empty((_N, _N)), np.empty(_N)
    room = min(psfs[0].shape[3], psfs[1].shape[3], psfs[2].shape[3]) // 2 - half - 3
    draw_lobes(p, x0, y0, half, psfs[0], psfs[1], psfs[2], nodes, shares, lobes)
    chi2, chi2_mean = dipole_equations(
        p, difference, used, mean, used_mean, share, lobes, normal, moment, meat, relative
    )
    damping, trial = 1e-3, np.empty(_N)
    n2, m2, k2, l2 = np.empty_like(normal), np.empty_like(moment), np.empty_like(meat), np.empty_like(lobes)
    for _ in range(iterations):
        moved = 0.0
        while damping < _STRONGEST_DAMPING:
            if not factorize(normal[:_N, :_N].copy(), damping, lower):
                damping *= 10.0
                continue
            solve_factorized(lower, moment[:_N].copy(), step)
            trial[:] = p + step
            size = math.hypot(trial[3], trial[4])
            far = max(abs(trial[1] - x0), abs(trial[2] - y0)) + 0.5 * size
            if trial[0] <= 0.0 or size > longest or far > room:
                damping *= 10.0
                continue
            draw_lobes(trial, x0, y0, half, psfs[0], psfs[1], psfs[2], nodes, shares, l2)
            c2, cm2 = dipole_equations(
                trial, difference, used, mean, used_mean, share, l2, n2, m2, k2, relative
            )
            if c2 + relative * cm2 <= chi2 + relative * chi2_mean:
                moved = max(np.abs(step[1:5]).max(), abs(step[0]) / trial[0])
                p[:] = trial
                chi2, chi2_mean = c2, cm2
                normal[:], moment[:], meat[:], lobes[:] = n2, m2, k2, l2
                damping = max(0.1 * damping, 1e-9)
                break
            damping *= 10.0
        if moved < 1e-4:
            break
    return chi2, chi2_mean


@njit(cache=True, nogil=True)
def gain_of_point(profile, data, used):  # type: ignore[no-untyped-def]
    """Return by how much chi square falls by a point source of this profile."""
    moment, power = 0.0, 0.0
    for row in range(data.shape[0]):
        for col in range(data.shape[1]):
            moment += used[row, col] * profile[row, col] * data[row, col]
            power += used[row, col] * profile[row, col] * profile[row, col]
    return moment * moment / power if power > 0.0 else 0.0


@njit(cache=True, nogil=True)
def mean_image(  # type: ignore[no-untyped-def]
    science, science_weight, template, template_weight, ix, iy, half, mean, used
):
    """Fill the weighted mean of both images and its inverse variance; return the share of the science image.

    With shares in proportion to the inverse variances its noise is independent of that of their difference.
    """
    s, t = np.zeros_like(mean), np.zeros_like(mean)
    ws, wt = np.zeros_like(mean), np.zeros_like(mean)
    cut_group(science, science_weight, ix, iy, half, s, ws)
    cut_group(template, template_weight, ix, iy, half, t, wt)
    a, b = 0.0, 0.0
    for row in range(mean.shape[0]):
        for col in range(mean.shape[1]):
            if ws[row, col] > 0.0 and wt[row, col] > 0.0:
                a += ws[row, col]
                b += wt[row, col]
    if not a + b > 0.0:
        return 0.0
    share = a / (a + b)
    for row in range(mean.shape[0]):
        for col in range(mean.shape[1]):
            if ws[row, col] > 0.0 and wt[row, col] > 0.0:
                mean[row, col] = share * s[row, col] + (1.0 - share) * t[row, col]
                used[row, col] = 1.0 / (share**2 / ws[row, col] + (1.0 - share) ** 2 / wt[row, col])
    return share


@njit(cache=True, nogil=True)
def start_fluxes(  # type: ignore[no-untyped-def]
    p, x0, y0, half, psfs, nodes, shares, mean, used_mean, share, least, lobes
):
    """Set mean flux and sky from the mean image, at the centre; the flux is at least ``least``."""
    draw_lobes(p, x0, y0, half, psfs[0], psfs[1], psfs[2], nodes, shares, lobes)
    side = mean.shape[0]
    normal, moment, features = np.zeros((4, 4)), np.zeros(4), np.empty(4)
    for row in range(side):
        for col in range(side):
            features[0] = share * lobes[2, 0, row, col] + (1.0 - share) * lobes[3, 0, row, col]
            features[1], features[2] = 1.0, (col - side // 2) / side
            features[3] = (row - side // 2) / side
            for i in range(4):
                moment[i] += used_mean[row, col] * features[i] * mean[row, col]
                for j in range(4):
                    normal[i, j] += used_mean[row, col] * features[i] * features[j]
    lower, solution = np.empty((4, 4)), np.zeros(4)
    if factorize(normal, 0.0, lower):
        solve_factorized(lower, moment, solution)
    p[0] = max(solution[0], least, 1e-30)
    p[5:] = solution[1:]


@njit(cache=True, nogil=True)
def write_dipole(p, normal, moment, meat, out):  # type: ignore[no-untyped-def]
    """Fill the first 13 results, and whether there is a fit."""
    lower, inverse = np.empty((_N, _N)), np.empty((_N, _N))
    out[:5] = p[:5]
    if not invert(normal[:_N, :_N].copy(), lower, inverse):
        return
    covariance = inverse @ meat[:_N, :_N].copy() @ inverse
    for i in range(5):
        out[5 + i] = covariance[i, i]
    out[12] = covariance[3, 4]
    # The difference of the fluxes, by one step from 0 with all others free.
    wide, all_inverse = np.empty((_N + 1, _N + 1)), np.empty((_N + 1, _N + 1))
    if invert(normal, wide, all_inverse):
        total = all_inverse @ meat @ all_inverse
        out[10] = (all_inverse[_N] * moment).sum()
        out[11] = total[_N, _N]
        out[18] = 1.0


@njit(cache=True, nogil=True)
def fit_dipoles(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, science, science_weight, template, template_weight, difference_psf,
    science_psf, template_psf, nodes, shares, half, x, y, flux, partner, centre, radius, longest, relative,
    iterations, results,
):  # fmt: skip
    """Fit a dipole to each source and, if it has one, its partner of the other sign.

    Parameters
    ----------
    begin, end : `int`
        First source, and the one after the last.
    residual, weight : ``(Ny, Nx)``, float32
        Difference from which all sources have been subtracted, and inverse variance.
    science, science_weight, template, template_weight : ``(Ny, Nx)``, float32
        Science image and template without sky, and inverse variances.
    difference_psf, science_psf, template_psf : ``(G, 4, 4, B, B)``
        Spline coefficients of the PSFs.
    nodes, shares : ``(N, 3, 4)``
        Nodes of each and their weights at the sources.
    half : `int`
        Half side of the squares that are fitted.
    x, y, flux : ``(M,)``, float64
        All sources, as subtracted.
    partner : ``(N, 2)``, int64
        Source, and its partner or -1.
    centre : ``(N, 2)``, int64
        Pixel, x and y, in the middle of the square.
    radius : `int`
        How far from it the centre of the dipole is looked for, pixels.
    longest : `float`
        Greatest separation of the lobes, pixels.
    relative : `float`
        Weight of the direct images.
    iterations : `int`
        Most steps.
    results : ``(N, 19)``, float64
        Filled with the parameters (5), their variances (5), difference of the fluxes and its variance,
        covariance of the two separations, chi square on the difference with nothing, with the better of the
        point sources, with the dipole, number of pixels, reduced chi square on the mean image, and whether
        there is a fit (1).
    """
    for n in range(begin, end):
        psfs = (difference_psf, science_psf, template_psf)
        side = 2 * half + 1
        ix, iy = centre[n, 0:1].copy(), centre[n, 1:2].copy()
        data, used = np.zeros((side, side)), np.zeros((side, side))
        cut_group(residual, weight, ix, iy, half, data, used)
        stamp = np.empty((3, side, side))
        room = difference_psf.shape[3] // 2 - half - 3
        points = np.zeros((2, side, side))
        for k in range(2):
            i = partner[n, k]
            if i >= 0:
                ox, oy = min(max(x[i] - ix[0], -room), room), min(max(y[i] - iy[0], -room), room)
                draw_psf(difference_psf, nodes[n, 0], shares[n, 0], ox, oy, half, stamp)
                points[k] = stamp[0]
                data += flux[i] * stamp[0]
        nothing = chi_square(data, used)
        point = nothing - max(gain_of_point(points[0], data, used), gain_of_point(points[1], data, used))
        draw_psf(difference_psf, nodes[n, 0], shares[n, 0], 0.0, 0.0, half, stamp)
        best = np.empty(5)
        search_dipole(stamp, half, radius, data, used, best)
        mean, used_mean = np.zeros((side, side)), np.zeros((side, side))
        share = mean_image(science, science_weight, template, template_weight, ix, iy, half, mean, used_mean)
        p = np.zeros(_N)
        p[1], p[2] = ix[0] + best[0], iy[0] + best[1]
        normal, meat = np.empty((_N + 1, _N + 1)), np.empty((_N + 1, _N + 1))
        moment, lobes = np.empty(_N + 1), np.empty((4, 3, side, side))
        results[n, 13], results[n, 14] = nothing, point
        # A point source without a partner that explains more than any dipole needs no fit.
        alone = partner[n, 1] < 0 and best[4] < nothing - point
        if alone or not best[4] > 0.0 or not share > 0.0:
            continue
        start_fluxes(
            p, ix[0], iy[0], half, psfs, nodes[n], shares[n], mean, used_mean, share,
            math.hypot(best[2], best[3]) / (0.5 * longest), lobes,
        )  # fmt: skip
        p[3], p[4] = best[2] / p[0], best[3] / p[0]
        chi2, chi2_mean = improve_dipole(
            p, ix[0], iy[0], half, psfs, nodes[n], shares[n], data, used, mean, used_mean, share, relative,
            longest, iterations, normal, moment, meat, lobes,
        )  # fmt: skip
        count = max(1, np.count_nonzero(used_mean) - _N)
        excess = chi2_mean / count
        if excess > 1.0:
            # The direct images hold more than one point source: they tell that much less.
            used_mean /= excess
            chi2, chi2_mean = improve_dipole(
                p, ix[0], iy[0], half, psfs, nodes[n], shares[n], data, used, mean, used_mean, share,
                relative, longest, iterations, normal, moment, meat, lobes,
            )  # fmt: skip
        write_dipole(p, normal, moment, meat, results[n])
        results[n, 15], results[n, 16], results[n, 17] = chi2, np.count_nonzero(used), excess
