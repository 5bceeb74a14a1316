"""Variable things of the field: supernovae, lensed quasars, variable stars.

Each population is a table of its numbers (the truth that does not depend on
time) and gives magnitudes at any time and band.
"""

from __future__ import annotations

__all__ = ("LensedQuasars", "Supernovae", "VariableStars")

from dataclasses import dataclass, field

import numpy as np
from astropy.cosmology import FlatLambdaCDM
from astropy.table import Table

from ..adapters.camera import PIXEL_SCALE_ARCSEC
from .catalogs import MARGIN, count_with_margin, draw_colors
from .conditions import SURVEY_MJD
from .config import SceneConfig
from .lightcurves import DampedRandomWalk, periodic_magnitude, supernova_shape

_LOOK_BACK = 200.0
"""Days before the survey in which a supernova may explode and still be seen."""

_LARGEST_REDSHIFT = 1.2
_PEAK_ABSOLUTE_MAGNITUDE, _PEAK_SCATTER = -19.3, 0.15
# The ultraviolet of a type Ia supernova is faint: magnitudes per unit redshift by which its light in a band
# falls behind that of its B and V bands.
_K_CORRECTION = {"u": 5.0, "g": 2.5, "r": 1.0, "i": 0.2, "z": -0.2, "y": -0.3}

_MEDIAN_SEPARATION, _SEPARATION_SCATTER = 1.3, 0.55
_SEPARATION_LIMITS = (0.5, 3.9)
_LONGEST_DELAY = 400.0
_QUASAR_COLORS = {"u": 0.25, "g": 0.15, "r": 0.0, "i": -0.05, "z": -0.05, "y": -0.1}


@dataclass(frozen=True)
class Supernovae:
    """Type Ia supernovae on host galaxies, z < 1.2.

    Attributes
    ----------
    table : `astropy.table.Table`
        ``x``, ``y`` (pixels of the field), ``host`` (row of the galaxy),
        ``redshift``, ``peak_mjd``, ``peak_magnitude``, ``rise``, ``decline`` (days).
    """

    table: Table

    @classmethod
    def draw_random(cls, rng: np.random.Generator, config: SceneConfig, galaxies: Table) -> Supernovae:
        """Put supernovae on galaxies in proportion to the light of the galaxies' bright half."""
        years = (SURVEY_MJD[1] - SURVEY_MJD[0] + _LOOK_BACK) / 365.25
        mean = config.supernovae_per_year * config.overload * config.area * years
        count = int(rng.poisson(mean)) if len(galaxies) else 0
        table = Table()
        weight = 10 ** (-0.4 * 0.5 * np.asarray(galaxies["mag_r"])) if count else np.ones(0)
        host = rng.choice(len(galaxies), count, p=weight / weight.sum()) if count else np.zeros(0, int)
        # An exponential disc: the radius follows a gamma distribution of shape 2.
        radius = rng.gamma(2.0, np.asarray(galaxies["half_light_radius"])[host] / 1.678) / PIXEL_SCALE_ARCSEC
        angle = rng.uniform(0, 2 * np.pi, count)
        table["x"] = np.asarray(galaxies["x"])[host] + radius * np.cos(angle)
        table["y"] = np.asarray(galaxies["y"])[host] + radius * np.sin(angle)
        table["host"] = host
        # Comoving volume grows as z**3 to begin with; more slowly towards z = 1.2.
        redshift = np.clip(_LARGEST_REDSHIFT * rng.uniform(size=count) ** (1 / 2.6), 0.05, None)
        table["redshift"] = redshift
        table["peak_mjd"] = rng.uniform(SURVEY_MJD[0] - _LOOK_BACK, SURVEY_MJD[1], count)
        modulus = FlatLambdaCDM(H0=70.0, Om0=0.3).distmod(redshift).value if count else np.zeros(0)
        table["peak_magnitude"] = _PEAK_ABSOLUTE_MAGNITUDE + modulus + rng.normal(0, _PEAK_SCATTER, count)
        table["rise"] = 4.5 * (1 + redshift)
        table["decline"] = rng.normal(25.0, 3.0, count).clip(15, 40) * (1 + redshift)
        return cls(table=table)

    def magnitude(self, *, mjd: float, band: str) -> np.ndarray:
        """Return AB magnitudes, ``(N,)``; infinity where nothing is left to see."""
        days = mjd - np.asarray(self.table["peak_mjd"])
        shape = supernova_shape(days, rise=self.table["rise"], decline=self.table["decline"])
        reddening = _K_CORRECTION[band] * np.asarray(self.table["redshift"])
        with np.errstate(divide="ignore"):
            return (
                self.table["peak_magnitude"] + reddening - 2.5 * np.log10(np.where(shape > 1e-4, shape, 0.0))
            )


