"""Second sources under one peak."""

from __future__ import annotations

__all__ = ("Splits", "split_sources")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .group_fit_nb import fit_groups
from .groups import Groups, link_groups
from .psf_fit import PsfFits, subtract_sources
from .spline_psf import SplinePsf
from .split_nb import screen_groups

# Least gain of chi square that makes a fit of two sources worth while.
_SCREEN = 12.0


@dataclass(frozen=True)
class Splits:
    """Sources that are better explained by two.

    Attributes
    ----------
    parent : `numpy.ndarray`, ``(M,)``, int
        Index of each in the list of sources.
    x, y, flux, flux_error : `numpy.ndarray`, ``(M, 2)``
        Positions in pixels, PSF fluxes and their errors of the two, the brighter one first.
    gain : `numpy.ndarray`, ``(M,)``
        By how much chi square fell.
    """

    parent: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    gain: np.ndarray

    def __len__(self) -> int:
        return len(self.parent)


def split_sources(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    fits: PsfFits,
    *,
    half: int,
    fwhm: float,
    link: float,
    most: int,
    min_snr: float,
    min_gain: float,
    min_separation: float,
    max_separation: float,
    min_flux_ratio: float,
    model_error: float,
    iterations: int,
) -> Splits:
    """Test every bright source for a second one under the same peak.

    Parameters
    ----------
    image, weight, psf
        As in `~lsst.twinkles.diffim.algorithms.measure.psf_fit.fit_point_sources`.
    fits : `PsfFits`
        Fit of each source as a single one.
    half : `int`
        Half side in pixels of the squares that are fitted.
    fwhm : `float`
        FWHM of the PSF in pixels.
    link, most
        As in `fit_point_sources`.
    min_snr : `float`
        Sources of a lower signal-to-noise ratio stay as they are.
    min_gain : `float`
        Least gain of chi square, for three parameters more.
    min_separation, max_separation : `float`
        Least and greatest distance of the two, pixels. Two sources closer than the least cannot be told
        from an error of the PSF's width.
    min_flux_ratio : `float`
        Least flux of the fainter over that of the brighter; they have the same sign.
    model_error : `float`
        Fractional error of the PSF, added in quadrature to the noise.
    iterations : `int`
        Most steps of a fit.

    Returns
    -------
    splits : `Splits`
        Those that pass.

    Notes
    -----
    Whether a fit of two is worth while is asked of the residuals first: chi square has to fall by an
    elongation of the source (second derivatives of the PSF, a score test of three degrees of freedom) or by
    a point source within 1.5 FWHM.
    """
    spline = SplinePsf.from_grid(psf, reach=half)
    flux = np.nan_to_num(fits.flux)
    error = np.where(np.isfinite(fits.flux_error), fits.flux_error, np.inf)
    first = np.column_stack([fits.x, fits.y])
    pixels = (
        subtract_sources(image, spline, fits), np.ascontiguousarray(weight, np.float32), spline.coefficients,
    )  # fmt: skip
    located = spline.nodes_at(x=fits.x, y=fits.y)
    groups = link_groups(fits.x, fits.y, length=link, most=most)
    reach, placed = max(half, spline.extent), np.column_stack([first, flux])
    screen = np.zeros((len(flux), 6))
    run_in_threads(
        screen_groups, len(groups.sizes), *pixels, *located, reach, half, first, groups.members,
        groups.starts, placed, model_error, error, fwhm, min_snr, screen,
    )  # fmt: skip
    trials = _make_trials(screen, groups, first, fwhm)
    again = trials.sources
    x, y, new_flux = trials.x.copy(), trials.y.copy(), np.zeros(len(again))
    results = np.zeros((len(again), 9))
    run_in_threads(
        fit_groups, len(trials.parent), *pixels, *(part[again] for part in located), reach, half,
        first[again], np.arange(len(again)), trials.starts, trials.placed(placed), model_error, x, y,
        new_flux, np.inf, iterations, results,
    )  # fmt: skip
    a, b = trials.pair
    found = np.stack([np.column_stack([x, y, new_flux, results[:, 0]])[part] for part in (a, b)], axis=1)
    failed = (results[a, 8] > 0) | (results[b, 8] > 0) | ~np.isfinite(results[a, 6])
    gain = np.where(failed, -np.inf, screen[trials.parent, 5] - results[a, 6])
    order = np.lexsort([-gain, trials.parent])
    best = order[np.unique(trials.parent[order], return_index=True)[1]]
    return _choose(
        fits, trials.parent[best], found[best], gain[best],
        min_gain=min_gain, min_separation=min_separation, max_separation=max_separation,
        min_flux_ratio=min_flux_ratio,
    )  # fmt: skip


