"""How deep an image, or the best possible difference of two, goes for point sources."""

from __future__ import annotations

__all__ = ("PSF_POWER_SIDE", "difference_flux_error", "flux_error", "limiting_magnitude", "psf_power")

import numpy as np

from ..fourier import half_plane_weights, transform_stamps
from ..psf_grid import PsfGrid

PSF_POWER_SIDE = 64
"""Side of the transforms in which the power of a PSF is kept, pixels."""

_ZERO_POINT_NJY = 31.4  # AB magnitude of 1 nJy
_TINY = 1e-300


def psf_power(psf: PsfGrid, *, side: int = PSF_POWER_SIDE) -> np.ndarray:
    """Return the power spectrum of a PSF, averaged over the image.

    Parameters
    ----------
    psf : `PsfGrid`
        Unit-sum stamps; what of them lies beyond ``side`` pixels is cut off.
    side : `int`, optional
        Side of the transform.

    Returns
    -------
    power : `numpy.ndarray`, ``(side, side // 2 + 1)``, float32
        ``|P^|^2`` on the half plane of ``rfft2``, near 1 at zero frequency. Flux errors are
        functions of it that are linear to a few parts in a thousand over a CCD, so that the mean serves.
    """
    stamps = psf.stamps.reshape(-1, psf.size, psf.size)
    excess = (psf.size - (side - 1 + side % 2)) // 2
    if excess > 0:
        stamps = stamps[:, excess:-excess, excess:-excess]
    transforms = transform_stamps(stamps, side)
    return np.mean(transforms.real**2 + transforms.imag**2, axis=0).astype(np.float32)


def flux_error(power: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
    """Return the standard error of the best flux of a point source on blank sky of one image.

    Parameters
    ----------
    power : `numpy.ndarray`, ``(..., K, K // 2 + 1)``
        Power spectra of PSFs, see `psf_power`.
    variance : array-like, ``(...)``
        Variances of a pixel of blank sky.

    Returns
    -------
    error : `numpy.ndarray`, ``(...)``
        In the unit of the images.
    """
    return np.sqrt(np.asarray(variance, float) / _mean_power(np.asarray(power, float)))


def difference_flux_error(
    science_power: np.ndarray,
    template_power: np.ndarray,
    science_variance: np.ndarray | float,
    template_variance: np.ndarray | float,
) -> np.ndarray:
    """Return the standard error of the best flux of a point source in a difference.

    The information that science and template have on a change is, summed over the frequencies ``k`` of
    ``n`` pixels,

        ``1 / sigma^2 = sum_k |S|^2 |T|^2 / (v_s |T|^2 + v_t |S|^2) / n``

    with the transforms ``S``, ``T`` of the PSFs (Zackay, Ofek & Gal-Yam 2016,
    doi:10.3847/0004-637X/830/1/27, equations 12 to 16). Proper subtraction reaches it, and so does
    Alard-Lupton with decorrelation (DMTN-179).

    Parameters
    ----------
    science_power, template_power : `numpy.ndarray`, ``(..., K, K // 2 + 1)``
        Power spectra of the PSFs, see `psf_power`.
    science_variance, template_variance : array-like, ``(...)``
        Variances of a pixel of blank sky, both on the flux scale of the science image: that of the template
        is multiplied by the square of the flux scale.

    Returns
    -------
    error : `numpy.ndarray`, ``(...)``
        In the unit of the science image; infinite where the variance of the template is.
    """
    science, template = np.asarray(science_power, float), np.asarray(template_power, float)
    v_s = np.asarray(science_variance, float)[..., None, None]
    v_t = np.asarray(template_variance, float)[..., None, None]
    with np.errstate(divide="ignore"):
        information = _mean_power(science * template / (v_s * template + v_t * science + _TINY))
        return 1.0 / np.sqrt(information)


def limiting_magnitude(error: np.ndarray | float, *, significance: float = 5.0) -> np.ndarray:
    """Return the AB magnitude of a point source of so many standard errors (nJy)."""
    with np.errstate(divide="ignore"):
        return _ZERO_POINT_NJY - 2.5 * np.log10(significance * np.asarray(error, float))


def _mean_power(spectrum: np.ndarray) -> np.ndarray:
    """Return the mean over all frequencies of a half-plane spectrum: by Parseval a sum over pixels."""
    side = spectrum.shape[-2]
    return (spectrum * half_plane_weights(side)).sum(axis=(-2, -1)) / side**2
