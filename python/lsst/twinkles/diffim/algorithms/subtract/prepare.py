"""What an image needs before it is matched: sky away, holes filled, noise measured."""

from __future__ import annotations

__all__ = ("PreparedImage", "doubt_interpolation", "fill_bleed_trails", "fill_holes", "prepare_image")

from dataclasses import dataclass

import numpy as np

from ..fill_nb import fill_rows, fill_trails
from ..in_threads import run_in_threads
from ..match.match import MatchInput
from ..noise import fit_sky, measure_photon_variance, pixel_noise_ratio, sky_variance_map
from ..psf_grid import PsfGrid
from ..spatial import chebyshev_image
from .doubt import Doubt

_LONGEST_RUN = 12
# Longest run behind which no star can hide from its neighbours.
_TRUSTED_RUN = 3
# Widest bleed trail that is interpolated, and the share of what it then holds that may be wrong.
_WIDEST_TRAIL = 24
_TRAIL_ERROR = 0.2


@dataclass(frozen=True)
class PreparedImage:
    """An image ready for matching, and what was taken from it.

    Attributes
    ----------
    data : `MatchInput`
        Sky-subtracted image without holes, its bad pixels, noise and PSF.
    sky : `numpy.ndarray`
        Chebyshev coefficients of the sky that was subtracted.
    holes : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels without a value of their own.
    interpolated : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Holes so narrow that no star can hide in them.
    saturation, interpolation : `Doubt`
        What saturated pixels, and interpolated holes, may be wrong by.
    noise_ratio : `float`
        Scatter of neighbouring pixels over what the variance plane claims; NaN if unknown.
    """

    data: MatchInput
    sky: np.ndarray
    holes: np.ndarray
    interpolated: np.ndarray
    saturation: Doubt
    interpolation: Doubt
    noise_ratio: float


