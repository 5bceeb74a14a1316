"""Compiled fits of dipoles to a difference and the two images that it was made of."""

from __future__ import annotations

__all__ = ("fit_dipoles",)

import math

import numpy as np

from ..compile_nb import LEAN, njit
from .group_fit_nb import cut_group
from .linear_nb import factorize, invert, solve_factorized
from .spline_psf_nb import blend_nodes, draw_psf

# Parameters: mean flux, centre x and y, separation x and y, three of the sky; then the flux difference.
_N = 8
_STRONGEST_DAMPING = 1e8
# Weight of direct images where the difference is to tell alone: enough for a sky and a flux.
_NEXT_TO_NOTHING = 1e-4


@njit(**LEAN)
def try_dipole(stamp, half, ox, oy, data, used, best):  # type: ignore[no-untyped-def]
    """Fit a point dipole at an offset in pixels from the middle of the data; keep it if it is the best."""
    side, width = 2 * half + 1, data.shape[0]
    cx, cy = width // 2 + ox - half, width // 2 + oy - half
    low, high = max(0, cx), min(width, cx + side)
    nxx, nxy, nyy, bx, by = 0.0, 0.0, 0.0, 0.0, 0.0
    for row in range(max(0, cy), min(width, cy + side)):
        w, d = used[row, low:high], data[row, low:high]
        px, py = stamp[1, row - cy, low - cx :], stamp[2, row - cy, low - cx :]
        for i in range(high - low):
            u, v = w[i] * px[i], w[i] * py[i]
            nxx += u * px[i]
            nxy += u * py[i]
            nyy += v * py[i]
            bx += u * d[i]
            by += v * d[i]
    determinant = nxx * nyy - nxy * nxy
    if not determinant > 1e-6 * nxx * nyy:
        return
    mx, my = (nyy * bx - nxy * by) / determinant, (nxx * by - nxy * bx) / determinant
    gain = mx * bx + my * by
    if gain > best[4]:
        best[0], best[1], best[2], best[3], best[4] = ox, oy, mx, my, gain


