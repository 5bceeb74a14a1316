"""Positions and fluxes of point sources."""

from __future__ import annotations

__all__ = ("ForcedFluxes", "PsfFits", "fit_point_sources", "measure_forced_fluxes", "subtract_sources")

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .group_fit_nb import fit_groups
from .groups import Groups, link_groups
from .spline_psf import SplinePsf
from .spline_psf_nb import add_sources, force_fluxes

_LEAST_SNR = 3.0


@dataclass(frozen=True)
class PsfFits:
    """Fits of a point source to each position; all ``(N,)``.

    Attributes
    ----------
    x, y : `numpy.ndarray`
        Centroids in pixels of the array.
    x_error, y_error, xy_covariance : `numpy.ndarray`
        Their standard errors and covariance.
    flux, flux_error : `numpy.ndarray`
        PSF flux at the centroid and its standard error (position free).
    chi2, n_pixels : `numpy.ndarray`
        Chi square of the fit and pixels that went in.
    failed : `numpy.ndarray`, bool
        No centroid was found: the position is that of the peak, the errors are NaN.
    group, group_size : `numpy.ndarray`, int
        Number of the blend that it was fitted in, and how many sources that has.
    """

    x: np.ndarray
    y: np.ndarray
    x_error: np.ndarray
    y_error: np.ndarray
    xy_covariance: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    chi2: np.ndarray
    n_pixels: np.ndarray
    failed: np.ndarray
    group: np.ndarray
    group_size: np.ndarray

    def scaled(self, factor: float) -> PsfFits:
        """Return the same with errors multiplied by a factor."""
        return replace(
            self,
            x_error=self.x_error * factor,
            y_error=self.y_error * factor,
            xy_covariance=self.xy_covariance * factor**2,
            flux_error=self.flux_error * factor,
        )

    def corrected(self) -> PsfFits:
        """Return the same without the bias that a free position leaves, and with errors to second order.

        Notes
        -----
        The flux is that of the highest point of a noisy peak: it is high by ``sigma**2 / f`` on average, for
        each of the two coordinates gains half of that (the gain is ``chi^2_2 / (2 s)`` errors, ``s`` the
        signal-to-noise ratio). Errors of positions are those of the linearised fit times
        ``sqrt(1 + 7 / s**2)``: 4 from the noise of the curvature at the peak, by an expansion to third order
        for a Gaussian PSF, and 3 from ``s`` itself, which is noisy and high. Both matter below ``s = 15``;
        ``s`` counts as 3 at least.
        """
        with np.errstate(invalid="ignore"):
            snr = np.maximum(np.abs(self.flux / self.flux_error), _LEAST_SNR)
        wider = np.sqrt(1.0 + 7.0 / snr**2)
        flux = np.where(self.failed, self.flux, self.flux * (1.0 - 1.0 / snr**2))
        return replace(
            self,
            flux=flux,
            x_error=self.x_error * wider,
            y_error=self.y_error * wider,
            xy_covariance=self.xy_covariance * wider**2,
        )


@dataclass(frozen=True)
class ForcedFluxes:
    """PSF fluxes at given positions; all ``(N,)``, NaN where no pixel could be used."""

    flux: np.ndarray
    error: np.ndarray
    n_pixels: np.ndarray


