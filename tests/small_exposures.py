"""Small exposures for tests of tasks and commands."""

import astropy.units as u
import astropy.wcs
import numpy as np
from astro_metadata_translator import ObservationInfo
from lsst.images import Box, DetectorFrame, Image, Mask, SkyProjection, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction

from lsst.twinkles.diffim.adapters.camera import make_detector
from lsst.twinkles.diffim.adapters.masks import visit_mask_schema

SCALE = 0.2 / 3600


def make_wcs(*, crpix=(50.0, 50.0), angle=0.0, scale=SCALE, ra=53.0, dec=-27.4):
    """Return a tangential FITS WCS; ``crpix`` counts from 1, ``angle`` in radians."""
    wcs = astropy.wcs.WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra, dec
    wcs.wcs.crpix = crpix
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    wcs.wcs.cd = [[-c, s], [s, c]]
    return wcs


def make_exposure(
    image,
    *,
    visit=1,
    band="r",
    variance=100.0,
    sigma=2.0,
    wcs=None,
    start=(0, 0),
    unit=u.electron,
    backgrounds=None,
    scaling=None,
    times=None,
):
    """Return a `VisitImage` around an array; ``start`` is (y0, x0), ``times`` are begin and end."""
    image = np.asarray(image, dtype=np.float32)
    box = Box.from_shape(image.shape, start=start)
    frame = DetectorFrame(instrument="TwinklesCam", visit=visit, detector=0, bbox=box)
    variance = np.broadcast_to(np.float32(variance), image.shape).astype(np.float32)
    return VisitImage(
        Image(image, bbox=box, unit=unit),
        mask=Mask(schema=visit_mask_schema(), bbox=box),
        variance=Image(variance, bbox=box, unit=unit**2),
        sky_projection=SkyProjection.from_fits_wcs(
            make_wcs() if wcs is None else wcs, frame, pixel_bounds=None, x0=start[1], y0=start[0]
        ),
        obs_info=ObservationInfo(
            instrument="TwinklesCam",
            visit_id=visit,
            detector_num=0,
            physical_filter=band,
            **(_times(*times) if times else {}),
        ),
        psf=GaussianPointSpreadFunction(sigma, bounds=box, stamp_size=25),
        detector=make_detector(visit, bbox=box),
        band=band,
        backgrounds=backgrounds,
        photometric_scaling=scaling,
    )


def _times(begin, end):
    return {"datetime_begin": begin, "datetime_end": end, "exposure_time": (end - begin).to(u.s)}


def draw_stars(shape, positions, *, sigma, flux):
    """Draw Gaussian stars; positions are (x, y)."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for x0, y0 in positions:
        image += np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * sigma**2))
    return flux * image / (2 * np.pi * sigma**2)
