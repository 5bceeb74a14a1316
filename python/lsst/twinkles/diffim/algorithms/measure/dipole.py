"""Dipoles: what a static source leaves that is not at the same place in both images."""

from __future__ import annotations

__all__ = ("DipoleFits", "fit_dipole_sources")

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .dipole_nb import fit_dipoles
from .psf_fit import PsfFits, subtract_sources
from .spline_psf import SplinePsf


@dataclass(frozen=True)
class DipoleFits:
    """Fits of a dipole to each source; all ``(N,)``, NaN where ``attempted`` is `False`.

    Attributes
    ----------
    attempted : `numpy.ndarray`, bool
        Was a dipole fitted?
    flux, flux_error : `numpy.ndarray`
        Flux of the static source, the mean of both lobes.
    flux_difference, flux_difference_error : `numpy.ndarray`
        Flux of the positive lobe minus that of the negative one, if they were let differ.
    x, y, x_error, y_error : `numpy.ndarray`
        Middle of the lobes, pixels of the array.
    dx, dy, dx_error, dy_error, dxy_covariance : `numpy.ndarray`
        Vector from the negative to the positive lobe, pixels.
    moment_x, moment_y, moment_x_error, moment_y_error, moment_covariance : `numpy.ndarray`
        Flux times that vector, from the difference alone.
    chi2_nothing, chi2_point, chi2 : `numpy.ndarray`
        Chi square on the difference of no source, of the point source (or its partner of the other sign, if
        that explains more), and of the dipole.
    n_pixels : `numpy.ndarray`, int
        Pixels of the difference that went in.
    """

    attempted: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    flux_difference: np.ndarray
    flux_difference_error: np.ndarray
    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    dx_error: np.ndarray
    dy_error: np.ndarray
    dxy_covariance: np.ndarray
    moment_x: np.ndarray
    moment_y: np.ndarray
    moment_x_error: np.ndarray
    moment_y_error: np.ndarray
    moment_covariance: np.ndarray
    chi2_nothing: np.ndarray
    chi2_point: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray


def fit_dipole_sources(
    images: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: tuple[np.ndarray, np.ndarray, np.ndarray],
    psfs: tuple[PsfGrid | SplinePsf, PsfGrid | SplinePsf, PsfGrid | SplinePsf],
    fits: PsfFits,
    which: np.ndarray,
    *,
    half: int,
    fwhm: float,
    partner_radius: float,
    max_separation: float,
    relative_weight: float,
    iterations: int,
    residual: np.ndarray | None = None,
    weight_factors: tuple[float, float] = (1.0, 1.0),
) -> DipoleFits:
    """Fit dipoles to difference, science image and template at once.

    Parameters
    ----------
    images, weights : 3-tuples of `numpy.ndarray`, ``(Ny, Nx)``
        Difference, science image and template (without sky, on the flux scale of the science image), and
        their inverse variances.
    psfs : 3-tuple of `PsfGrid` or `SplinePsf`
        Their PSFs.
    fits : `PsfFits`
        Positions and fluxes on the difference.
    which : `numpy.ndarray`, ``(N,)``, bool
        Sources to try.
    half : `int`
        Half side in pixels of the squares that are fitted.
    fwhm : `float`
        FWHM of the PSF of the difference, pixels.
    partner_radius : `float`
        Farthest a source of the other sign may lie to be the other lobe, pixels.
    max_separation : `float`
        Greatest separation of the lobes that the fit allows, pixels.
    relative_weight : `float`
        Weight of the direct images against that of the difference: 1 is that of their noise.
    iterations : `int`
        Most steps of a fit.
    residual : `numpy.ndarray`, ``(Ny, Nx)``, float32, optional
        The difference without the sources, where it has been made already (`subtract_sources`).
    weight_factors : 2-tuple of `float`, optional
        Factors on the weights of science image and template, below 1 where their noise is correlated.

    Returns
    -------
    dipoles : `DipoleFits`
        One for each source of ``fits``.

    Notes
    -----
    The static source has the flux ``F``; it is at ``c + d/2`` in the science image and at ``c - d/2`` in the
    template. The difference alone tells ``F d``, where ``d`` is small, and the direct images tell ``F``. The
    noise of the difference is that of the direct images: what is fitted beside it is their mean, weighted
    with the inverse variances, whose noise is independent of it. Where that mean does not fit (galaxies,
    neighbours; a reduced chi square 3 standard deviations above 1) it is given less weight by that, and tells
    the flux only, of all light in its place: ``d`` is then the moment, which is always that of a fit to the
    difference alone, over the flux.
    """
    index = np.flatnonzero(which)
    partner = _partners(fits, partner_radius)[index]
    pairs = np.column_stack([index, partner]).astype(np.int64)
    x = np.where(partner >= 0, 0.5 * (fits.x[index] + fits.x[partner]), fits.x[index])
    y = np.where(partner >= 0, 0.5 * (fits.y[index] + fits.y[partner]), fits.y[index])
    reach = half + int(np.ceil(max(max_separation, partner_radius) + fwhm))
    splines = [SplinePsf.from_grid(psf, reach=reach) for psf in psfs]
    if residual is None:
        residual = subtract_sources(images[0], splines[0], fits)
    direct = [np.ascontiguousarray(a, np.float32) for k in (1, 2) for a in (images[k], weights[k])]
    results = np.zeros((len(index), 24))
    run_in_threads(
        fit_dipoles, len(index), residual, np.ascontiguousarray(weights[0], np.float32), *direct,
        *_join_splines(splines, x, y), half, fits.x, fits.y, np.nan_to_num(fits.flux), pairs,
        np.column_stack([np.round(x), np.round(y)]).astype(np.int64), int(np.ceil(fwhm)), max_separation,
        relative_weight, np.array(weight_factors, float), iterations, results,
    )  # fmt: skip
    return _as_dipoles(results, index, len(fits.x))


