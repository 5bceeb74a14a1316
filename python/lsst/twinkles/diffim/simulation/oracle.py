"""The best difference that can be made of a simulated pair, for comparison."""

from __future__ import annotations

__all__ = ("proper_difference", "static_light")

import numpy as np
from scipy import fft

from .pairs import SimulatedPair
from .rendering import render_points
from .visits import SimulatedVisit


def static_light(pair: SimulatedPair) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected electrons of science and template without planted transients and sky.

    Returns
    -------
    science, template : `numpy.ndarray`, ``(ny, nx)``, float64
        Each in its own electrons.
    """
    planted = pair.truth[pair.truth["kind"] == "transient"]
    flux = np.asarray(planted["difference_flux"])
    x, y = np.asarray(planted["x"]), np.asarray(planted["y"])
    result = []
    for visit, sign, scale in ((pair.science_visit, 1, 1.0), (pair.template_visit, -1, pair.scale)):
        extra = np.zeros(visit.model.shape)
        mine = np.sign(flux) == sign
        xi, yi = visit.displace(x[mine], y[mine])
        render_points(extra, visit.psf, x=xi, y=yi, flux=np.abs(flux[mine]) * scale)
        result.append(visit.model - extra)
    return result[0], result[1]


def proper_difference(pair: SimulatedPair) -> tuple[np.ndarray, np.ndarray]:
    """Return the proper difference of noise and transients alone.

    Zackay, Ofek & Gal-Yam (2016, ApJ 830, 27, eqs. 13-14) with the true PSFs
    of the middle of the field and the true variances of the sky, after the
    static light and the sky have been taken off without error.

    Parameters
    ----------
    pair : `SimulatedPair`
        Science and template.

    Returns
    -------
    difference : `numpy.ndarray`, ``(ny, nx)``
        Electrons of the science image; noise white, its variance that of the
        sum of the sky's variances.
    psf : `numpy.ndarray`, ``(41, 41)``
        PSF of the difference; its sum is the flux scale, not quite one.
    """
    light = static_light(pair)
    visits = (pair.science_visit, pair.template_visit)
    scales = (1.0, 1.0 / pair.scale)
    noise = [
        scale * _residual(visit, static) for visit, static, scale in zip(visits, light, scales, strict=True)
    ]
    variances = [
        scale**2 * (float(np.median(visit.sky)) + visit.read_noise**2)
        for visit, scale in zip(visits, scales, strict=True)
    ]
    shape = noise[0].shape
    science, template = (_transform_psf(visit.psf.middle_stamp(), shape) for visit in visits)
    norm = np.sqrt(variances[0] * np.abs(template) ** 2 + variances[1] * np.abs(science) ** 2)
    # Where both PSFs have no power the norm vanishes, and with it the numerator.
    norm = np.maximum(norm, 1e-12 * norm.max()) / np.sqrt(variances[0] + variances[1])
    spectrum = (fft.rfft2(noise[0]) * template - fft.rfft2(noise[1]) * science) / norm
    psf = fft.fftshift(fft.irfft2(science * template / norm, s=shape))
    row, column = shape[0] // 2, shape[1] // 2
    return fft.irfft2(spectrum, s=shape), psf[row - 20 : row + 21, column - 20 : column + 21]


def _residual(visit: SimulatedVisit, static: np.ndarray) -> np.ndarray:
    """Return the exposure without static light and sky, 0 where masked."""
    exposure = visit.exposure
    masked = exposure.mask.get("SATURATED") | exposure.mask.get("BAD")
    return np.where(masked, 0.0, exposure.image.array - static - visit.sky)


def _transform_psf(stamp: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the transform of a stamp centred on pixel (0, 0)."""
    padded = np.zeros(shape)
    size = stamp.shape[0]
    padded[:size, :size] = stamp
    return fft.rfft2(np.roll(padded, (-(size // 2), -(size // 2)), axis=(0, 1)))
