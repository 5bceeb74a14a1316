"""The variance plane of a white difference, with the photon noise of sources: errors of PSF fluxes."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.algorithms.decorrelate.whiten import propagate_variance
from lsst.twinkles.diffim.algorithms.fourier import stamps_from_transforms, transform_stamps

SIDE, SKY = 64, 4000.0
SHAPE = (201, 201)


def gaussian(sigma, size=41):
    r = np.arange(size) - size // 2
    stamp = np.exp(-0.5 * (r / sigma) ** 2)
    return np.outer(stamp, stamp) / stamp.sum() ** 2


def proper_filters(psf_science, psf_template):
    """Filters of proper subtraction for equal noises (Zackay, Ofek & Gal-Yam 2016, equation 13)."""
    science, template = (transform_stamps(psf[None], SIDE) for psf in (psf_science, psf_template))
    norm = np.sqrt(2.0 / (np.abs(science) ** 2 + np.abs(template) ** 2))
    return template * norm, science * norm


def flux_errors(filter_, psf, light, psfs):
    """Standard deviation of a PSF flux where there is light: by the plane, and by the noise of every pixel.

    The noise of input pixel k spreads into the difference by the filter ``a``: the flux
    ``sum(q D) / sum(q**2)`` has the variance ``(v sum(q**2) + sum(light (a x q)**2)) / sum(q**2)**2``.
    """
    a = stamps_from_transforms(filter_, SIDE, SIDE - 1)[0]
    q = fftconvolve(a, psf, mode="full")
    middle = q.shape[0] // 2
    q = q[middle - 15 : middle + 16, middle - 15 : middle + 16]
    zero = np.zeros(SHAPE, np.float32)
    plane = propagate_variance(
        uniform_filter(light, 5).astype(np.float32),  # as `source_variance` smooths it
        zero,
        filters=lambda x, y, side: (np.repeat(filter_, len(x), 0), np.repeat(filter_, len(x), 0)),
        sky=np.full(SHAPE, SKY, np.float32),
        psfs=psfs,
    )
    window = np.s_[100 - 15 : 100 + 16, 100 - 15 : 100 + 16]
    power = (q**2).sum()
    told = np.sqrt((plane[window] * q**2).sum()) / power
    place = np.zeros(SHAPE)
    place[window] = q
    carried = fftconvolve(place, a[::-1, ::-1], mode="same")
    true = np.sqrt(SKY * power + (light * carried**2).sum()) / power
    return told, true


@pytest.mark.parametrize("wider", [1.0, 1.5])
@pytest.mark.parametrize("sigmas", [(2.2, 1.5), (1.5, 2.2), (2.0, 1.9)])
def test_errors_of_fluxes_on_bright_sources(sigmas, wider):
    psfs = [gaussian(sigma) for sigma in sigmas]
    filters = proper_filters(*psfs)
    for filter_, psf, sigma in zip(filters, psfs, sigmas, strict=True):
        light = np.zeros(SHAPE)
        light[80:121, 80:121] = 60 * SKY * gaussian(wider * sigma)
        told, true = flux_errors(filter_, psf, light, (psf, psf))
        # Light of a galaxy loses less by the smoothing than that of a star.
        assert told == pytest.approx(true, rel=0.01 if wider == 1.0 else 0.04)


def test_single_pixels_tell_something_else():
    """Without the PSFs the plane is that of pixels, from which errors would be wrong by as much as this."""
    psfs = [gaussian(1.5), gaussian(2.2)]
    wide, sharp = proper_filters(*psfs)
    light = np.zeros(SHAPE)
    light[80:121, 80:121] = 60 * SKY * psfs[0]
    told, true = flux_errors(wide, psfs[0], light, None)
    assert told < 0.9 * true
    light[80:121, 80:121] = 60 * SKY * psfs[1]
    told, true = flux_errors(sharp, psfs[1], light, None)
    assert told > 1.02 * true
