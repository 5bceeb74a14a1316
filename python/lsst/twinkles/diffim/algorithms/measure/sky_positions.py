"""Positions at which there is nothing but sky."""

from __future__ import annotations

__all__ = ("draw_sky_positions", "fit_amplitudes")

import numpy as np

from ..match.prefilter import cut_stamps
from .psf_fit import ForcedFluxes


def draw_sky_positions(
    avoid: np.ndarray, *, n_sources: int, n_trials: int, radius: float, grow: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pixels around which no pixel is to be avoided.

    Parameters
    ----------
    avoid : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels of sources and pixels without data.
    n_sources : `int`
        Positions that are wanted.
    n_trials : `int`
        Positions that are tried; fewer than ``n_sources`` may be clear.
    radius : `float`
        Radius in pixels of a source. Sources lie within the image, their centres more than three radii
        apart.
    grow : `float`
        Pixels by which the disc that has to be clear is larger than a source.
    seed : `int`
        Same seed and image, same positions.

    Returns
    -------
    x, y : `numpy.ndarray`, ``(N,)``, int
        Pixels of the array.

    Notes
    -----
    Trials are a Halton sequence, rotated by a random vector (Cranley & Patterson 1976,
    doi:10.1137/0713071): as random as need be, and more even than random points.
    """
    margin, reach = int(np.ceil(radius)) + 1, int(np.ceil(radius + grow))
    room = np.array(avoid.shape[::-1]) - 2 * margin
    if n_sources < 1 or min(room) < 1:
        return np.zeros(0, int), np.zeros(0, int)
    turn = np.random.default_rng(seed).uniform(size=2)
    from scipy.stats import qmc  # slow to import, and not needed where nothing is drawn

    trials = (qmc.Halton(d=2, scramble=False).random(max(n_trials, n_sources)) + turn) % 1.0
    x, y = (margin + np.floor(trials * room)).astype(int).T
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = dx**2 + dy**2 <= (radius + grow) ** 2
    clear = np.flatnonzero(~(cut_stamps(avoid, x, y, reach) & disc).any(axis=(1, 2)))
    chosen: list[int] = []
    for i in clear:
        if len(chosen) == n_sources:
            break
        distance2 = (x[chosen] - x[i]) ** 2 + (y[chosen] - y[i]) ** 2
        if not (distance2 <= (3.0 * radius) ** 2).any():
            chosen.append(int(i))
    return x[chosen], y[chosen]


def fit_amplitudes(pixels: np.ndarray, weight: np.ndarray, model: np.ndarray) -> ForcedFluxes:
    """Return the least-squares amplitudes of models in stamps.

    Parameters
    ----------
    pixels, weight, model : `numpy.ndarray`, ``(N, S, S)``
        Pixels, their inverse variances (0 for those that are not used) and models of unit flux.

    Returns
    -------
    fluxes : `~lsst.twinkles.diffim.algorithms.measure.psf_fit.ForcedFluxes`
        ``sum(w P I) / sum(w P**2)``, NaN where no pixel is used.
    """
    power = (weight * model**2).sum(axis=(1, 2))
    power = np.where(power > 0.0, power, np.nan)
    flux = (weight * model * np.where(weight > 0.0, pixels, 0.0)).sum(axis=(1, 2)) / power
    return ForcedFluxes(flux, power**-0.5, np.count_nonzero(weight, axis=(1, 2)))
