"""The point-spread function of a simulated visit, and the sky behind it."""

from __future__ import annotations

__all__ = ("VaryingPsf", "draw_sky", "extent_table")

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import galsim
import numpy as np

from ..adapters.camera import DETECTOR_NX, DETECTOR_NY, PIXEL_SCALE_ARCSEC
from ..algorithms.psf_grid import PsfGrid

# Accuracy of a drawn profile: half a percent of its light may fold over, which
# keeps the transforms of 28000 galaxies short.
GSPARAMS = galsim.GSParams(folding_threshold=5e-3, maximum_fft_size=16384)

_FAINTEST_WING = 0.4
"""Electrons per pixel below which the wing of a profile is cut."""


@dataclass(frozen=True)
class VaryingPsf:
    """A Kolmogorov profile whose width and shear change smoothly over the CCD.

    Attributes
    ----------
    fwhm : `float`
        Arcsec in the middle of the field.
    width_terms : `numpy.ndarray`, ``(5,)``
        Relative change of the width in u, v, uv, u**2, v**2.
    shear_terms : `numpy.ndarray`, ``(2, 4)``
        Reduced shear g1 and g2 in 1, u, v, uv.
    center : `tuple` [`float`, `float`]
        (x, y) of the middle of the field; u and v run over -1..1 on a whole
        CCD, so that a small field sees a piece of the change.
    """

    fwhm: float
    width_terms: np.ndarray
    shear_terms: np.ndarray
    center: tuple[float, float]

    @classmethod
    def draw_random(
        cls,
        rng: np.random.Generator,
        *,
        fwhm: float,
        fwhm_variation: float,
        ellipticity: float,
        nx: int,
        ny: int,
    ) -> VaryingPsf:
        """Draw the terms of one visit uniformly up to the given sizes."""
        width = fwhm_variation * rng.uniform(-1, 1, 5) * (1.0, 1.0, 0.7, 0.7, 0.7)
        shear = ellipticity * rng.uniform(-1, 1, (2, 4)) * (0.6, 1.0, 1.0, 0.6)
        return cls(fwhm=fwhm, width_terms=width, shear_terms=shear, center=((nx - 1) / 2, (ny - 1) / 2))

    def parameters(self, *, x: float, y: float) -> tuple[float, float, float]:
        """Return FWHM in arcsec and shears g1, g2 at a position in pixels."""
        u = (x - self.center[0]) / (DETECTOR_NX / 2)
        v = (y - self.center[1]) / (DETECTOR_NY / 2)
        fwhm = self.fwhm * (1.0 + float(self.width_terms @ (u, v, u * v, u * u, v * v)))
        g1, g2 = self.shear_terms @ (1.0, u, v, u * v)
        return fwhm, float(np.clip(g1, -0.3, 0.3)), float(np.clip(g2, -0.3, 0.3))

    def profile(self, *, x: float, y: float) -> galsim.GSObject:
        """Return the profile above the pixel grid, of unit flux, at a position in pixels."""
        fwhm, g1, g2 = self.parameters(x=x, y=y)
        return _unit_kolmogorov().dilate(fwhm).shear(g1=g1, g2=g2)

    def stamp(self, *, x: float, y: float, size: int = 41) -> np.ndarray:
        """Return the profile integrated over pixels, ``(size, size)``, of unit sum."""
        image = self.profile(x=x, y=y).drawImage(nx=size, ny=size, scale=PIXEL_SCALE_ARCSEC, dtype=np.float64)
        return image.array / image.array.sum()

    def middle_stamp(self, size: int = 41) -> np.ndarray:
        """Return the stamp in the middle of the field, ``(size, size)``, of unit sum."""
        return self.stamp(x=self.center[0], y=self.center[1], size=size)

    def enclosed(self, size: int = 41) -> float:
        """Return the fraction of the light that falls on a stamp in the middle of the field.

        PSF models, whose stamps sum to one, leave the rest out of account.
        """
        x, y = self.center
        image = self.profile(x=x, y=y).drawImage(nx=size, ny=size, scale=PIXEL_SCALE_ARCSEC, dtype=np.float64)
        return float(image.array.sum())

    def grid(self, *, nx: int, ny: int, points: int = 6, size: int = 41) -> PsfGrid:
        """Sample the profile on a regular grid over the field."""
        x, y = np.linspace(0, nx - 1, points), np.linspace(0, ny - 1, points)
        stamps = np.array([[self.stamp(x=xi, y=yi, size=size) for xi in x] for yi in y])
        return PsfGrid(stamps=stamps, x=x, y=y)


@lru_cache(maxsize=1)
def _unit_kolmogorov() -> galsim.GSObject:
    """Return the profile of FWHM 1 arcsec; galsim tabulates it once."""
    return galsim.Kolmogorov(fwhm=1.0, gsparams=GSPARAMS)


def extent_table(fwhm: float) -> Callable[[float], int]:
    """Return a function that tells how large a stamp a point source needs.

    Parameters
    ----------
    fwhm : `float`
        Seeing in arcsec.

    Returns
    -------
    extent : callable
        Flux in electrons -> half side of a stamp in pixels, beyond which the
        wing is fainter than half an electron per pixel.
    """
    scale = PIXEL_SCALE_ARCSEC / fwhm
    reach = 600
    precise = galsim.Kolmogorov(fwhm=1.0)
    radius = np.unique(np.round(np.geomspace(1, reach, 80)))
    surface = np.array([precise.xValue(r * scale, 0.0) * scale**2 for r in radius])
    surface = np.minimum.accumulate(surface)

    def extent(flux: float) -> int:
        faint_enough = surface * max(flux, 1e-3) < _FAINTEST_WING
        index = int(np.argmax(faint_enough)) if faint_enough.any() else -1
        return int(np.clip(radius[index], 10, 500))

    return extent


def draw_sky(rng: np.random.Generator, *, level: float, gradient: float, nx: int, ny: int) -> np.ndarray:
    """Return a sky that tilts and bends gently over the field.

    Parameters
    ----------
    rng : `numpy.random.Generator`
        Source of the direction of the gradient.
    level : `float`
        Electrons per pixel in the middle.
    gradient : `float`
        Relative change from the middle to the rim.
    nx, ny : `int`
        Pixels.

    Returns
    -------
    sky : `numpy.ndarray`, ``(ny, nx)``
        Expected electrons per pixel.
    """
    a, b, c = rng.uniform(-1, 1, 3) * (1.0, 1.0, 0.5)
    u = np.linspace(-1, 1, nx)[None, :]
    v = np.linspace(-1, 1, ny)[:, None]
    return level * (1.0 + gradient * (a * u + b * v + c * u * v))
