"""Measure the PSF of an image from its stars, with Piff."""

from __future__ import annotations

__all__ = ("SKY_MESH", "StarPsf", "measure_image_psf", "measure_psf")

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.read.sky import estimate_sky
from ..algorithms.read.stars import StarSample, find_psf_stars, outshone_pixels
from .psfs import FWHM_PER_SIGMA, InvalidPsfError

if TYPE_CHECKING:
    from lsst.images import Box
    from lsst.images.psfs import PiffWrapper

SKY_MESH = 64
"""Side of the cells in which sky and scatter are estimated, in pixels."""

_SEARCH_HALF = 15
_N_STARS_MAX = 100
# Radius of the stamps in FWHM, and grid cells per FWHM (never finer than the pixels): enough for the wings
# and for the resolution, and few enough parameters for the fit to take seconds.
_RADIUS_IN_FWHM = 3.0
_CELLS_PER_FWHM = 3.0
_N_ITERATIONS = 4
# Signal-to-noise ratios to try in turn, until there are enough stars.
_MIN_SNR = (50.0, 25.0, 12.0)
# Least number of stars for a pixel grid, and for orders one and two of its variation.
_N_FOR_GRID = 4
_N_FOR_ORDER = {2: 60, 1: 20}
# Ratio of widths, or of peaks, and negative value over the peak that no model of true stars has.
_LARGEST_VARIATION = 1.4
_LEAST_VALUE = -0.1


@dataclass(frozen=True)
class StarPsf:
    """A PSF and how it came about.

    Attributes
    ----------
    psf : `lsst.images.psfs.PiffWrapper`
        The model.
    note : `str`
        A sentence on stars, model and width.
    """

    psf: PiffWrapper
    note: str


def measure_image_psf(image: np.ndarray, variance: np.ndarray, bad: np.ndarray, bbox: Box) -> StarPsf:
    """Fit a PSF to the stars of an image the sky of which is still in it.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels and their variances; those that are ``bad`` may be anything.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels not to use.
    bbox : `lsst.images.Box`
        Pixel frame of the image.

    Returns
    -------
    result : `StarPsf`
        PSF valid over ``bbox``.

    Raises
    ------
    InvalidPsfError
        If no star is found, the fit fails or nothing is left of the image.
    """
    try:
        sky = estimate_sky(np.where(bad, np.nan, image).astype(np.float32), bad, mesh=SKY_MESH)
    except ValueError as error:
        raise InvalidPsfError(f"No PSF can be measured: {error}") from error
    light = np.where(bad, 0.0, image - sky.level).astype(np.float32)
    positive = np.isfinite(variance) & (variance > 0)
    return measure_psf(light, sky.sigma, np.where(positive, variance, np.inf), bad | ~positive, bbox)


