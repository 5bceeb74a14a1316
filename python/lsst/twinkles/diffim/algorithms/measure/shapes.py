"""Adaptive moments and aperture fluxes of sources whose neighbours have been taken away."""

from __future__ import annotations

__all__ = ("ApertureFluxes", "Moments", "measure_adaptive_moments", "measure_aperture_fluxes")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .psf_fit import PsfFits, subtract_sources
from .shapes_nb import aperture_sums, measure_moments
from .spline_psf import SplinePsf


@dataclass(frozen=True)
class Moments:
    """Second moments of sources and of the PSF, pixels squared; all ``(N,)``, NaN where there are none.

    Attributes
    ----------
    xx, xy, yy : `numpy.ndarray`
        Those of the source.
    psf_xx, psf_xy, psf_yy : `numpy.ndarray`
        Those of the PSF.
    """

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    psf_xx: np.ndarray
    psf_xy: np.ndarray
    psf_yy: np.ndarray


@dataclass(frozen=True)
class ApertureFluxes:
    """Fluxes in a circle; all ``(N,)``, NaN where no pixel could be used.

    Attributes
    ----------
    flux, error : `numpy.ndarray`
        Sum of the pixels and its standard error.
    psf_share : `numpy.ndarray`
        Sum of the (unit-sum) PSF over the same pixels.
    n_missing : `numpy.ndarray`, int
        Pixels of the circle without data.
    """

    flux: np.ndarray
    error: np.ndarray
    psf_share: np.ndarray
    n_missing: np.ndarray


def measure_adaptive_moments(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    fits: PsfFits,
    *,
    half: int,
    sigma: float,
    max_shift: float,
    iterations: int,
    residual: np.ndarray | None = None,
) -> Moments:
    """Measure adaptive moments.

    Parameters
    ----------
    image, weight, psf
        As in `~lsst.twinkles.diffim.algorithms.measure.psf_fit.fit_point_sources`.
    fits : `PsfFits`
        Positions and fluxes; each source is measured with the models of the others subtracted.
    half : `int`
        Half side in pixels of the squares that are used.
    sigma : `float`
        First guess of the width, pixels.
    max_shift : `float`
        Farthest that the centre may move from that of the fit, pixels.
    iterations : `int`
        Most rounds.
    residual : `numpy.ndarray`, ``(Ny, Nx)``, float32, optional
        The image without the sources, where it has been made already (`subtract_sources`).

    Notes
    -----
    Moments weighted with the elliptical Gaussian that has twice the weighted moments (Hirata & Seljak 2003,
    doi:10.1046/j.1365-8711.2003.06683.x); for a Gaussian source they are its covariance.
    """
    spline = SplinePsf.from_grid(psf, reach=half)
    if residual is None:
        residual = subtract_sources(image, spline, fits)
    results = np.full((len(fits.x), 8), np.nan)
    run_in_threads(
        measure_moments, len(fits.x), residual, np.ascontiguousarray(weight, np.float32), spline.coefficients,
        *spline.nodes_at(x=fits.x, y=fits.y), fits.x, fits.y, fits.flux, half, sigma, max_shift, iterations,
        results,
    )  # fmt: skip
    return Moments(*results[:, :6].T)


def measure_aperture_fluxes(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    fits: PsfFits,
    *,
    radius: float,
    residual: np.ndarray | None = None,
) -> ApertureFluxes:
    """Measure fluxes in circles.

    Parameters
    ----------
    image, weight, psf, fits
        As in `measure_adaptive_moments`.
    radius : `float`
        Radius in pixels.
    residual
        As in `measure_adaptive_moments`.
    """
    half = int(np.ceil(radius)) + 1
    spline = SplinePsf.from_grid(psf, reach=half)
    if residual is None:
        residual = subtract_sources(image, spline, fits)
    results = np.zeros((len(fits.x), 4))
    run_in_threads(
        aperture_sums, len(fits.x), residual, np.ascontiguousarray(weight, np.float32), spline.coefficients,
        *spline.nodes_at(x=fits.x, y=fits.y), fits.x, fits.y, fits.flux, half, radius, results,
    )  # fmt: skip
    some = np.where(results[:, 1] > 0.0, 1.0, np.nan)
    return ApertureFluxes(
        results[:, 0] * some, np.sqrt(results[:, 1]) * some, results[:, 2], results[:, 3].astype(int)
    )
