"""Cosmic rays and hot pixels: what is sharper than any point source."""

from __future__ import annotations

__all__ = ("count_groups", "find_cosmic_rays", "interpolate_pixels", "pair_ratios")

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .cosmic_rays_nb import find_sharp_pixels, repair_pixels, spread_along_tracks

_GROWTH_THRESHOLD = 0.5
"""Threshold for pixels beside a cosmic ray over that for its first one."""


def pair_ratios(psf: PsfGrid) -> np.ndarray:
    """Return how bright the neighbours of a point source's brightest pixel are at least.

    Parameters
    ----------
    psf : `PsfGrid`
        PSF, centred on a pixel, where the ratios are least.

    Returns
    -------
    ratios : `numpy.ndarray`, ``(4,)``
        Mean of two opposite neighbours over the centre, in a row, in a column, on the rising and on the
        falling diagonal, all above the lower quartile of the pixels three pixels away: least of all nodes,
        0 at least.
    """
    psf = psf.padded(max(psf.size, 7))
    c = psf.size // 2
    stamps = psf.stamps.reshape(-1, psf.size, psf.size)
    dy, dx = np.mgrid[-3:4, -3:4]
    ring = np.maximum(np.abs(dy), np.abs(dx)) == 3
    level = np.quantile(stamps[:, c - 3 : c + 4, c - 3 : c + 4][:, ring], 0.25, axis=1)
    pairs = [
        (stamps[:, c - j, c - i] + stamps[:, c + j, c + i]) / 2 for j, i in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    ratios = [float(((pair - level) / (stamps[:, c, c] - level)).min()) for pair in pairs]
    return np.maximum(ratios, 0.0)


def find_cosmic_rays(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    ratios: np.ndarray,
    *,
    min_sigma: float,
    min_counts: float,
    margin: float,
    iterations: int,
) -> np.ndarray:
    """Find pixels that stand out more sharply than a point source does.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels, with or without sky, and their variance.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that are not judged, nor others by them.
    ratios : `numpy.ndarray`, ``(4,)``
        Ratios of `pair_ratios`, times a factor below 1 for what the PSF model may be wrong by.
    min_sigma, min_counts : `float`
        Least height above the level around, in standard deviations and in counts.
    margin : `float`
        Standard deviations by which a pair of neighbours has to fall short.
    iterations : `int`
        How often neighbours of what was found are looked at, with half the threshold.

    Returns
    -------
    found : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask; the outermost pixels are never in it.

    Notes
    -----
    The third condition of the cosmic-ray finder of the SDSS photo pipeline (R. Lupton): light that came
    through the atmosphere is at least as wide as the PSF, in all directions. The level around is the
    lower quartile of the pixels three pixels away: a level that is too low can only make the test milder,
    and on a galaxy it takes away what is smooth.
    """
    found = np.zeros(image.shape, dtype=bool)
    limits = min_sigma, min_counts, margin
    run_in_threads(find_sharp_pixels, len(image), image, variance, bad, ratios, *limits, found)
    for _ in range(iterations):
        if not found.any():
            break
        low = _GROWTH_THRESHOLD * min_sigma
        if spread_along_tracks(image, variance, bad, found, ratios, low, margin) == 0:
            break
    return found


def interpolate_pixels(image: np.ndarray, spoilt: np.ndarray, bad: np.ndarray, *, sigma: float) -> None:
    """Replace some pixels by means of the good ones around them, in place.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; changed where there is a good one within three sigma (two pixels at least).
    spoilt : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to replace.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Other pixels that are not used.
    sigma : `float`
        Width of the Gaussian weights in pixels.
    """
    rows, cols = np.nonzero(spoilt)
    values = np.empty(len(rows))
    repair_pixels(image, spoilt | bad, rows, cols, max(2, int(np.ceil(3 * sigma))), sigma, values)
    good = np.isfinite(values)
    image[rows[good], cols[good]] = values[good]


def count_groups(found: np.ndarray) -> int:
    """Return the number of groups of marked pixels that touch, corners included."""
    places = np.argwhere(found)
    if len(places) == 0:
        return 0
    pairs = cKDTree(places).query_pairs(1.5, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(places),) * 2)
    return int(connected_components(links, directed=False)[0])