def measure_psf(
    image: np.ndarray, sigma: np.ndarray, variance: np.ndarray, bad: np.ndarray, bbox: Box
) -> StarPsf:
    """Find the stars of an image and fit a PSF to them.

    A pixel grid whose values are polynomials of position, of an order that the number of stars allows; a
    constant Moffat profile where there are fewer than four stars.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted pixels, finite.
    sigma : `numpy.ndarray`, ``(Ny, Nx)``
        Standard deviation of a sky pixel.
    variance : `numpy.ndarray`, ``(Ny, Nx)``
        Variance of each pixel.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels not to use.
    bbox : `lsst.images.Box`
        Pixel frame of the image.

    Returns
    -------
    result : `StarPsf`
        PSF valid over ``bbox``.

    Raises
    ------
    InvalidPsfError
        If no star is found or the fit fails.
    """
    from lsst.images.psfs import PiffWrapper

    stars = _select_stars(image, sigma, bad)
    fwhm = FWHM_PER_SIGMA * float(np.median(stars.sigma))
    scale = max(1.0, fwhm / _CELLS_PER_FWHM)
    size = 2 * math.ceil(_RADIUS_IN_FWHM * fwhm / scale) + 1
    half = math.ceil(size * scale / 2)  # Piff wants stamps that cover the grid
    inside = (
        (np.minimum(stars.x, stars.y) > half)
        & (stars.x < bbox.x.size - half)
        & (stars.y < bbox.y.size - half)
    )
    if inside.sum() >= min(len(stars), _N_FOR_GRID):
        stars = stars.take(inside)
    order = next((o for o, n in _N_FOR_ORDER.items() if len(stars) >= n), 0)
    weight = np.where(bad, 0.0, 1.0 / variance)
    with np.errstate(invalid="ignore"):
        noise = float(np.sqrt(np.median(variance[~bad]))) if not bad.all() else 0.0
    outshone = outshone_pixels(image, sigma, stars, half=half, noise=noise)
    samples = [
        _piff_star(image, weight, x=x, y=y, half=half, bbox=bbox, outshone=hidden)
        for x, y, hidden in zip(stars.x, stars.y, outshone, strict=True)
    ]
    for kind in _kinds(len(stars), order):
        psf = _fit(samples, size=size, scale=scale, order=kind)
        wrapper = PiffWrapper(psf, bbox, 2 * half + 1)
        if kind is None or _is_credible(wrapper, bbox, fwhm):
            break
    model = "a constant Moffat profile" if kind is None else f"a pixel grid of order {kind}"
    note = f"PSF measured from {len(stars)} stars with Piff: {model}, FWHM {fwhm:.2f} pixels"
    return StarPsf(psf=wrapper, note=note)


def _kinds(n_stars: int, order: int) -> list[int | None]:
    """Return the orders of pixel grids to try, and `None` for a constant Moffat profile."""
    return [*range(order, -1, -1), None] if n_stars >= _N_FOR_GRID else [None]


def _is_credible(psf: PiffWrapper, bbox: Box, fwhm: float) -> bool:
    """Tell whether a model looks like the stars: as wide as they are all over the image, and hardly negative.

    A pixel grid that blends, or too few stars, do not determine comes out as anything.
    """
    from .psfs import psf_fwhm, sample_psf

    try:
        grid = sample_psf(psf, bbox, grid=4)
        stamps = grid.stamps.reshape(-1, *grid.stamps.shape[2:])
        widths = np.array([psf_fwhm(type(grid).constant(stamp)) for stamp in stamps])
    except InvalidPsfError:
        return False
    peaks = stamps.max(axis=(1, 2))
    steady = peaks.max() < _LARGEST_VARIATION * peaks.min()
    similar = np.abs(np.log(widths / fwhm)) < np.log(_LARGEST_VARIATION)
    return bool(steady and similar.all() and (stamps.min(axis=(1, 2)) > _LEAST_VALUE * peaks).all())


