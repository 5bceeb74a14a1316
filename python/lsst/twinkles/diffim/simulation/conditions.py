"""Under which sky a visit of the Twinkles field was taken.

Numbers are those of the 1227 visits of Twinkles Run 1 (opsim "kraken", deep
drilling field 1427), given as quantiles of the delivered image quality and
medians of sky brightness and depth.
"""

from __future__ import annotations

__all__ = (
    "FIELD_DEC",
    "FIELD_RA",
    "SURVEY_MJD",
    "VisitConditions",
    "cookbook_conditions",
    "sample_conditions",
    "sky_electrons",
)

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..adapters.camera import PIXEL_SCALE_ARCSEC

FIELD_RA, FIELD_DEC = 53.00914, -27.43895
"""ICRS position of the field's centre in degrees."""

SURVEY_MJD = (59580.13, 63222.11)
"""First and last night of Run 1 (TAI)."""

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LEAST_FWHM, _LARGEST_FWHM = 0.53, 1.60
_FWHM_QUANTILES = {
    "u": (0.71, 0.88, 1.01, 1.16, 1.42),
    "g": (0.65, 0.81, 0.95, 1.07, 1.26),
    "r": (0.64, 0.78, 0.89, 1.00, 1.20),
    "i": (0.61, 0.74, 0.84, 0.95, 1.14),
    "z": (0.60, 0.72, 0.80, 0.90, 1.08),
    "y": (0.59, 0.71, 0.78, 0.87, 1.07),
}
_SKY_MAGNITUDE = {"u": 22.0, "g": 21.1, "r": 20.9, "i": 20.0, "z": 19.2, "y": 17.3}
_SKY_SCATTER = 0.35
_VISITS_IN_RUN = {"u": 254, "g": 195, "r": 196, "i": 195, "z": 195, "y": 192}

# AB magnitude that gives one electron in 30 s, chosen so that the median
# conditions of a band reach its median 5-sigma depth
# (u 23.23, g 24.31, r 24.12, i 23.56, z 23.04, y 21.74).
_ZERO_POINT_30S = {"u": 29.85, "g": 31.89, "r": 31.58, "i": 31.20, "z": 30.83, "y": 30.04}

_SEASON_LENGTH = 105.0
"""Days of a year in which the field is observed (the longest gaps are 260 days)."""


