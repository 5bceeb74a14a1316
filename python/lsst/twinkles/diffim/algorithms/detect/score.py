"""The significance of a point source at every pixel."""

from __future__ import annotations

__all__ = ("significance_image",)

import numpy as np

from ..convolve import convolve_varying, make_tile_grid
from ..fourier import transform_stamps
from ..measure.in_threads import run_in_threads
from ..psf_grid import PsfGrid
from ..weigh_nb import divide_by_noise, weigh_pixels

# Variation of the PSF within a tile that is left out. Numerator and noise are those of the same PSF, so that
# an error of it costs its square: of a significance of 100 a fiftieth of a sigma.
_TOLERANCE = 0.02


def significance_image(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    psf: PsfGrid,
    *,
    min_coverage: float,
    side: int,
    workers: int,
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
        Side of the Fourier tiles.
    workers : `int`
        Threads.
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
    grid = make_tile_grid(image.shape, halo=psf.size // 2 + 1, side=side)

    def turned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return psf.evaluate(x=x, y=y).astype(np.float32)[:, ::-1, ::-1]

    def correlate(pixels: np.ndarray, power: int = 1) -> np.ndarray:
        return convolve_varying(
            [pixels],
            lambda x, y: [transform_stamps(turned(x, y) ** power, grid.side)],
            grid,
            workers=workers,
            tolerance=_TOLERANCE,
            beyond="zero",
        )

    numerator, power = correlate(data), correlate(weight, 2)
    if jitter > 0.0 and light is not None:
        slope_y, slope_x = np.gradient(correlate(np.where(weight > 0.0, light * weight, np.float32(0.0))))
        power += np.float32(jitter**2) * (slope_x**2 + slope_y**2)
    # Side of the square as large as the PSF's equivalent noise area.
    core = round(float((psf.mean() ** 2).sum()) ** -0.5) | 1
    run_in_threads(divide_by_noise, len(image), numerator, power, weight, core, min_coverage, numerator)
    return numerator
