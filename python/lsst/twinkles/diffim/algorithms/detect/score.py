"""The significance of a point source at every pixel."""

from __future__ import annotations

__all__ = ("significance_image",)

import numpy as np

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from ..weigh_nb import divide_by_noise, weigh_pixels
from .separable import correlate, separate

# What may be left out of the PSF, as a fraction of its root sum of squares, for numerator and noise. Both are
# those of the same PSF, so that an error of it costs half its square: of a significance of 100 a thousandth.
_TOLERANCE = 3e-3
_NOISE_TOLERANCE = 1e-3


def significance_image(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    psf: PsfGrid,
    *,
    min_coverage: float,
    side: int,
    light: np.ndarray | None = None,
    jitter: float = 0.0,
) -> np.ndarray:
    """Return flux over its error of a point source centred on each pixel.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference with white noise and its variance; may be anything where ``bad``.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that get no weight, as do those that are not finite or of no positive variance.
    psf : `PsfGrid`
        PSF of the difference.
    min_coverage : `float`
        The significance is 0 where a smaller share of the pixels under the PSF's core is good.
    side : `int`
        Side in pixels of the squares within which the PSF is taken to be that of their middle.
    light : `numpy.ndarray`, ``(Ny, Nx)``, optional
        Static light that was subtracted, without its sky; needed if ``jitter`` is positive.
    jitter : `float`, optional
        Scatter of the positions of static sources between the two images, pixels along each axis.

    Returns
    -------
    significance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Unit variance in blank sky.

    Notes
    -----
    ``sum(P D / V) / sqrt(sum(P**2 / V))``, the log-likelihood ratio's root for white noise of known variance
    (Zackay & Ofek 2017, doi:10.3847/1538-4357/836/2/187, equation 17). Displaced sources add
    ``jitter**2 |grad sum(P M / V)|**2``, ``M`` being the light, to the variance of the numerator: astrometric
    noise as in Zackay, Ofek & Gal-Yam (2016), doi:10.3847/0004-637X/830/1/27, section 3.3.
    """
    data, weight = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    planes = (np.ascontiguousarray(plane, dtype=np.float32) for plane in (image, variance))
    run_in_threads(weigh_pixels, len(image), *planes, bad, np.zeros((len(image), 1)), data, weight)
    data *= weight
    places = [(np.arange(0, extent, side) + 0.5 * (side - 1)) for extent in image.shape]
    y, x = np.meshgrid(*places, indexing="ij")
    stamps = psf.evaluate(x=x.ravel(), y=y.ravel()).reshape(*x.shape, psf.size, psf.size)
    profile = separate(stamps, tile=side, tolerance=_TOLERANCE)
    square = separate(profile.images() ** 2, tile=side, tolerance=_NOISE_TOLERANCE)
    numerator, power = correlate(data, profile), correlate(weight, square)
    if jitter > 0.0 and light is not None:
        static = np.where(weight > 0.0, light * weight, np.float32(0.0))
        slope_y, slope_x = np.gradient(correlate(static, profile))
        power += np.float32(jitter**2) * (slope_x**2 + slope_y**2)
    # Side of the square as large as the PSF's equivalent noise area.
    core = round(float((psf.mean() ** 2).sum()) ** -0.5) | 1
    run_in_threads(divide_by_noise, len(image), numerator, power, weight, core, min_coverage, numerator)
    return numerator
