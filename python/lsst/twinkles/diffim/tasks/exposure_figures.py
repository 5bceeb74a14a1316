"""Figures of an exposure that the choice of a template looks at."""

from __future__ import annotations

__all__ = ("exposure_mjd", "measure_figures", "sky_corners")

import warnings
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np

from ..adapters.masks import bad_pixels
from ..adapters.metadata import visit_number
from ..adapters.psfs import InvalidPsfError, psf_fwhm, sample_psf
from ..algorithms.noise import sky_variance_map
from ..algorithms.select.depth import PSF_POWER_SIDE, psf_power
from ..algorithms.select.figures import VisitFigures
from .subtraction_figures import nanojansky_scale

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage

_PSF_NODES = 3
_NOISE_CELL = 256
_BAD_PLANES = ("BAD", "SAT", "NO_DATA")


def measure_figures(
    exposure: VisitImage, *, bbox: Box | None = None, visit: int | None = None, detector: int | None = None
) -> VisitFigures:
    """Measure what the choice of a template has to know of an exposure.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        The exposure, or a part of it that is enough to tell the noise of blank sky.
    bbox : `lsst.images.Box`, optional
        Pixels of the whole exposure; those of ``exposure`` by default.
    visit, detector : `int`, optional
        Identity; by default what the exposure says of itself.

    Returns
    -------
    figures : `~lsst.twinkles.diffim.algorithms.select.figures.VisitFigures`
        Noise is NaN if no pixel is usable, the power of the PSF if there is no valid PSF.
    """
    box = exposure.bbox if bbox is None else bbox
    info = exposure.obs_info
    if visit is None:
        visit = visit_number(exposure)
    if detector is None:
        detector = info.detector_num
    fwhm, power = _measure_psf(exposure, box)
    scale = nanojansky_scale(exposure)
    corners = sky_corners(exposure, box)
    sides = [np.arccos(np.clip(corners[i] @ corners[j], -1, 1)) for i, j in ((0, 1), (1, 2))]
    scales = np.degrees(sides) * 3600 / np.array([box.x.size, box.y.size])
    return VisitFigures(
        visit=-1 if visit is None else int(visit),
        detector=-1 if detector is None else int(detector),
        band=str(exposure.band),
        mjd=exposure_mjd(exposure),
        fwhm=fwhm,
        pixel_scale=float(np.sqrt(scales.prod())),
        variance=_measure_noise(exposure),
        scale=float("nan") if scale is None else scale,
        corners=corners,
        power=power,
    )


def _measure_psf(exposure: VisitImage, box: Box) -> tuple[float, np.ndarray]:
    """Return the FWHM in pixels and the power spectrum, NaN where there is no valid PSF."""
    from lsst.images.serialization import ArchiveReadError

    try:
        psf = sample_psf(exposure.psf, box, grid=_PSF_NODES)
    except (InvalidPsfError, ArchiveReadError):
        return float("nan"), np.full((PSF_POWER_SIDE, PSF_POWER_SIDE // 2 + 1), np.nan, dtype=np.float32)
    return psf_fwhm(psf), psf_power(psf)


def _measure_noise(exposure: VisitImage) -> float:
    """Return the variance of a pixel of blank sky, NaN if no pixel is usable."""
    variance = exposure.variance.array
    with np.errstate(invalid="ignore"):
        bad = bad_pixels(exposure.mask, _BAD_PLANES) | ~(variance > 0) | ~np.isfinite(variance)
    try:
        return sky_variance_map(variance, bad, size=_NOISE_CELL).median
    except ValueError:
        return float("nan")


def exposure_mjd(exposure: VisitImage) -> float:
    """Return the middle of an exposure as MJD (TAI), NaN if it does not say when it was taken."""
    from erfa import ErfaWarning

    info = exposure.obs_info
    begin, end = info.datetime_begin, info.datetime_end
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ErfaWarning)  # leap seconds of a simulated future
        known = [float(time.tai.mjd) for time in (begin, end) if time is not None]
    return sum(known) / len(known) if known else float("nan")


def sky_corners(exposure: VisitImage, box: Box) -> np.ndarray:
    """Return unit vectors (ICRS) of the outer corners of a box, ``(4, 3)``, in order around it."""
    x = np.array([box.x.start, box.x.stop, box.x.stop, box.x.start]) - 0.5
    y = np.array([box.y.start, box.y.start, box.y.stop, box.y.stop]) - 0.5
    sky = exposure.sky_projection.pixel_to_sky(x=x, y=y).icrs
    return np.asarray(sky.cartesian.xyz.to_value(u.dimensionless_unscaled)).T