def fit_point_sources(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    *,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
    max_shift: float,
    link: float,
    most: int,
    iterations: int,
    rounds: int,
) -> PsfFits:
    """Fit positions and fluxes of point sources, those of a blend at once.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Image with white noise, finite where ``weight`` is positive.
    weight : `numpy.ndarray`, ``(Ny, Nx)``
        Inverse variance; 0 for pixels that are not used.
    psf : `PsfGrid` or `SplinePsf`
        PSF.
    x, y : `numpy.ndarray`, ``(N,)``
        First positions, in pixels of the array.
    half : `int`
        Half side of the squares of pixels that are fitted; a blend is fitted in those of all its sources.
    max_shift : `float`
        Farthest a centroid may move from its first position, pixels.
    link : `float`
        Sources closer than this, in pixels, are fitted at once, and so are those that they link.
    most : `int`
        Most sources that are fitted at once; larger blends are cut where their links are longest.
    iterations : `int`
        Most steps of each fit.
    rounds : `int`
        How often sources with neighbours outside their blend are fitted, each time with these subtracted.

    Returns
    -------
    fits : `PsfFits`
        Results in the order of the positions.

    Notes
    -----
    Least squares by Levenberg and Marquardt's steps; errors are those of the inverse of the normal matrix of
    all fluxes and positions of a blend, so that they count what its sources take from each other.
    """
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    first = np.column_stack([x, y])
    least = half + int(np.ceil(max_shift))
    spline = SplinePsf.from_grid(psf, reach=least)
    reach = max(least, spline.extent)
    nodes, shares = spline.nodes_at(x=x, y=y)
    groups = link_groups(x, y, length=link, most=most)
    pixels, weights = _single(image), _single(weight)
    flux, results = np.zeros(len(x)), np.zeros((len(x), 9))
    which = np.arange(len(groups.sizes))
    room: np.ndarray | None = None
    for number in range(max(1, rounds)):
        members, starts = groups.take(which)
        residual, placed = pixels, np.column_stack([x, y, flux])
        if number:
            # Only groups that have outsiders are fitted anew, and these are in such groups, too.
            room = np.empty_like(pixels) if room is None else room
            room[:] = pixels
            residual = room
            _add(residual, spline, nodes[members], shares[members], x[members], y[members], -flux[members])
        run_in_threads(
            fit_groups, len(starts) - 1, residual, weights, spline.coefficients, nodes, shares, reach, half,
            first, members, starts, placed, 0.0, x, y, flux, float(max_shift), iterations, results,
        )  # fmt: skip
        if number == 0:
            which = _with_outsiders(first, groups, half + reach)
        if len(which) == 0:
            break
    return _as_fits(x, y, flux, results, groups)


def _add(
    image: np.ndarray,
    spline: SplinePsf,
    nodes: np.ndarray,
    shares: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
) -> None:
    """Add point sources to an image in place, as far as the PSF reaches."""
    run_in_threads(
        add_sources, len(image), image, spline.coefficients, nodes, shares, x, y, flux, spline.extent
    )


def subtract_sources(image: np.ndarray, psf: SplinePsf, fits: PsfFits) -> np.ndarray:
    """Return a single-precision copy of an image without the point sources that were fitted to it.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Image.
    psf : `SplinePsf`
        PSF.
    fits : `PsfFits`
        Positions and fluxes; those without a flux leave the image as it is.
    """
    out = np.array(image, dtype=np.float32, order="C")
    nodes, shares = psf.nodes_at(x=fits.x, y=fits.y)
    _add(out, psf, nodes, shares, fits.x, fits.y, -fits.flux)
    return out


def _single(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image, dtype=np.float32)


def _with_outsiders(first: np.ndarray, groups: Groups, radius: float) -> np.ndarray:
    """Return the groups that have a position of another group within a radius of one of theirs."""
    if len(first) < 2:
        return np.zeros(0, dtype=int)
    pairs = cKDTree(first).query_pairs(radius, p=np.inf, output_type="ndarray")
    a, b = groups.number[pairs[:, 0]], groups.number[pairs[:, 1]]
    return np.unique(np.concatenate([a[a != b], b[a != b]]))


def _as_fits(x: np.ndarray, y: np.ndarray, flux: np.ndarray, results: np.ndarray, groups: Groups) -> PsfFits:
    failed = results[:, 8] > 0
    gone = np.where(failed, np.nan, 1.0)
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(results[:, :3])
    return PsfFits(
        x=x,
        y=y,
        x_error=errors[:, 1] * gone,
        y_error=errors[:, 2] * gone,
        xy_covariance=results[:, 3] * gone,
        flux=flux,
        flux_error=errors[:, 0],
        chi2=results[:, 6],
        n_pixels=results[:, 7].astype(int),
        failed=failed,
        group=groups.number,
        group_size=groups.sizes[groups.number] if len(x) else np.zeros(0, np.int64),
    )


def measure_forced_fluxes(
    image: np.ndarray,
    weight: np.ndarray,
    psf: PsfGrid | SplinePsf,
    *,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
) -> ForcedFluxes:
    """Measure PSF fluxes at given positions.

    Parameters
    ----------
    image, weight, psf, half
        As in `fit_point_sources`.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions in pixels of the array.

    Notes
    -----
    ``sum(w P I) / sum(w P**2)``, the least-squares amplitude of the PSF.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    spline = SplinePsf.from_grid(psf, reach=half)
    nodes, shares = spline.nodes_at(x=x, y=y)
    sums = np.zeros((len(x), 4))
    run_in_threads(
        force_fluxes, len(x), _single(image), _single(weight), spline.coefficients, nodes, shares, x, y, half,
        sums,
    )  # fmt: skip
    good = sums[:, 1] > 0.0
    power = np.where(good, sums[:, 1], np.nan)
    return ForcedFluxes(sums[:, 0] / power, power**-0.5, sums[:, 2].astype(int))
