"""What an image needs before it is matched: sky away, holes filled, noise measured."""

from __future__ import annotations

__all__ = ("PreparedImage", "fill_holes", "prepare_image")

from dataclasses import dataclass

import numpy as np

from ..fill_nb import fill_rows
from ..match.match import MatchInput
from ..noise import fit_sky, measure_photon_variance, pixel_noise_ratio, sky_variance_map
from ..psf_grid import PsfGrid
from ..spatial import chebyshev_image

_LONGEST_RUN = 12


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
    noise_ratio : `float`
        Scatter of neighbouring pixels over what the variance plane claims; NaN if unknown.
    """

    data: MatchInput
    sky: np.ndarray
    holes: np.ndarray
    noise_ratio: float


def fill_holes(image: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Return a copy of a sky-subtracted image without its holes.

    Narrow holes are interpolated along x, wide ones and those at the rim get
    the sky, which is zero.
    """
    filled = np.array(image, dtype=np.float32)
    fill_rows(filled, holes, _LONGEST_RUN, np.float32(0.0))
    return filled


def prepare_image(
    image: np.ndarray,
    variance: np.ndarray,
    *,
    bad: np.ndarray,
    holes: np.ndarray,
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
    level = chebyshev_image(sky, shape=image.shape, order=sky_order)
    flat = fill_holes(np.where(holes, np.float32(0.0), image - level), holes)
    noise = sky_variance_map(variance, bad, size=noise_cell)
    step = slice(None, None, max(1, image.shape[0] // 1024))
    photon = measure_photon_variance(flat[step], variance[step], noise.image(image.shape)[step], bad[step])
    ratio = pixel_noise_ratio(flat, noise, bad)
    known = ratio if np.isfinite(ratio) else 1.0
    data = MatchInput(image=flat, bad=bad, sky=noise, photon=photon, psf=psf, noise_ratio=known)
    return PreparedImage(data=data, sky=sky, holes=holes, noise_ratio=ratio)
