"""The significance of a point source at every pixel."""

from __future__ import annotations

__all__ = ("significance_image",)

import numpy as np

from ..convolve import convolve_varying, make_tile_grid
from ..fourier import transform_stamps
from ..psf_grid import PsfGrid


def significance_image(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    psf: PsfGrid,
    *,
    min_coverage: float,
    side: int,
    workers: int,
) -> np.ndarray:
    """Return flux over its error of a point source centred on each pixel.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference with white noise and its variance; may be anything where ``bad``.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that get no weight.
    psf : `PsfGrid`
        PSF of the difference.
    min_coverage : `float`
        The significance is 0 where less than this share of the PSF's weight falls on good pixels.
    side : `int`
        Side of the Fourier tiles.
    workers : `int`
        Threads.

    Returns
    -------
    significance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Unit variance in blank sky.

    Notes
    -----
    ``sum(P D / V) / sqrt(sum(P**2 / V))``, the log-likelihood ratio's root for white noise of known variance
    (Zackay & Ofek 2017, doi:10.3847/1538-4357/836/2/187, equation 17).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(bad, np.float32(0.0), np.float32(1.0) / variance).astype(np.float32)
    data = np.where(bad, np.float32(0.0), image * weight)
    grid = make_tile_grid(image.shape, halo=psf.size // 2 + 1, side=side)

    def correlate(power: int):  # type: ignore[no-untyped-def]
        def filters(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
            stamps = psf.evaluate(x=x, y=y).astype(np.float32)
            return [transform_stamps((stamps**power)[:, ::-1, ::-1], grid.side)]

        return filters

    numerator = convolve_varying([data], correlate(1), grid, workers=workers)
    power = convolve_varying([weight], correlate(2), grid, workers=workers, tolerance=0.1)
    full = float(np.median(weight[~bad])) * float((psf.mean() ** 2).sum()) if not bad.all() else 1.0
    covered = power > 1e-3 * full
    if bad.any():
        present = convolve_varying(
            [(~bad).astype(np.float32)], correlate(2), grid, workers=workers, tolerance=0.1
        )
        covered &= present > min_coverage * float((psf.mean() ** 2).sum())
    return np.where(covered, numerator / np.sqrt(np.maximum(power, 1e-30 * full)), np.float32(0.0))