@dataclass(frozen=True)
class LensedQuasars:
    """Quasars seen two or four times around a lensing galaxy.

    Attributes
    ----------
    images : `astropy.table.Table`
        One row an image: ``system``, ``image``, ``x``, ``y`` (pixels of the
        field), ``mag_r`` (mean), ``delay`` (days after the first image).
    lenses : `astropy.table.Table`
        One row a lens: the columns of a galaxy, ``system``, ``n_images`` and
        ``separation`` (largest between two images, arcsec).
    walks : `list` [`DampedRandomWalk`]
        One a system; its images repeat it after their delays.
    """

    images: Table
    lenses: Table
    walks: list[DampedRandomWalk] = field(repr=False)

    @classmethod
    def draw_random(cls, rng: np.random.Generator, config: SceneConfig) -> LensedQuasars:
        """Draw the systems of the field."""
        count = count_with_margin(round(config.n_lenses * config.overload), config) if config.n_lenses else 0
        rows, lens_rows, walks = [], [], []
        for system in range(count):
            x = rng.uniform(-MARGIN / 2, config.nx + MARGIN / 2)
            y = rng.uniform(-MARGIN / 2, config.ny + MARGIN / 2)
            quad = rng.uniform() < config.quad_fraction
            offsets, brightness, delay = _draw_quad(rng) if quad else _draw_double(rng)
            separation = _draw_separation(rng)
            size = _largest_separation(offsets)
            mean = float(np.clip(rng.normal(22.2, 1.3), 18.6, 25.5))
            for image, (dx, dy) in enumerate(offsets * (separation / size / PIXEL_SCALE_ARCSEC)):
                magnitude = mean - 2.5 * np.log10(brightness[image])
                lag = min(delay[image] * 30.0 * separation**2, _LONGEST_DELAY)
                rows.append((system, image, x + dx, y + dy, magnitude, lag))
            lens_rows.append((system, len(offsets), separation, x, y, *_draw_lens(rng, separation)))
            walks.append(
                DampedRandomWalk.draw_random(
                    rng,
                    start=SURVEY_MJD[0] - 2 * _LONGEST_DELAY,
                    stop=SURVEY_MJD[1] + 400.0,
                    tau=float(rng.lognormal(np.log(200.0), 0.4)),
                    sigma=float(rng.uniform(0.12, 0.4)),
                )
            )
        images = _table(rows, ("system", "image", "x", "y", "mag_r", "delay"), integers=2)
        return cls(images=images, lenses=_lens_table(rng, lens_rows), walks=walks)

    def magnitude(self, *, mjd: float, band: str) -> np.ndarray:
        """Return AB magnitudes of the images, ``(N,)``."""
        change = [self.walks[row["system"]](mjd - row["delay"]) for row in self.images]
        return np.asarray(self.images["mag_r"]) + _QUASAR_COLORS[band] + np.asarray(change, dtype=float)