@njit(**LEAN)
def search_dipole(stamp, half, radius, data, used, best):  # type: ignore[no-untyped-def]
    """Fit point dipoles centred on every other pixel, and around the best of these on every one.

    ``best`` gets the offset of the best from the middle of the data, its two moments, and by how much it
    lowers chi square.
    """
    for k in range(5):
        best[k] = 0.0
    start, px, py = -radius + radius % 2, 0, 0
    coarse = (2 * radius) // 2 + 1
    for k in range(coarse * coarse + 9):
        if k < coarse * coarse:
            oy, ox = start + 2 * (k // coarse), start + 2 * (k % coarse)
            if ox * ox + oy * oy > radius * radius:
                continue
        else:
            if k == coarse * coarse:
                px, py = int(best[0]), int(best[1])
            oy, ox = py - 1 + (k - coarse * coarse) // 3, px - 1 + (k - coarse * coarse) % 3
        try_dipole(stamp, half, ox, oy, data, used, best)


@njit(**LEAN)
def draw_design(p, x0, y0, half, local, share, taps, stamp, design):  # type: ignore[no-untyped-def]
    """Draw the derivatives of a dipole on a square whose middle pixel is (x0, y0).

    ``design``, ``(2, 9, S, S)``, gets those of the difference and of the mean image with respect to the eight
    parameters ``p`` and, last, the difference of the fluxes. ``local`` are the PSFs of difference, science
    image and template; ``share`` is that of the science image in the mean.
    """
    side = 2 * half + 1
    for lobe in range(4):
        image, sign = lobe // 2, 1.0 if lobe % 2 == 0 else -1.0
        x, y = p[1] + 0.5 * sign * p[3] - x0, p[2] + 0.5 * sign * p[4] - y0
        draw_psf(local[max(0, lobe - 1)], x, y, half, taps, stamp)
        # On the difference the second lobe is subtracted, on the mean image both are averaged.
        part = sign if image == 0 else (share if lobe == 2 else 1.0 - share)
        for m in range(3):
            by_sum, by_step = (0, _N) if m == 0 else (m, m + 2)
            a = part if m == 0 else p[0] * part
            b = 0.5 * sign * a
            target, other = design[image, by_sum], design[image, by_step]
            for j in range(side):
                for i in range(side):
                    old_a, old_b = (0.0, 0.0) if lobe % 2 == 0 else (target[j, i], other[j, i])
                    target[j, i], other[j, i] = old_a + a * stamp[m, j, i], old_b + b * stamp[m, j, i]
    for j in range(side):
        for i in range(side):
            for m in range(3):
                design[0, 5 + m, j, i] = 0.0
            design[1, 5, j, i], design[1, 6, j, i] = 1.0, (i - side // 2) / side
            design[1, 7, j, i] = (j - side // 2) / side


@njit(**LEAN)
def dipole_equations(p, data, used, design, relative, rest, normal, moment, meat):  # type: ignore[no-untyped-def]
    """Fill the normal equations at parameters ``p``; return chi square on difference and mean image.

    ``data`` and ``used`` are the pixels and inverse variances of both, ``(2, S, S)``, ``relative`` the weight
    of the mean image; ``meat`` gets the covariance of the moments, ``rest``, ``(S, S)``, is work space.
    """
    side = data.shape[1]
    chi2 = np.zeros(2)
    for a in range(_N + 1):
        moment[a] = 0.0
        for b in range(_N + 1):
            normal[a, b], meat[a, b] = 0.0, 0.0
    for image in range(2):
        factor = 1.0 if image == 0 else relative
        total = 0.0
        for j in range(side):
            for i in range(side):
                r = data[image, j, i] - p[0] * design[image, 0, j, i] - p[5] * design[image, 5, j, i]
                r -= p[6] * design[image, 6, j, i] + p[7] * design[image, 7, j, i]
                total += used[image, j, i] * r * r
                rest[j, i] = r
        chi2[image] = total
        for a in range(_N + 1):
            if image == 0 and 5 <= a < _N:  # the difference has no sky
                continue
            for b in range(a + 1):
                total, right = 0.0, 0.0
                for j in range(side):
                    w, r = used[image, j], rest[j]
                    left, other = design[image, a, j], design[image, b, j]
                    for i in range(side):
                        u = w[i] * left[i]
                        total += u * other[i]
                        right += u * r[i]
                normal[a, b] += factor * total
                meat[a, b] += factor * factor * total
                normal[b, a], meat[b, a] = normal[a, b], meat[a, b]
                if a == b:
                    moment[a] += factor * right
    return chi2[0], chi2[1]


@njit(**LEAN)
def improve_dipole(  # type: ignore[no-untyped-def]
    p, x0, y0, half, local, share, data, used, relative, longest, iterations, taps, stamp, design, normal,
    moment, meat,
):  # fmt: skip
    """Find the best parameters by Levenberg-Marquardt steps; return both chi squares at the best.

    Arrays from ``design`` on hold two each, the one that counts first at the end.
    """
    lower, step, trial, rest = np.empty((_N, _N)), np.empty(_N), np.empty(_N), np.empty(data.shape[1:])
    room = local.shape[3] // 2 - half - 3
    draw_design(p, x0, y0, half, local, share, taps, stamp, design[0])
    chi2, chi2_mean = dipole_equations(
        p, data, used, design[0], relative, rest, normal[0], moment[0], meat[0]
    )
    now, damping = 0, 1e-3
    for _ in range(iterations):
        moved = 0.0
        while damping < _STRONGEST_DAMPING:
            if not factorize(normal[now], damping, lower):
                damping *= 10.0
                continue
            solve_factorized(lower, moment[now], step)
            for k in range(_N):
                trial[k] = p[k] + step[k]
            size = math.hypot(trial[3], trial[4])
            far = max(abs(trial[1] - x0), abs(trial[2] - y0)) + 0.5 * size
            if trial[0] <= 0.0 or size > longest or far > room:
                damping *= 10.0
                continue
            other = 1 - now
            draw_design(trial, x0, y0, half, local, share, taps, stamp, design[other])
            c, cm = dipole_equations(
                trial, data, used, design[other], relative, rest, normal[other], moment[other], meat[other]
            )
            if c + relative * cm <= chi2 + relative * chi2_mean:
                moved = abs(step[0]) / trial[0]
                for k in range(_N):
                    p[k] = trial[k]
                    if 1 <= k < 5:
                        moved = max(moved, abs(step[k]))
                chi2, chi2_mean, now, damping = c, cm, other, max(0.1 * damping, 1e-9)
                break
            damping *= 10.0
        if moved < 1e-4:
            break
    if now == 1:
        for a in range(_N + 1):
            moment[0, a] = moment[1, a]
            for b in range(_N + 1):
                normal[0, a, b], meat[0, a, b] = normal[1, a, b], meat[1, a, b]
    return chi2, chi2_mean


@njit(**LEAN)
def gain_of_point(profile, data, used):  # type: ignore[no-untyped-def]
    """Return by how much chi square falls by a point source of this profile."""
    moment, power = 0.0, 0.0
    for row in range(data.shape[0]):
        for col in range(data.shape[1]):
            left = used[row, col] * profile[row, col]
            moment += left * data[row, col]
            power += left * profile[row, col]
    return moment * moment / power if power > 0.0 else 0.0


@njit(**LEAN)
def mean_image(direct, weights, factors, mean, used):  # type: ignore[no-untyped-def]
    """Fill the weighted mean of two images and its inverse variance; return the share of the first.

    With shares in proportion to the inverse variances its noise is independent of that of their difference.
    Images and weights are ``(2, S, S)``; the weights are multiplied by ``factors``.
    """
    a, b = 0.0, 0.0
    for row in range(mean.shape[0]):
        for col in range(mean.shape[1]):
            if weights[0, row, col] > 0.0 and weights[1, row, col] > 0.0:
                a += factors[0] * weights[0, row, col]
                b += factors[1] * weights[1, row, col]
    share = a / (a + b) if a + b > 0.0 else 0.0
    for row in range(mean.shape[0]):
        for col in range(mean.shape[1]):
            s, t = factors[0] * weights[0, row, col], factors[1] * weights[1, row, col]
            mean[row, col], used[row, col] = 0.0, 0.0
            if s > 0.0 and t > 0.0:
                mean[row, col] = share * direct[0, row, col] + (1.0 - share) * direct[1, row, col]
                used[row, col] = 1.0 / (share**2 / s + (1.0 - share) ** 2 / t)
    return share


@njit(**LEAN)
def start_fluxes(p, mean, used, design, least):  # type: ignore[no-untyped-def]
    """Set mean flux (``least`` at least) and sky from the mean image, at the place of ``design``."""
    side = mean.shape[0]
    normal, moment, lower, solution = np.empty((4, 4)), np.empty(4), np.empty((4, 4)), np.zeros(4)
    for a in range(4):
        for b in range(a + 1):
            total, right = 0.0, 0.0
            left, other = design[1, 0 if a == 0 else a + 4], design[1, 0 if b == 0 else b + 4]
            for row in range(side):
                for col in range(side):
                    u = used[row, col] * left[row, col]
                    total += u * other[row, col]
                    right += u * mean[row, col]
            normal[a, b], normal[b, a], moment[a] = total, total, right
    if factorize(normal, 0.0, lower):
        solve_factorized(lower, moment, solution)
    p[0] = max(solution[0], least, 1e-30)
    for a in range(3):
        p[5 + a] = solution[1 + a]


@njit(**LEAN)
def covariance_of(inverse, meat, a, b):  # type: ignore[no-untyped-def]
    """Return an element of the product of inverse, meat (as far as it counts) and inverse."""
    total = 0.0
    for i in range(len(inverse)):
        for j in range(len(inverse)):
            total += inverse[a, i] * meat[i, j] * inverse[j, b]
    return total


@njit(**LEAN)
def moment_covariance(p, inverse, meat, i, j):  # type: ignore[no-untyped-def]
    """Return an element of the covariance of flux times separation; ``i``, ``j`` are 3 (x) or 4 (y)."""
    total = p[i] * p[j] * covariance_of(inverse, meat, 0, 0)
    total += p[0] * (p[i] * covariance_of(inverse, meat, 0, j) + p[j] * covariance_of(inverse, meat, i, 0))
    return total + p[0] * p[0] * covariance_of(inverse, meat, i, j)


@njit(**LEAN)
def write_dipole(p, normal, moment, meat, results, n):  # type: ignore[no-untyped-def]
    """Fill the first 13 results of source ``n``, and whether there is a fit."""
    lower, inverse = np.empty((_N, _N)), np.empty((_N, _N))
    for k in range(5):
        results[n, k] = p[k]
    if not invert(normal, lower, inverse):
        return
    for k in range(6):
        a, b = (k, k) if k < 5 else (3, 4)
        results[n, 5 + k if k < 5 else 12] = covariance_of(inverse, meat, a, b)
    # The difference of the fluxes, by one step from 0 with all others free.
    lower, inverse = np.empty((_N + 1, _N + 1)), np.empty((_N + 1, _N + 1))
    if invert(normal, lower, inverse):
        results[n, 10], last = 0.0, len(inverse) - 1
        for k in range(_N + 1):
            results[n, 10] += inverse[_N, k] * moment[k]
        results[n, 11] = covariance_of(inverse, meat, last, last)
        results[n, 18] = 1.0


@njit(**LEAN)
def write_moment(p, normal, meat, hosted, results, n):  # type: ignore[no-untyped-def]
    """Fill the moment of ``p``, fitted to the difference alone; of it, if ``hosted``, the separation."""
    lower, inverse = np.empty((_N, _N)), np.empty((_N, _N))
    flux, variance = results[n, 0], results[n, 5]
    if not invert(normal, lower, inverse):
        return
    for k in range(2):
        results[n, 19 + k] = p[0] * p[3 + k]
        if hosted:
            results[n, 3 + k] = p[0] * p[3 + k] / flux
    for k in range(3):
        a, b = 4 if k == 1 else 3, 3 if k == 0 else 4
        results[n, 21 + k] = moment_covariance(p, inverse, meat, a, b)
        if hosted:
            of_separation = (results[n, 21 + k] + results[n, a] * results[n, b] * variance) / flux**2
            results[n, 12 if k == 2 else 8 + k] = of_separation


@njit(**LEAN)
def fit_dipoles(  # type: ignore[no-untyped-def]
    begin, end, residual, weight, science, science_weight, template, template_weight, coefficients, nodes,
    shares, half, x, y, flux, partner, centre, radius, longest, relative, factors, iterations, results,
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
    coefficients : ``(G, 4, 4, B, B)``, float32
        Spline coefficients of the PSFs of all three, one after the other.
    nodes, shares : ``(3, N, 4)``
        Nodes of each among them, and their weights at the sources.
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
    factors : ``(2,)``, float64
        Factors on the weights of science image and template.
    iterations : `int`
        Most steps.
    results : ``(N, 24)``, float64
        Filled with the parameters (5), their variances (5), difference of the fluxes and its variance,
        covariance of the two separations, chi square on the difference with nothing, with the better of the
        point sources, with the dipole, number of pixels, reduced chi square on the mean image (1 if it fits),
        whether there is a fit (1), and, from the difference alone, the moment (flux times separation) along x
        and y, their variances and covariance.
    """
    side, base = 2 * half + 1, coefficients.shape[3]
    local, taps, stamp = (
        np.empty((3, 4, 4, base, base), np.float32),
        np.empty((4, 4)),
        np.empty((3, side, side)),
    )
    data, used = np.empty((2, side, side)), np.empty((2, side, side))
    direct, direct_used = np.empty((2, side, side)), np.empty((2, side, side))
    points, best, p = np.empty((2, side, side)), np.empty(5), np.empty(_N)
    design, middle = np.empty((2, 2, _N + 1, side, side)), np.empty((1, 2), np.int64)
    normal, meat = np.empty((2, _N + 1, _N + 1)), np.empty((2, _N + 1, _N + 1))
    moment, room = np.empty((2, _N + 1)), base // 2 - half - 3.0
    for n in range(begin, end):
        ix, iy = centre[n, 0], centre[n, 1]
        middle[0, 0], middle[0, 1] = ix, iy
        for k in range(2):
            for j in range(side):
                for i in range(side):
                    data[k, j, i], used[k, j, i], direct[k, j, i], direct_used[k, j, i] = 0.0, 0.0, 0.0, 0.0
                    points[k, j, i] = 0.0
        cut_group(residual, weight, middle, half, ix - half, iy - half, data[0], used[0])
        cut_group(science, science_weight, middle, half, ix - half, iy - half, direct[0], direct_used[0])
        cut_group(template, template_weight, middle, half, ix - half, iy - half, direct[1], direct_used[1])
        share = mean_image(direct, direct_used, factors, data[1], used[1])
        for k in range(3):
            blend_nodes(coefficients, nodes[k], shares[k], n, local[k])
        for k in range(2):
            i = partner[n, k]
            if i >= 0:
                ox, oy = min(max(x[i] - ix, -room), room), min(max(y[i] - iy, -room), room)
                draw_psf(local[0], ox, oy, half, taps, stamp)
                for row in range(side):
                    for col in range(side):
                        points[k, row, col] = stamp[0, row, col]
                        data[0, row, col] += flux[i] * stamp[0, row, col]
        nothing = gain_of_point(data[0], data[0], used[0])
        point = nothing - max(
            gain_of_point(points[0], data[0], used[0]), gain_of_point(points[1], data[0], used[0])
        )
        draw_psf(local[0], 0.0, 0.0, half, taps, stamp)
        search_dipole(stamp, half, radius, data[0], used[0], best)
        results[n, 13], results[n, 14] = nothing, point
        # A point source without a partner that explains more than any dipole needs no fit.
        alone = partner[n, 1] < 0 and best[4] < nothing - point
        if alone or not best[4] > 0.0 or not share > 0.0:
            continue
        for k in range(_N):
            p[k] = 0.0
        p[1], p[2] = ix + best[0], iy + best[1]
        draw_design(p, ix, iy, half, local, share, taps, stamp, design[0])
        start_fluxes(p, data[1], used[1], design[0], math.hypot(best[2], best[3]) / (0.5 * longest))
        p[3], p[4] = best[2] / p[0], best[3] / p[0]
        excess, chi2 = 1.0, 0.0
        for again in range(2):
            chi2, chi2_mean = improve_dipole(
                p, ix, iy, half, local, share, data, used, relative, longest, iterations, taps, stamp, design,
                normal, moment, meat,
            )  # fmt: skip
            if again == 0:
                count = -_N
                for row in range(side):
                    for col in range(side):
                        count += used[1, row, col] > 0.0
                excess = chi2_mean / max(1, count)
                # Chance makes it differ from 1 either way.
                if not excess > 1.0 + 3.0 * math.sqrt(2.0 / max(1, count)):
                    excess = 1.0
                    break
                # The direct images hold more than one point source: they tell that much less.
                for row in range(side):
                    for col in range(side):
                        used[1, row, col] /= excess
        write_dipole(p, normal[0], moment[0], meat[0], results, n)
        if results[n, 18] > 0.0:
            for row in range(side):
                for col in range(side):
                    used[1, row, col] *= _NEXT_TO_NOTHING
            # From where both together lead, and from half a FWHM at the place that the difference tells.
            least = 1e300
            for again in range(2):
                if again == 1:
                    p[0] = 4.0 * math.hypot(best[2], best[3]) / longest
                    p[1], p[2], p[3], p[4] = ix + best[0], iy + best[1], best[2] / p[0], best[3] / p[0]
                chi2_own, chi2_mean = improve_dipole(
                    p, ix, iy, half, local, share, data, used, relative, longest, iterations, taps, stamp,
                    design, normal, moment, meat,
                )  # fmt: skip
                if chi2_own + relative * chi2_mean < least:
                    least = chi2_own + relative * chi2_mean
                    write_moment(p, normal[0], meat[0], excess > 1.0, results, n)
        count = 0
        for row in range(side):
            for col in range(side):
                count += used[0, row, col] > 0.0
        results[n, 15], results[n, 16], results[n, 17] = chi2, count, excess
