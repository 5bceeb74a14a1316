"""The simulated Twinkles field: everything in it, at any time and in any band."""

from __future__ import annotations

__all__ = ("TwinklesScene", "field_wcs")

from dataclasses import dataclass

import numpy as np
from astropy.table import Table, vstack
from astropy.wcs import WCS

from ..adapters.camera import PIXEL_SCALE_ARCSEC
from .catalogs import draw_galaxies, draw_stars
from .config import SceneConfig
from .variables import LensedQuasars, Supernovae, VariableStars

_FIRST_ID = {"variable_star": 1_000_000, "supernova": 2_000_000, "quasar": 3_000_000}


@dataclass(frozen=True)
class TwinklesScene:
    """A seeded field of stars, galaxies and variable things.

    Attributes
    ----------
    config : `SceneConfig`
        What it was drawn from.
    stars, galaxies : `astropy.table.Table`
        Static stars, and galaxies with those that lens; positions in pixels
        of the field, ``mag_u`` ... ``mag_y``.
    variable_stars : `VariableStars`
        Periodic stars.
    supernovae : `Supernovae`
        Supernovae and their hosts.
    quasars : `LensedQuasars`
        Images of lensed quasars.
    """

    config: SceneConfig
    stars: Table
    galaxies: Table
    variable_stars: VariableStars
    supernovae: Supernovae
    quasars: LensedQuasars

    @classmethod
    def make(cls, config: SceneConfig) -> TwinklesScene:
        """Draw the field of a configuration; the same configuration gives the same field."""
        # One stream a population: changing the number of one leaves the others alone.
        streams = [np.random.default_rng([config.seed, i]) for i in range(5)]
        stars = draw_stars(streams[0], config)
        galaxies = draw_galaxies(streams[1], config)
        varies = streams[2].uniform(size=len(stars)) < config.variable_star_fraction
        variable_stars = VariableStars.draw_random(streams[2], stars[varies])
        supernovae = Supernovae.draw_random(streams[3], config, galaxies)
        quasars = LensedQuasars.draw_random(streams[4], config)
        lenses = quasars.lenses[galaxies.colnames]
        return cls(
            config=config,
            stars=stars[~varies],
            galaxies=vstack([galaxies, lenses]),
            variable_stars=variable_stars,
            supernovae=supernovae,
            quasars=quasars,
        )

    @property
    def wcs(self) -> WCS:
        """Projection of the pixels of the field itself (`astropy.wcs.WCS`)."""
        return field_wcs(self.config)

    def variables(self, *, mjd: float, band: str) -> Table:
        """Return what varies and how bright it is.

        Parameters
        ----------
        mjd : `float`
            Time in days, TAI.
        band : `str`
            One of ugrizy.

        Returns
        -------
        variables : `astropy.table.Table`
            ``object_id``, ``kind`` (variable_star, supernova or quasar),
            ``system`` (lens; -1 if none), ``host`` (row of the galaxy; -1 if
            none), ``x``, ``y`` (pixels of the field) and ``magnitude`` (AB).
        """
        parts = []
        for kind, population, table in (
            ("variable_star", self.variable_stars, self.variable_stars.table),
            ("supernova", self.supernovae, self.supernovae.table),
            ("quasar", self.quasars, self.quasars.images),
        ):
            none = np.full(len(table), -1)
            part = Table()
            part["object_id"] = _FIRST_ID[kind] + np.arange(len(table))
            part["kind"] = np.full(len(table), kind, dtype="U13")
            part["system"] = table["system"] if kind == "quasar" else none
            part["host"] = table["host"] if kind == "supernova" else none
            part["x"], part["y"] = np.asarray(table["x"]), np.asarray(table["y"])
            part["magnitude"] = population.magnitude(mjd=mjd, band=band)  # type: ignore[attr-defined]
            parts.append(part)
        return vstack(parts)


def field_wcs(config: SceneConfig, *, offset: tuple[float, float] = (0.0, 0.0), rotation: float = 0.0) -> WCS:
    """Return the TAN projection of an exposure of the field.

    Parameters
    ----------
    config : `SceneConfig`
        Position and size of the field.
    offset : `tuple` [`float`, `float`], optional
        (x, y) pixels by which the field's centre is off the middle of the CCD.
    rotation : `float`, optional
        Degrees by which the field is turned, counter-clockwise.

    Returns
    -------
    wcs : `astropy.wcs.WCS`
        North up and east to the left for no rotation.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [config.ra, config.dec]
    wcs.wcs.crpix = [(config.nx + 1) / 2 + offset[0], (config.ny + 1) / 2 + offset[1]]
    scale, angle = PIXEL_SCALE_ARCSEC / 3600, np.radians(rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = scale * np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn
    wcs.wcs.set()
    return wcs