def _select_stars(image: np.ndarray, sigma: np.ndarray, bad: np.ndarray) -> StarSample:
    """Return as many good stars as there are, less good ones where those are few."""
    best: StarSample | None = None
    for min_snr in _MIN_SNR:
        for half in (_SEARCH_HALF, _SEARCH_HALF // 2):
            stars = find_psf_stars(image, sigma, bad, min_snr=min_snr, half=half, n_max=_N_STARS_MAX)
            if best is None or len(stars) > 1.5 * len(best):
                best = stars
            if len(best) >= _N_FOR_ORDER[1]:
                return best
    assert best is not None
    if len(best) == 0:
        raise InvalidPsfError(
            "The image has no PSF, and none of its stars can tell it: no isolated, unsaturated one with "
            f"S/N > {_MIN_SNR[-1]:.0f} was found. Add an extension PSF (one stamp) or PSFGRID and PSFPOS to "
            "the file."
        )
    return best


def _piff_star(
    image: np.ndarray,
    weight: np.ndarray,
    *,
    x: float,
    y: float,
    half: int,
    bbox: Box,
    outshone: np.ndarray,
) -> Any:
    """Cut a star out for Piff, in the pixel frame of the exposure; pixels of neighbours have no weight."""
    import galsim
    import piff

    ny, nx = image.shape
    i, j = round(float(x)), round(float(y))
    rows, columns = (
        slice(max(j - half, 0), min(j + half + 1, ny)),
        slice(max(i - half, 0), min(i + half + 1, nx)),
    )
    origin = {"xmin": columns.start + bbox.x.start, "ymin": rows.start + bbox.y.start}
    wcs = galsim.PixelScale(1.0)
    stamp = galsim.Image(image[rows, columns].astype(float), wcs=wcs, **origin)
    rest = outshone[rows.start - j + half : rows.stop - j + half, columns.start - i + half :]
    used = np.where(rest[:, : columns.stop - columns.start], 0.0, weight[rows, columns])
    weights = galsim.Image(used.astype(float), wcs=wcs, **origin)
    position = galsim.PositionD(float(x) + bbox.x.start, float(y) + bbox.y.start)
    return piff.Star(piff.StarData(stamp, image_pos=position, weight=weights), None)


def _fit(samples: list[Any], *, size: int, scale: float, order: int | None) -> Any:
    """Fit a Piff PSF and strip it of what `lsst.images` does not store."""
    import galsim
    import piff

    if order is not None:
        model = piff.PixelGrid(scale=scale, size=size, interp="Lanczos(11)")
        # The faster solver "cpp" may end the process (SIGFPE): Eigen divides by zero where it chooses the
        # size of blocks for some sizes of matrices, seen on processors with very large caches.
        interp = _fast_polynomial(order)
        outliers = piff.ChisqOutliers(nsigma=4.0, max_remove=0.05)
    else:
        model, interp, outliers = piff.Moffat(beta=3.0, fastfit=True), piff.Mean(), None
    psf = piff.SimplePSF(model, interp, outliers, max_iter=_N_ITERATIONS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            psf.fit(samples, {0: galsim.PixelScale(1.0)}, None)
    except Exception as error:  # Piff raises whatever numpy and galsim meet
        raise InvalidPsfError(
            f"The PSF fit to {len(samples)} stars failed ({error}); add an extension PSF (one stamp) to the "
            "file."
        ) from error
    if isinstance(interp, piff.BasisPolynomial):  # of a class that others know
        psf.interp = piff.BasisPolynomial(order=order, solver="scipy")
        psf.interp.q = interp.q
    return psf


def _fast_polynomial(order: int) -> Any:
    """Return Piff's polynomial of pixel grids, with normal equations that are summed in one matrix product.

    Piff adds an outer product of the whole matrix for every star, which takes most of the time of a fit.
    """
    import piff
    from scipy.linalg import LinAlgError, solve

    class FastPolynomial(piff.BasisPolynomial):
        _type_name = None  # not a type that files have

        def _solve_direct_python(self, stars: list[Any], logger: Any) -> None:
            basis = np.array([self.basis(star) for star in stars])
            alpha = np.array([star.fit.alpha for star in stars])
            beta = np.array([star.fit.beta for star in stars])
            n_params, n_terms = self.q.shape
            products = (basis[:, :, None] * basis[:, None, :]).reshape(len(stars), -1)
            matrix = (products.T @ alpha.reshape(len(stars), -1)).reshape(
                n_terms, n_terms, n_params, n_params
            )
            matrix = matrix.transpose(2, 0, 3, 1).reshape(self.q.size, self.q.size)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a high condition number does no harm here
                    step = solve(matrix, (beta.T @ basis).ravel(), assume_a="pos", check_finite=False)
            except LinAlgError:
                super()._solve_direct_python(stars, logger)
            else:
                self.q += step.reshape(self.q.shape)

    return FastPolynomial(order=order, solver="scipy")
