"""Trails: sources that moved during the exposure."""

from __future__ import annotations

__all__ = ("TrailFits", "fit_trail_sources")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .psf_fit import PsfFits, subtract_sources
from .shapes import Moments
from .spline_psf import SplinePsf
from .trail_nb import fit_trails


@dataclass(frozen=True)
class TrailFits:
    """Fits of a trail; all ``(N,)``, NaN where ``fitted`` is `False`.

    Attributes
    ----------
    tried, fitted : `numpy.ndarray`, bool
        Was the source elongated enough to try, and was there a result?
    flux, flux_error : `numpy.ndarray`
        Flux of the trail.
    x, y, x_error, y_error, xy_covariance : `numpy.ndarray`
        Its middle, pixels of the array.
    dx, dy, dx_error, dy_error, dxy_covariance : `numpy.ndarray`
        Vector from end to end (towards greater x), pixels.
    chi2, n_pixels : `numpy.ndarray`
        Chi square, and pixels that went in.
    """

    tried: np.ndarray
    fitted: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray
    xy_covariance: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    dx_error: np.ndarray
    dy_error: np.ndarray
    dxy_covariance: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray


def fit_trail_sources(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    fits: PsfFits,
    moments: Moments,
    *,
    half: int,
    min_significance: float,
    min_length: float,
    max_length: float,
    iterations: int,
    residual: np.ndarray | None = None,
) -> TrailFits:
    """Fit trails to elongated sources.

    Parameters
    ----------
    image, weight, psf
        As in `~lsst.twinkles.diffim.algorithms.measure.psf_fit.fit_point_sources`.
    fits : `PsfFits`
        Fits of point sources; the others are subtracted from each.
    moments : `Moments`
        Moments of sources and PSF: of a trail of length ``L`` they differ by ``L**2 / 12``.
    half : `int`
        Half side in pixels of the squares that are fitted.
    min_significance : `float`
        Sources are tried whose elongation is so many times the error of the moments, which is twice the
        moments over the signal-to-noise ratio.
    min_length : `float`
        Sources whose moments tell of a shorter trail are not tried, pixels.
    max_length : `float`
        Greatest length, pixels.
    iterations : `int`
        Most steps of a fit.
    residual : `numpy.ndarray`, ``(Ny, Nx)``, float32, optional
        The image without the sources, where it has been made already (`subtract_sources`).

    Notes
    -----
    Least squares with a line of constant brightness convolved with the PSF, by quadrature along the line. For
    a Gaussian PSF that is the model of Veres et al. (2012, doi:10.1086/668616).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = (moments.psf_xx + moments.psf_yy) / np.abs(fits.flux / fits.flux_error)
    start = _first_guess(moments, min_significance * noise, min_length, max_length)
    reach = half + int(np.ceil(0.5 * max_length)) + 2
    spline = SplinePsf.from_grid(psf, reach=reach)
    results = np.zeros((len(fits.x), 15))
    tried = np.isfinite(start[:, 0])
    if tried.any():
        if residual is None:
            residual = subtract_sources(image, spline, fits)
        run_in_threads(
            fit_trails, len(fits.x), residual, np.ascontiguousarray(weight, np.float32), spline.coefficients,
            *spline.nodes_at(x=fits.x, y=fits.y), fits.x, fits.y, fits.flux, start, half, 0.5 * max_length,
            iterations, results,
        )  # fmt: skip
    fitted = results[:, 7] > 0
    rows = np.where(fitted[:, None], results, np.nan)
    sign = np.where(rows[:, 3] < 0, -2.0, 2.0)
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(rows[:, 8:13])
    return TrailFits(
        tried=tried, fitted=fitted,
        flux=rows[:, 0], flux_error=errors[:, 0],
        x=rows[:, 1], y=rows[:, 2], x_error=errors[:, 1], y_error=errors[:, 2], xy_covariance=rows[:, 14],
        dx=sign * rows[:, 3], dy=sign * rows[:, 4],
        dx_error=2.0 * errors[:, 3], dy_error=2.0 * errors[:, 4], dxy_covariance=4.0 * rows[:, 13],
        chi2=rows[:, 5], n_pixels=np.nan_to_num(rows[:, 6]).astype(int),
    )  # fmt: skip


def _first_guess(
    moments: Moments, min_excess: np.ndarray, min_length: float, max_length: float
) -> np.ndarray:
    """Return the half-length vector that the moments tell of, ``(N, 2)``; NaN where it is too short."""
    xx, xy, yy = moments.xx - moments.psf_xx, moments.xy - moments.psf_xy, moments.yy - moments.psf_yy
    angle = 0.5 * np.arctan2(2.0 * xy, xx - yy)
    excess = 0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy)
    with np.errstate(invalid="ignore"):
        length = np.sqrt(12.0 * np.where((excess > 0) & (excess > min_excess), excess, np.nan))
        length = np.where(length >= min_length, np.minimum(length, 0.8 * max_length), np.nan)
    return 0.5 * length[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
