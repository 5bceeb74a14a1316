"""From sources and a point-spread function to expected electrons."""

from __future__ import annotations

__all__ = ("render_galaxies", "render_points")

from functools import lru_cache

import galsim
import numpy as np
from astropy.table import Table

from ..adapters.camera import PIXEL_SCALE_ARCSEC
from .atmosphere import GSPARAMS, VaryingPsf, extent_table

_LARGEST_GALAXY_STAMP = 300


def render_points(
    image: np.ndarray, psf: VaryingPsf, *, x: np.ndarray, y: np.ndarray, flux: np.ndarray
) -> None:
    """Add point sources to an image, in place.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(ny, nx)``, float64
        Expected electrons, changed in place.
    psf : `VaryingPsf`
        Profile at any position.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels; those outside the image add their wings.
    flux : `numpy.ndarray`, ``(N,)``
        Electrons.
    """
    canvas = galsim.Image(image, xmin=0, ymin=0, scale=PIXEL_SCALE_ARCSEC)
    extent = extent_table(psf.fwhm)
    for xi, yi, fi in zip(x, y, flux, strict=True):
        if fi > 0:
            _draw(canvas, psf.profile(x=xi, y=yi), x=xi, y=yi, half=extent(fi), flux=fi)


def render_galaxies(
    image: np.ndarray,
    psf: VaryingPsf,
    galaxies: Table,
    *,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    rotation: float = 0.0,
) -> None:
    """Add galaxies to an image, in place.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(ny, nx)``, float64
        Expected electrons, changed in place.
    psf : `VaryingPsf`
        Profile at any position.
    galaxies : `astropy.table.Table`
        Shapes: ``half_light_radius``, ``sersic``, ``g1``, ``g2``.
    x, y, flux : `numpy.ndarray`, ``(N,)``
        Positions in pixels and electrons.
    rotation : `float`, optional
        Angle in degrees by which the field appears turned in this image.
    """
    canvas = galsim.Image(image, xmin=0, ymin=0, scale=PIXEL_SCALE_ARCSEC)
    extent = extent_table(psf.fwhm)
    turn = rotation * galsim.degrees
    columns = [np.asarray(galaxies[name]) for name in ("half_light_radius", "sersic", "g1", "g2")]
    for xi, yi, fi, radius, index, g1, g2 in zip(x, y, flux, *columns, strict=True):
        if fi <= 0:
            continue
        profile = _unit_galaxy(int(index)).dilate(radius).shear(g1=g1, g2=g2)
        if rotation:
            profile = profile.rotate(turn)
        seen = galsim.Convolve(profile, psf.profile(x=xi, y=yi), gsparams=GSPARAMS)
        reach = (7.0 if fi > 2e4 else 3.0) * radius / PIXEL_SCALE_ARCSEC
        half = min(extent(fi) + int(reach), _LARGEST_GALAXY_STAMP)
        _draw(canvas, seen, x=xi, y=yi, half=half, flux=fi)


@lru_cache(maxsize=4)
def _unit_galaxy(index: int) -> galsim.GSObject:
    """Return a profile of half-light radius 1 arcsec and unit flux."""
    if index == 1:
        return galsim.Exponential(half_light_radius=1.0, gsparams=GSPARAMS)
    return galsim.Sersic(n=index, half_light_radius=1.0, trunc=5.0, gsparams=GSPARAMS)


def _draw(
    canvas: galsim.Image, profile: galsim.GSObject, *, x: float, y: float, half: int, flux: float
) -> None:
    """Draw one profile on a stamp and add what of it lies on the canvas."""
    column, row = round(x), round(y)
    bounds = galsim.BoundsI(column - half, column + half, row - half, row + half)
    overlap = bounds & canvas.bounds
    if not overlap.isDefined():
        return
    stamp = galsim.ImageD(bounds, scale=PIXEL_SCALE_ARCSEC)
    profile.withFlux(flux).drawImage(stamp, center=galsim.PositionD(x, y))
    canvas[overlap] += stamp[overlap]
