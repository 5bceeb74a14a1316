"""What a simulated Twinkles field holds."""

from __future__ import annotations

__all__ = ("DetectorConfig", "SceneConfig")

from dataclasses import dataclass, fields

from ..adapters.camera import DETECTOR_NX, DETECTOR_NY
from .conditions import FIELD_DEC, FIELD_RA

CCD_PIXELS = DETECTOR_NX * DETECTOR_NY
"""Pixels of the whole CCD; densities are counts on so many pixels."""


@dataclass(frozen=True)
class SceneConfig:
    """The field: its size, its seed and how many things of each kind it holds.

    Counts are those of a whole CCD and scale with the area. Twinkles
    overloads its field with variable things; ``overload`` multiplies
    supernovae and lenses, for small fields with enough of them.

    Attributes
    ----------
    nx, ny : `int`
        Pixels of the field.
    seed : `int`
        Same seed and sizes, same field.
    ra, dec : `float`
        ICRS position of the field's centre in degrees.
    n_galaxies, n_stars : `int`
        Galaxies of 17.5 < r < 27 and stars of ``star_bright_limit`` < r < 27.
    star_bright_limit : `float`
        Twinkles removed stars brighter than r = 16.
    variable_star_fraction : `float`
        Fraction of the stars that varies periodically.
    supernovae_per_year : `float`
        Supernovae a year with z < 1.2.
    n_lenses, quad_fraction : `int`, `float`
        Lensed quasars (34 in an unrotated chip of Run 1) and the fraction of
        them with four images (36 of 198).
    overload : `float`
        Factor on supernovae and lenses.
    """

    nx: int = DETECTOR_NX
    ny: int = DETECTOR_NY
    seed: int = 1
    ra: float = FIELD_RA
    dec: float = FIELD_DEC
    n_galaxies: int = 28000
    n_stars: int = 3500
    star_bright_limit: float = 16.0
    variable_star_fraction: float = 0.03
    supernovae_per_year: float = 800.0
    n_lenses: int = 34
    quad_fraction: float = 36 / 198
    overload: float = 1.0

    def __post_init__(self) -> None:
        if min(self.nx, self.ny) < 64:
            raise ValueError(f"A field must have at least 64 x 64 pixels; got nx={self.nx}, ny={self.ny}.")
        for name in ("n_galaxies", "n_stars", "supernovae_per_year", "n_lenses", "overload", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        for name in ("variable_star_fraction", "quad_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1; got {getattr(self, name)}.")
        if not -90 < self.dec < 90:
            raise ValueError(f"dec must lie in -90..90 degrees; got {self.dec}.")

    @property
    def area(self) -> float:
        """Fraction of a whole CCD that the field covers (`float`)."""
        return self.nx * self.ny / CCD_PIXELS


@dataclass(frozen=True)
class DetectorConfig:
    """What telescope and CCD do to the light.

    Attributes
    ----------
    read_noise : `float`
        Electrons.
    full_well : `float`
        Electrons at which a pixel saturates and bleeds along its column.
    bad_columns : `float`
        Bad columns on 800 pixels of width.
    cosmic_rays : `float`
        Cosmic rays on a whole CCD in 30 s.
    fwhm_variation, ellipticity : `float`
        Largest relative change of the seeing, and largest shear, that one
        term of the smooth change of the PSF over a whole CCD has.
    jitter : `float`
        Registration error in pixels that the WCS does not know; four tenths
        of it vary over the field.
    sky_gradient : `float`
        Relative change of the sky from the middle to the rim.
    subtract_sky : `bool`
        Whether the mean sky is subtracted, as calibrated exposures come.
    sky_residual : `float`
        Part of the sky's gradient that the subtraction leaves.
    """

    read_noise: float = 9.0
    full_well: float = 100_000.0
    bad_columns: float = 1.0
    cosmic_rays: float = 0.0
    fwhm_variation: float = 0.05
    ellipticity: float = 0.05
    jitter: float = 0.03
    sky_gradient: float = 0.02
    subtract_sky: bool = True
    sky_residual: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "subtract_sky" and value < 0:
                raise ValueError(f"{field.name} must not be negative; got {value}.")
        if self.full_well <= 0:
            raise ValueError(f"full_well must be positive; got {self.full_well}.")