@dataclass(frozen=True)
class _Trials:
    """Groups with one source more: fits of ``T`` groups of ``M`` sources in all.

    Attributes
    ----------
    parent : `numpy.ndarray`, ``(T,)``, int
        Source beside which the new one is.
    starts : `numpy.ndarray`, ``(T + 1,)``, int64
        Where each group starts.
    sources : `numpy.ndarray`, ``(M,)``, int
        Sources of the groups, in each the parent once more at the end for the new one.
    x, y : `numpy.ndarray`, ``(M,)``
        Positions to start from.
    pair : 2-tuple of `numpy.ndarray`, ``(T,)``, int
        Where in ``sources`` parent and new one are.
    """

    parent: np.ndarray
    starts: np.ndarray
    sources: np.ndarray
    x: np.ndarray
    y: np.ndarray
    pair: tuple[np.ndarray, np.ndarray]

    def placed(self, placed: np.ndarray) -> np.ndarray:
        """Return the sources as they were subtracted; the new ones were not."""
        rows = placed[self.sources]
        rows[self.pair[1], 2] = 0.0
        return rows


def _make_trials(screen: np.ndarray, groups: Groups, first: np.ndarray, fwhm: float) -> _Trials:
    """Return two trials for each source whose residuals ask: along its long axis, and at the best place."""
    parents = np.flatnonzero(np.maximum(screen[:, 0], screen[:, 2]) >= _SCREEN)
    sources: list[np.ndarray] = []
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    where = []
    for i in parents:
        group = groups.members[groups.starts[groups.number[i]] : groups.starts[groups.number[i] + 1]]
        k = int(np.flatnonzero(group == i)[0])
        axis = 0.4 * fwhm * np.array([np.cos(screen[i, 1]), np.sin(screen[i, 1])])
        for shift, other in ((-axis, axis), (-0.1 * screen[i, 3:5], screen[i, 3:5])):
            places = np.append(first[group], [first[i] + other], axis=0)
            places[k] += shift
            sources.append(np.append(group, i))
            x.append(places[:, 0])
            y.append(places[:, 1])
            where.append(k)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in sources], dtype=np.int64)]).astype(
        np.int64
    )
    none = [np.zeros(0)]
    return _Trials(
        parent=np.repeat(parents, 2),
        starts=starts,
        sources=np.concatenate([np.zeros(0, np.int64), *sources]),
        x=np.concatenate(none + x),
        y=np.concatenate(none + y),
        pair=(starts[:-1] + np.array(where, dtype=np.int64), starts[1:] - 1),
    )


def _choose(
    fits: PsfFits,
    parent: np.ndarray,
    pairs: np.ndarray,
    gain: np.ndarray,
    *,
    min_gain: float,
    min_separation: float,
    max_separation: float,
    min_flux_ratio: float,
) -> Splits:
    """Return the pairs (x, y, flux and its variance, ``(M, 2, 4)``) that pass the limits."""
    order = np.argsort(-np.abs(pairs[:, :, 2]), axis=1)
    pairs = np.take_along_axis(pairs, order[:, :, None], axis=1)
    bright, faint = pairs[:, 0, 2], pairs[:, 1, 2]
    separation = np.hypot(pairs[:, 0, 0] - pairs[:, 1, 0], pairs[:, 0, 1] - pairs[:, 1, 1])
    distance = np.hypot(pairs[:, :, 0] - fits.x[parent, None], pairs[:, :, 1] - fits.y[parent, None])
    good = (gain > min_gain) & (distance <= max_separation).all(axis=1)
    good &= (separation >= min_separation) & (separation <= max_separation)
    good &= faint * np.sign(bright) >= min_flux_ratio * np.abs(bright)
    index = np.flatnonzero(good)
    return Splits(
        parent=parent[index],
        x=pairs[index, :, 0],
        y=pairs[index, :, 1],
        flux=pairs[index, :, 2],
        flux_error=np.sqrt(pairs[index, :, 3]),
        gain=gain[index],
    )