def _join_splines(
    splines: list[SplinePsf], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the coefficients of several PSFs in one array, with nodes in it, and shares, ``(K, N, 4)``."""
    base = max(spline.coefficients.shape[-1] for spline in splines)
    parts, nodes, shares, total = [], [], [], 0
    for spline in splines:
        rim = (base - spline.coefficients.shape[-1]) // 2
        parts.append(np.pad(spline.coefficients, [(0, 0)] * 3 + [(rim, rim)] * 2))
        node, share = spline.nodes_at(x=x, y=y)
        nodes.append(node + total)
        shares.append(share)
        total += len(spline.coefficients)
    return np.concatenate(parts), np.stack(nodes), np.stack(shares)


def _partners(fits: PsfFits, radius: float) -> np.ndarray:
    """Return for each source the brightest one of the other sign within a radius; -1 where there is none."""
    partner = np.full(len(fits.x), -1)
    if len(fits.x) < 2:
        return partner
    pairs = cKDTree(np.column_stack([fits.x, fits.y])).query_pairs(radius, output_type="ndarray")
    pairs = pairs[fits.flux[pairs[:, 0]] * fits.flux[pairs[:, 1]] < 0]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    order = np.argsort(np.abs(fits.flux[both[:, 1]]), kind="stable")
    partner[both[order, 0]] = both[order, 1]  # of several the last, the brightest, stays
    return partner


def _as_dipoles(results: np.ndarray, index: np.ndarray, n: int) -> DipoleFits:
    solved = results[:, 18] > 0
    rows, good = np.full((n, results.shape[1]), np.nan), index[solved]
    rows[good] = results[solved]
    attempted = np.zeros(n, dtype=bool)
    attempted[good] = True
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(rows[:, 5:12])
    return DipoleFits(
        attempted=attempted,
        flux=rows[:, 0], flux_error=errors[:, 0],
        flux_difference=rows[:, 10], flux_difference_error=errors[:, 6],
        x=rows[:, 1], y=rows[:, 2], x_error=errors[:, 1], y_error=errors[:, 2],
        dx=rows[:, 3], dy=rows[:, 4], dx_error=errors[:, 3], dy_error=errors[:, 4],
        dxy_covariance=rows[:, 12],
        moment_x=rows[:, 19], moment_y=rows[:, 20],
        moment_x_error=np.sqrt(rows[:, 21]), moment_y_error=np.sqrt(rows[:, 22]),
        moment_covariance=rows[:, 23],
        chi2_nothing=rows[:, 13], chi2_point=rows[:, 14], chi2=rows[:, 15],
        n_pixels=np.nan_to_num(rows[:, 16]).astype(int),
    )  # fmt: skip
