"""Second sources under one peak."""

from __future__ import annotations

__all__ = ("Splits", "split_sources")

from dataclasses import dataclass

import numpy as np

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .groups import link_groups
from .psf_fit import PsfFits, subtract_sources
from .spline_psf import SplinePsf
from .split_nb import split_groups

# Least gain of chi square that makes a fit of two sources worth while.
_SCREEN = 12.0


@dataclass(frozen=True)
class Splits:
    """Sources that are better explained by two.

    Attributes
    ----------
    parent : `numpy.ndarray`, ``(M,)``, int
        Index of each in the list of sources.
    x, y, flux, flux_error : `numpy.ndarray`, ``(M, 2)``
        Positions in pixels, PSF fluxes and their errors of the two, the brighter one first.
    gain : `numpy.ndarray`, ``(M,)``
        By how much chi square fell.
    """

    parent: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    gain: np.ndarray

    def __len__(self) -> int:
        return len(self.parent)


def split_sources(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid,
    fits: PsfFits,
    *,
    half: int,
    fwhm: float,
    link: float,
    most: int,
    min_snr: float,
    min_gain: float,
    min_separation: float,
    max_separation: float,
    min_flux_ratio: float,
    model_error: float,
    iterations: int,
) -> Splits:
    """Test every bright source for a second one under the same peak.

    Parameters
    ----------
    image, weight, psf
        As in `~lsst.twinkles.diffim.algorithms.measure.psf_fit.fit_point_sources`.
    fits : `PsfFits`
        Fit of each source as a single one.
    half : `int`
        Half side in pixels of the squares that are fitted.
    fwhm : `float`
        FWHM of the PSF in pixels.
    link, most
        As in `fit_point_sources`.
    min_snr : `float`
        Sources of a lower signal-to-noise ratio stay as they are.
    min_gain : `float`
        Least gain of chi square, for three parameters more.
    min_separation, max_separation : `float`
        Least and greatest distance of the two, pixels. Two sources closer than the least cannot be told
        from an error of the PSF's width.
    min_flux_ratio : `float`
        Least flux of the fainter over that of the brighter; they have the same sign.
    model_error : `float`
        Fractional error of the PSF, added in quadrature to the noise.
    iterations : `int`
        Most steps of a fit.

    Returns
    -------
    splits : `Splits`
        Those that pass.

    Notes
    -----
    Whether a fit of two is worth while is asked of the residuals first: chi square has to fall by an
    elongation of the source (second derivatives of the PSF, a score test of three degrees of freedom) or by
    a point source within 1.5 FWHM.
    """
    spline = SplinePsf.from_grid(psf, reach=half)
    nodes, shares = spline.nodes_at(x=fits.x, y=fits.y)
    flux = np.nan_to_num(fits.flux)
    error = np.where(np.isfinite(fits.flux_error), fits.flux_error, np.inf)
    residual = subtract_sources(image, spline, fits)
    groups = link_groups(fits.x, fits.y, length=link, most=most)
    results = np.zeros((len(flux), 10))
    run_in_threads(
split_groups, len(groups.sizes),
        residual, np.ascontiguousarray(weight, np.float32), spline.coefficients, nodes, shares, spline.reach,
        half, groups.members, groups.starts, fits.x, fits.y, flux, error, fwhm, min_snr, _SCREEN,
        model_error, iterations, results,
    )  # fmt: skip
    pairs = results[:, :8].reshape(-1, 2, 4)
    order = np.argsort(-np.abs(pairs[:, :, 2]), axis=1)
    pairs = np.take_along_axis(pairs, order[:, :, None], axis=1)
    bright, faint = pairs[:, 0, 2], pairs[:, 1, 2]
    separation = np.hypot(pairs[:, 0, 0] - pairs[:, 1, 0], pairs[:, 0, 1] - pairs[:, 1, 1])
    near = np.hypot(pairs[:, :, 0] - fits.x[:, None], pairs[:, :, 1] - fits.y[:, None]) <= max_separation
    good = (results[:, 8] > min_gain) & near.all(axis=1)
    good &= (separation >= min_separation) & (separation <= max_separation)
    good &= faint * np.sign(bright) >= min_flux_ratio * np.abs(bright)
    index = np.flatnonzero(good)
    return Splits(
        parent=index,
        x=pairs[index, :, 0],
        y=pairs[index, :, 1],
        flux=pairs[index, :, 2],
        flux_error=np.sqrt(pairs[index, :, 3]),
        gain=results[index, 8],
    )
