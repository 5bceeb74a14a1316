"""Static things of the field: stars, galaxies and the galaxies that lens."""

from __future__ import annotations

__all__ = ("MARGIN", "count_with_margin", "draw_colors", "draw_galaxies", "draw_magnitudes", "draw_stars")

import numpy as np
from astropy.table import Table

from .config import CCD_PIXELS, SceneConfig

MARGIN = 40.0
"""Pixels around the field in which things are still placed: their wings reach in."""

_FAINT_LIMIT = 27.0
_GALAXY_BRIGHT_LIMIT = 17.5
_GALAXY_SLOPE = 0.33
_STAR_SLOPE = 0.10

# Mean color relative to r, and its scatter, of a galaxy of median spectrum.
_GALAXY_COLORS = {"u": 1.7, "g": 0.6, "r": 0.0, "i": -0.3, "z": -0.45, "y": -0.55}
_GALAXY_SCATTER = {"u": 0.5, "g": 0.25, "r": 0.0, "i": 0.12, "z": 0.2, "y": 0.25}


def count_with_margin(count_on_ccd: int, config: SceneConfig) -> int:
    """Return how many things of a density per CCD the field and its margin hold."""
    area = (config.nx + 2 * MARGIN) * (config.ny + 2 * MARGIN) / CCD_PIXELS
    return round(count_on_ccd * area)


def draw_magnitudes(
    rng: np.random.Generator, count: int, *, slope: float, bright: float, faint: float
) -> np.ndarray:
    """Draw magnitudes whose cumulative counts grow as ``10**(slope * m)``, ``(count,)``."""
    low, high = 10 ** (slope * bright), 10 ** (slope * faint)
    return np.log10(rng.uniform(low, high, count)) / slope


def draw_stars(rng: np.random.Generator, config: SceneConfig) -> Table:
    """Draw the stars of the field.

    Returns
    -------
    stars : `astropy.table.Table`
        ``x``, ``y`` (pixels of the field), ``mag_u`` ... ``mag_y`` (AB).
    """
    count = count_with_margin(config.n_stars, config)
    stars = _place(rng, count, config)
    r = draw_magnitudes(rng, count, slope=_STAR_SLOPE, bright=config.star_bright_limit, faint=_FAINT_LIMIT)
    # The stellar locus in two pieces: faint stars of this field are red dwarfs.
    g_i = np.clip(rng.normal(0.8 + 0.12 * np.clip(r - 17, 0, 8), 0.6), 0.1, 3.2)
    colors = {
        "u": 0.9 + 0.95 * g_i,
        "g": 0.72 * g_i - 0.03 * np.clip(g_i - 1.8, 0, None),
        "r": np.zeros(count),
        "i": -0.28 * g_i - 0.25 * np.clip(g_i - 1.8, 0, None),
        "z": -0.38 * g_i - 0.45 * np.clip(g_i - 1.8, 0, None),
        "y": -0.43 * g_i - 0.55 * np.clip(g_i - 1.8, 0, None),
    }
    for band, color in colors.items():
        stars[f"mag_{band}"] = r + color
    return stars


def draw_galaxies(rng: np.random.Generator, config: SceneConfig) -> Table:
    """Draw the galaxies of the field.

    Returns
    -------
    galaxies : `astropy.table.Table`
        ``x``, ``y`` (pixels of the field), ``mag_u`` ... ``mag_y`` (AB),
        ``half_light_radius`` (arcsec), ``sersic`` (1 or 3), ``g1``, ``g2``.
    """
    count = count_with_margin(config.n_galaxies, config)
    galaxies = _place(rng, count, config)
    r = draw_magnitudes(rng, count, slope=_GALAXY_SLOPE, bright=_GALAXY_BRIGHT_LIMIT, faint=_FAINT_LIMIT)
    for band, color in draw_colors(rng, count).items():
        galaxies[f"mag_{band}"] = r + color
    typical = 0.75 * 10 ** (-0.09 * (r - 20.0))
    galaxies["half_light_radius"] = np.clip(typical * rng.lognormal(0.0, 0.35, count), 0.06, 4.0)
    galaxies["sersic"] = np.where(rng.uniform(size=count) < 0.75, 1, 3)
    galaxies["g1"], galaxies["g2"] = np.clip(rng.normal(0.0, 0.2, (2, count)), -0.6, 0.6)
    return galaxies


def draw_colors(rng: np.random.Generator, count: int, *, scatter: float = 1.0) -> dict[str, np.ndarray]:
    """Draw magnitudes relative to r of galaxies from blue to red, band -> ``(count,)``."""
    # One parameter, from star-forming to passive: its sign is that of the 4000 angstrom break.
    redness = scatter * rng.standard_normal(count)
    return {
        band: _GALAXY_COLORS[band] + np.sign(_GALAXY_COLORS[band]) * _GALAXY_SCATTER[band] * redness
        for band in _GALAXY_COLORS
    }


def _place(rng: np.random.Generator, count: int, config: SceneConfig) -> Table:
    """Place things uniformly over the field and its margin."""
    table = Table()
    table["x"] = rng.uniform(-MARGIN, config.nx + MARGIN, count)
    table["y"] = rng.uniform(-MARGIN, config.ny + MARGIN, count)
    return table
