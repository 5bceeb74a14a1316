"""Difference images of white noise with sources of known position and flux."""

import astropy.units as u
import numpy as np
from lsst.images import Mask
from lsst.images.fields import ChebyshevField
from small_exposures import make_exposure, make_wcs
from small_pairs import draw

from lsst.twinkles.diffim.adapters.masks import difference_mask_schema
from lsst.twinkles.diffim.tasks.difference_image import make_difference_image, make_matched_image

SIGMA = 2.0
NOISE = 10.0
NJY = 3.7
# Error of a PSF flux, electrons.
ERROR = np.sqrt(4 * np.pi) * SIGMA * NOISE


def make_white(shape, sources, *, seed=1, start=(0, 0), calibrated=True, unit=u.electron, noise=NOISE):
    """Return difference, science and matched template; sources are (x, y, flux) in array pixels.

    The template holds a source of flux 1000 at each of the places, the science image that and the change.
    """
    rng = np.random.default_rng(seed)
    sources = np.asarray(sources, float).reshape(-1, 3)
    change = draw(shape, sources, SIGMA) + noise * rng.normal(size=shape)
    static = draw(shape, sources * [1, 1, 0] + [0, 0, 1000.0], SIGMA)
    wcs = make_wcs(angle=0.3)  # in pixels that count from the first one of the image
    science = make_exposure(
        300.0 + static + change, variance=NOISE**2, sigma=SIGMA, start=start, unit=unit, wcs=wcs
    )
    if calibrated:
        science = make_exposure(
            300.0 + static + change,
            variance=NOISE**2,
            sigma=SIGMA,
            start=start,
            unit=unit,
            wcs=wcs,
            scaling=ChebyshevField(science.bbox, np.array([[NJY]]), unit=u.nJy / unit),
        )
    mask = Mask(schema=difference_mask_schema(), bbox=science.bbox)
    planes = {"mask": mask, "psf": science.psf}
    variance = np.full(shape, NOISE**2, "f4")
    difference = make_difference_image(science, image=change, variance=variance, kernel=None, **planes)
    matched = make_matched_image(
        science, science, image=300.0 + static, variance=variance, convolved=False, **planes
    )
    return difference, science, matched