@dataclass(frozen=True)
class VariableStars:
    """Stars that vary as a sine.

    Attributes
    ----------
    table : `astropy.table.Table`
        Those of the stars' columns, ``period`` (days), ``phase`` (radian) and
        ``amplitude`` (half the range, mag).
    """

    table: Table

    @classmethod
    def draw_random(cls, rng: np.random.Generator, stars: Table) -> VariableStars:
        """Make variables of the given stars."""
        table = stars.copy()
        table["period"] = 10 ** rng.uniform(-0.5, 2.5, len(stars))
        table["phase"] = rng.uniform(0, 2 * np.pi, len(stars))
        table["amplitude"] = rng.uniform(0.03, 0.4, len(stars))
        return cls(table=table)

    def magnitude(self, *, mjd: float, band: str) -> np.ndarray:
        """Return AB magnitudes, ``(N,)``."""
        t = self.table
        change = periodic_magnitude(mjd, period=t["period"], phase=t["phase"], amplitude=t["amplitude"])
        return np.asarray(t[f"mag_{band}"]) + change


def _draw_double(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets, relative fluxes and delays of two images of a singular isothermal sphere."""
    source = rng.uniform(0.05, 0.8)  # distance of the source from the axis in Einstein radii
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.array([np.cos(angle), np.sin(angle)])
    offsets = np.array([(1 + source) * axis, -(1 - source) * axis])
    return offsets, np.array([1 + 1 / source, 1 / source - 1]) * source, np.array([0.0, 2 * source])


def _draw_quad(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets, relative fluxes and delays of four images near a cross."""
    angle = rng.uniform(0, 2 * np.pi) + np.array([0.0, 1.0, 2.0, 3.0]) * np.pi / 2
    angle = angle + rng.normal(0.0, 0.2, 4)
    radius = 1.0 + np.array([0.1, -0.1, 0.1, -0.1]) + rng.normal(0.0, 0.03, 4)
    offsets = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    delay = np.array([0.0, 0.25, 0.08, 0.35]) * rng.uniform(0.4, 1.6, 4)
    return offsets, rng.uniform(0.4, 1.2, 4), delay


def _draw_separation(rng: np.random.Generator) -> float:
    """Return the largest separation of two images in arcsec."""
    value = _MEDIAN_SEPARATION * rng.lognormal(0.0, _SEPARATION_SCATTER)
    return float(np.clip(value, *_SEPARATION_LIMITS))


def _largest_separation(offsets: np.ndarray) -> float:
    """Return the largest distance between two of ``(N, 2)`` positions."""
    return float(np.max(np.linalg.norm(offsets[:, None] - offsets[None, :], axis=-1)))


def _draw_lens(rng: np.random.Generator, separation: float) -> tuple[float, float, float, float]:
    """Return r magnitude, half-light radius (arcsec) and shears of a lens; wide ones are bright."""
    magnitude = rng.normal(21.5, 0.7) - 2.5 * np.log10(separation / _MEDIAN_SEPARATION)
    g1, g2 = np.clip(rng.normal(0, 0.1, 2), -0.4, 0.4)
    return float(magnitude), 0.45 * separation, float(g1), float(g2)


def _lens_table(rng: np.random.Generator, rows: list[tuple]) -> Table:
    """Give lenses the columns of galaxies, with the colors of passive ones."""
    names = ("system", "n_images", "separation", "x", "y", "mag_r", "half_light_radius", "g1", "g2")
    table = _table(rows, names, integers=2)
    for band, color in draw_colors(rng, len(table), scatter=0.3).items():
        table[f"mag_{band}"] = table["mag_r"] + color
    table["sersic"] = np.full(len(table), 3)
    return table


def _table(rows: list[tuple], names: tuple[str, ...], *, integers: int) -> Table:
    """Make a table of which the first columns are integers, also when it is empty."""
    dtypes = [np.int64 if i < integers else np.float64 for i in range(len(names))]
    return Table(rows=rows or None, names=names, dtype=dtypes)