def fill_holes(image: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Return a copy of a sky-subtracted image without its holes.

    Narrow holes are interpolated along x, wide ones and those at the rim get
    the sky, which is zero.
    """
    filled = np.array(image, dtype=np.float32)
    run_in_threads(fill_rows, len(filled), filled, holes, _LONGEST_RUN, np.float32(0.0))
    return filled


def doubt_interpolation(image: np.ndarray, holes: np.ndarray, sigma: float) -> tuple[np.ndarray, Doubt]:
    """Return which holes are so narrow that their interpolation can be trusted, and what it may be wrong by.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Filled image (see `fill_holes`).
    holes : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that were filled.
    sigma : `float`
        Noise of a pixel.

    Notes
    -----
    The error of a linear interpolation shows in how far the next pixels beyond the run's neighbours are off
    the straight line; three sigma of it are put down to noise.
    """
    nx = holes.shape[1]
    pixels = np.flatnonzero(holes)
    # A run ends where the next hole is not the next pixel of the row.
    ends = (np.diff(pixels, append=-1) != 1) | (pixels % nx == nx - 1)
    last_pixel = pixels[ends]
    first_pixel = pixels[np.concatenate([[True], ends[:-1]])] if len(pixels) else pixels
    rows, first = np.divmod(first_pixel, nx)
    last = first + (last_pixel - first_pixel)
    inside = (first > 0) & (last < nx - 1) & (last - first < _TRUSTED_RUN)
    rows, first, last = rows[inside], first[inside], last[inside]
    left, right = image[rows, first - 1], image[rows, last + 1]
    outer_left, outer_right = image[rows, np.maximum(first - 2, 0)], image[rows, np.minimum(last + 2, nx - 1)]
    bend = 0.5 * np.abs(left + right - outer_left - outer_right)
    error = np.maximum(bend - 3.0 * sigma, 0.0)
    length = last - first + 1
    rows, values = np.repeat(rows, length), np.repeat(error, length)
    cols = np.repeat(first, length) + np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    interpolated = np.zeros(holes.shape, dtype=bool)
    interpolated[rows, cols] = True
    wrong = values > 0
    return interpolated, Doubt(rows[wrong], cols[wrong], values[wrong].astype(np.float32))


def fill_bleed_trails(image: np.ndarray, saturated: np.ndarray, psf: np.ndarray) -> Doubt:
    """Interpolate over bleed trails, in place; the cores of saturated stars are left alone.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Sky-subtracted image; changed.
    saturated : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Saturated pixels, trails included.
    psf : `numpy.ndarray`, ``(S, S)``
        PSF, which tells a trail from a core: light of a star does not end so abruptly.

    Returns
    -------
    doubt : `Doubt`
        A pixel of a core is taken to be wrong by as much as it has, one of a trail by a fifth of what it got.
    """
    filled = np.zeros(image.shape, dtype=bool)
    # Of a flat array: several times as fast as `numpy.nonzero` of a plane.
    rows, cols = np.divmod(np.flatnonzero(saturated), saturated.shape[1])
    if len(rows):
        half = psf.shape[0] // 2
        arms = (
            np.minimum(psf[half, half:], psf[half, half::-1]),
            np.minimum(psf[half:, half], psf[half::-1, half]),
        )
        for turned, arm in ((False, arms[0]), (True, arms[1])):
            views = (a.T if turned else a for a in (image, saturated & ~filled, filled))
            profile = np.maximum(arm / psf[half, half], 0.0).astype(np.float32)
            picture, marks, done = views
            run_in_threads(fill_trails, len(picture), picture, marks, profile, _WIDEST_TRAIL, done)
    share = np.where(filled[rows, cols], np.float32(_TRAIL_ERROR), np.float32(1.0))
    return Doubt(rows, cols, share * np.maximum(image[rows, cols], np.float32(0.0)))


def prepare_image(
    image: np.ndarray,
    variance: np.ndarray,
    *,
    bad: np.ndarray,
    holes: np.ndarray,
    saturated: np.ndarray,
    psf: PsfGrid,
    sky_cell: int,
    sky_order: int,
    noise_cell: int,
) -> PreparedImage:
    """Subtract the sky, fill holes and measure the noise.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Counts and their variance; may be anything where ``bad``.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that are not to be trusted: holes, saturated pixels.
    holes : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Those that have no value at all.
    saturated : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Those that are saturated, bleed trails included.
    psf : `PsfGrid`
        PSF in array coordinates.
    sky_cell, sky_order : `int`
        Side in pixels of the cells whose clipped medians make the sky, and degree of its polynomial.
    noise_cell : `int`
        Side in pixels of the cells in which the variance of blank sky is taken.

    Returns
    -------
    prepared : `PreparedImage`
        The image; the inputs are not modified.

    Raises
    ------
    ValueError
        No pixel can be used.
    """
    sky = fit_sky(image, bad, size=sky_cell, order=sky_order)
    flat = np.subtract(image, chebyshev_image(sky, shape=image.shape, order=sky_order), dtype=np.float32)
    run_in_threads(fill_rows, len(flat), flat, holes, _LONGEST_RUN, np.float32(0.0))
    noise = sky_variance_map(variance, bad, size=noise_cell)
    step = max(1, image.shape[0] // 1024)
    rows = slice(None, None, step)
    sampled = noise.image(image.shape, row_step=step)
    photon = measure_photon_variance(flat[rows], variance[rows], sampled, bad[rows])
    ratio = pixel_noise_ratio(flat, noise, bad)
    known = ratio if np.isfinite(ratio) else 1.0
    interpolated, interpolation = doubt_interpolation(flat, holes, float(np.sqrt(noise.median)))
    saturation = fill_bleed_trails(flat, saturated & ~holes, psf.mean())
    data = MatchInput(image=flat, bad=bad, sky=noise, photon=photon, psf=psf, noise_ratio=known)
    return PreparedImage(
        data=data,
        sky=sky,
        holes=holes,
        interpolated=interpolated,
        saturation=saturation,
        interpolation=interpolation,
        noise_ratio=ratio,
    )