@dataclass(frozen=True)
class VisitConditions:
    """What distinguishes one visit from another.

    Attributes
    ----------
    visit : `int`
        Visit number.
    band : `str`
        One of ugrizy.
    mjd : `float`
        Middle of the exposure, TAI, in days.
    fwhm_eff : `float`
        Seeing in arcsec as the survey's tables give it: the width of the
        Gaussian with the same noise-equivalent area.
    sky_magnitude : `float`
        Sky brightness in AB mag per square arcsec.
    exposure_time : `float`
        Seconds.
    transparency : `float`
        Fraction of the light that the nominal zero point promises.
    offset : `tuple` [`float`, `float`]
        (x, y) pixels by which the pointing misses the field's centre; known
        to the visit's WCS.
    rotation : `float`
        Rotation of the camera in degrees; known to the visit's WCS.
    """

    visit: int
    band: str
    mjd: float
    fwhm_eff: float
    sky_magnitude: float
    exposure_time: float = 30.0
    transparency: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.band not in _ZERO_POINT_30S:
            raise ValueError(f"band must be one of {', '.join(_ZERO_POINT_30S)}; got {self.band!r}.")
        if not 0.3 <= self.fwhm_eff <= 3.0:
            raise ValueError(f"fwhm_eff must lie in 0.3..3.0 arcsec; got {self.fwhm_eff}.")
        for name in ("exposure_time", "transparency"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")

    @property
    def fwhm(self) -> float:
        """FWHM in arcsec of the Kolmogorov profile with this noise-equivalent area (`float`)."""
        return 0.865 * self.fwhm_eff

    @property
    def zero_point(self) -> float:
        """AB magnitude of a source that gives one electron in this exposure (`float`)."""
        collected = self.transparency * self.exposure_time / 30.0
        return _ZERO_POINT_30S[self.band] + 2.5 * float(np.log10(collected))

    @property
    def nanojansky_per_electron(self) -> float:
        """Photometric scaling (`float`)."""
        return float(10 ** (0.4 * (31.4 - self.zero_point)))


def sky_electrons(conditions: VisitConditions) -> float:
    """Return the sky level of a visit in electrons per pixel."""
    electrons = 10 ** (0.4 * (conditions.zero_point - conditions.sky_magnitude))
    return float(electrons) * PIXEL_SCALE_ARCSEC**2


def cookbook_conditions(*, run1_filters: bool = False) -> list[VisitConditions]:
    """Return the pair of visits that the Twinkles cookbook subtracts.

    Parameters
    ----------
    run1_filters : `bool`, optional
        Visits as the Run 1 list has them: 230 in i at 1.00 arcsec, 250 in z
        at 1.11 arcsec. That pair contradicts the cookbook's own advice (same
        band, template sharper than science), so that by default visit 250 is
        an i visit of good seeing.

    Returns
    -------
    conditions : `list` [`VisitConditions`]
        Visits 230 (science) and 250 (template).
    """
    science = VisitConditions(visit=230, band="i", mjd=59952.21, fwhm_eff=1.00, sky_magnitude=20.0)
    if run1_filters:
        template = VisitConditions(visit=250, band="z", mjd=59595.17, fwhm_eff=1.11, sky_magnitude=19.2)
    else:
        template = VisitConditions(
            visit=250, band="i", mjd=59595.17, fwhm_eff=0.74, sky_magnitude=20.1, transparency=0.96
        )
    return [science, template]


def sample_conditions(
    count: int,
    *,
    seed: int,
    bands: Sequence[str] = ("u", "g", "r", "i", "z", "y"),
    years: float = 10.0,
    first_visit: int = 1000,
    dither: float = 0.0,
    rotation: float = 0.0,
) -> list[VisitConditions]:
    """Draw visits from the distributions of Run 1.

    Parameters
    ----------
    count : `int`
        Number of visits.
    seed : `int`
        Same seed, same visits.
    bands : sequence of `str`, optional
        Bands to draw from, in proportion to their visits in Run 1.
    years : `float`, optional
        Seasons over which the visits are spread, from the survey's first night.
    first_visit : `int`, optional
        Number of the earliest visit.
    dither : `float`, optional
        RMS pointing offset per axis in pixels.
    rotation : `float`, optional
        RMS camera rotation in degrees.

    Returns
    -------
    conditions : `list` [`VisitConditions`]
        In order of time and visit number.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}.")
    unknown = sorted(set(bands) - set(_VISITS_IN_RUN))
    if unknown or not bands:
        raise ValueError(f"bands must be some of {', '.join(_VISITS_IN_RUN)}; got {', '.join(bands)!r}.")
    rng = np.random.default_rng([seed, 101])
    weights = np.array([_VISITS_IN_RUN[band] for band in bands], dtype=float)
    chosen = rng.choice(list(bands), size=count, p=weights / weights.sum())
    season = rng.integers(0, max(1, round(years)), count)
    nights = np.floor(rng.uniform(0, min(_SEASON_LENGTH, 365.25 * years), count))
    mjds = np.sort(SURVEY_MJD[0] + 365.25 * season + nights + rng.uniform(0.0, 0.25, count))
    return [
        VisitConditions(
            visit=first_visit + i,
            band=str(band),
            mjd=float(mjds[i]),
            fwhm_eff=_draw_fwhm(rng, band),
            sky_magnitude=float(_SKY_MAGNITUDE[band] + _SKY_SCATTER * rng.standard_normal()),
            transparency=float(np.clip(rng.normal(0.97, 0.03), 0.8, 1.0)),
            offset=(float(dither * rng.standard_normal()), float(dither * rng.standard_normal())),
            rotation=float(rotation * rng.standard_normal()),
        )
        for i, band in enumerate(chosen)
    ]


def _draw_fwhm(rng: np.random.Generator, band: str) -> float:
    """Draw a seeing from the quantiles of a band (linear between them)."""
    values = (_LEAST_FWHM, *_FWHM_QUANTILES[band], _LARGEST_FWHM)
    return float(np.interp(rng.uniform(), _QUANTILES, values))
