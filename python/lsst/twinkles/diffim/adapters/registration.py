"""Give an exposure the celestial coordinates that follow from its stars being those of another."""

from __future__ import annotations

__all__ = ("RegisteredExposure", "RegistrationError", "register_exposure")

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, Sip
from astropy.wcs.utils import fit_wcs_from_points

from ..algorithms.read.sky import estimate_sky
from ..algorithms.read.stars import find_stars
from ..algorithms.warp.register import Registration, RegistrationError, register_stars
from .masks import bad_pixels
from .star_psf import SKY_MESH

if TYPE_CHECKING:
    from lsst.images import VisitImage

_LOG = logging.getLogger(__name__)

_MIN_SNR = 10.0
_MIN_MATCHED = 5
_N_STARS_MAX = 500
# Half sides of the stamps on which stars are measured, the larger ones for wide PSFs.
_HALVES = (7, 12)
_UNUSABLE = ("NO_DATA", "BAD", "SATURATED")
# Orders of the SIP polynomials, and nodes an axis of the grid that they are fitted on.
_HIGHEST_SIP = 5
_N_NODES = 15


@dataclass(frozen=True)
class RegisteredExposure:
    """An exposure on the sky of another.

    Attributes
    ----------
    exposure : `lsst.images.VisitImage`
        The exposure, with new celestial coordinates.
    registration : `Registration`
        From the array of its pixels to that of the other's.
    note : `str`
        A sentence on the match.
    """

    exposure: VisitImage
    registration: Registration
    note: str


def register_exposure(exposure: VisitImage, reference: VisitImage) -> RegisteredExposure:
    """Match the stars of an exposure with those of another.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure whose celestial coordinates are to be found; not modified.
    reference : `lsst.images.VisitImage`
        Exposure that has some, of the same sky; of any size, orientation and scale.

    Returns
    -------
    registered : `RegisteredExposure`
        The exposure with coordinates such that the stars of both stand at the same places of the sky.

    Raises
    ------
    RegistrationError
        If the stars do not tell how the two lie to each other.
    """
    error: RegistrationError | None = None
    for half in _HALVES:
        lists = [_star_positions(e, half) for e in (exposure, reference)]
        try:
            registration = register_stars(*lists, min_matched=_MIN_MATCHED)
            break
        except RegistrationError as problem:
            error = problem
    else:
        assert error is not None
        raise error
    wcs = _transformed_wcs(registration, _fits_wcs(reference), exposure.bbox.shape)
    note = (
        f"registered by {registration.n_matched} stars (a polynomial of order {registration.order}, scatter "
        f"{registration.scatter:.3f} pixels)"
    )
    return RegisteredExposure(_with_wcs(exposure, wcs, note), registration, note)


def _star_positions(exposure: VisitImage, half: int) -> np.ndarray:
    """Return array positions ``(N, 2)`` of stars, brightest first."""
    image = exposure.image.array
    bad = bad_pixels(exposure.mask, _UNUSABLE) | ~np.isfinite(image)
    sky = estimate_sky(np.where(bad, np.nan, image).astype(np.float32), bad, mesh=SKY_MESH)
    light = np.where(bad, 0.0, image - sky.level).astype(np.float32)
    stars = find_stars(light, sky.sigma, bad, min_snr=_MIN_SNR, half=half, n_max=_N_STARS_MAX)
    return np.stack([stars.x, stars.y], axis=1)


def _fits_wcs(reference: VisitImage) -> WCS:
    """Return the coordinates of an exposure as a FITS WCS of its array, fitted if they are not one."""
    wcs = reference.sky_projection.as_fits_wcs(reference.bbox, allow_approximation=True)
    if wcs is not None and wcs.wcs.ctype[0].startswith("RA---TAN"):
        return wcs
    x, y = _grid(reference.bbox.shape)
    box = reference.bbox
    sky = reference.sky_projection.pixel_to_sky(x=x + box.x.start, y=y + box.y.start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        return fit_wcs_from_points((x, y), sky, projection="TAN", sip_degree=3)


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of positions all over an array."""
    y, x = np.meshgrid(
        np.linspace(0, shape[0] - 1, _N_NODES), np.linspace(0, shape[1] - 1, _N_NODES), indexing="ij"
    )
    return x.ravel(), y.ravel()


def _transformed_wcs(registration: Registration, reference: WCS, shape: tuple[int, int]) -> WCS:
    """Return the TAN or TAN-SIP coordinates of the array that a registration maps to that of another WCS.

    The intermediate coordinates of the other, undistorted pixels about its reference point, are a polynomial
    of the position in this array: its linear part goes into the matrix, the rest becomes SIP.
    """
    order = registration.order if reference.sip is None else _HIGHEST_SIP
    x, y = _grid(shape)

    def focal(x: Any, y: Any) -> np.ndarray:
        there = registration.apply(x=x, y=y)
        if reference.sip is None:
            return np.stack([there[0] + 1 - reference.wcs.crpix[0], there[1] + 1 - reference.wcs.crpix[1]])
        return np.stack(reference.sip_pix2foc(there[0] + 1, there[1] + 1, 1))

    centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    exponents = [(n - j, j) for n in range(order + 1) for j in range(n + 1)]
    for _ in range(20):  # Newton's steps to the position that has no offset
        terms, scale = _terms(x - centre[0], y - centre[1], exponents)
        solution = np.linalg.lstsq(terms, focal(x, y).T, rcond=None)[0] / scale[:, None]
        matrix = solution[1:3].T
        step = np.linalg.solve(matrix, solution[0])
        centre = centre - step
        if np.abs(step).max() < 1e-9 or order == 1:
            break
    return _make_wcs(reference, matrix, centre, solution, exponents)


def _terms(u: np.ndarray, v: np.ndarray, exponents: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return a design matrix with columns of like size, and what they were divided by."""
    terms = np.stack([u**i * v**j for i, j in exponents], axis=1)
    scale = np.maximum(np.abs(terms).max(axis=0), 1e-300)
    return terms / scale, scale


def _make_wcs(
    reference: WCS,
    matrix: np.ndarray,
    centre: np.ndarray,
    solution: np.ndarray,
    exponents: list[tuple[int, int]],
) -> WCS:
    order = max(i + j for i, j in exponents)
    wcs = WCS(naxis=2)
    wcs.wcs.crval = reference.wcs.crval
    wcs.wcs.crpix = centre + 1.0
    wcs.wcs.cd = reference.pixel_scale_matrix @ matrix
    suffix = "-SIP" if order > 1 else ""
    wcs.wcs.ctype = f"RA---TAN{suffix}", f"DEC--TAN{suffix}"
    wcs.wcs.radesys = reference.wcs.radesys or "ICRS"
    if order > 1:
        undistorted = np.linalg.solve(matrix, solution.T)
        a, b = np.zeros((2, order + 1, order + 1))
        for k, (i, j) in enumerate(exponents):
            if i + j > 1:
                a[i, j], b[i, j] = undistorted[:, k]
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def _with_wcs(exposure: VisitImage, wcs: WCS, note: str) -> VisitImage:
    from .camera import make_sky_projection
    from .read_exposure import with_sky_projection

    frame = exposure.sky_projection.pixel_frame
    projection = make_sky_projection(wcs, visit=frame.visit, bbox=exposure.bbox, detector_bbox=frame.bbox)
    registered = with_sky_projection(exposure, projection)
    registered.metadata["registered"] = note
    return registered
