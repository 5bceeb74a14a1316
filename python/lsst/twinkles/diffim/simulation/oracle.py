"""The best difference that can be made of a simulated pair, for comparison."""

from __future__ import annotations

__all__ = ("proper_difference", "proper_variance", "static_light")

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
    noise = [
        scale * _residual(visit, static)
        for (visit, scale), static in zip(_scaled_visits(pair), light, strict=True)
    ]
    shape = noise[0].shape
    filters = _proper_filters(pair)
    difference = fft.irfft2(fft.rfft2(noise[0]) * filters[0] - fft.rfft2(noise[1]) * filters[1], s=shape)
    psf = fft.fftshift(
        fft.irfft2(_transform_psf(pair.science_visit.psf.middle_stamp(), shape) * filters[0], s=shape)
    )
    row, column = shape[0] // 2, shape[1] // 2
    return difference, psf[row - 20 : row + 21, column - 20 : column + 21]


def proper_variance(pair: SimulatedPair) -> np.ndarray:
    """Return the variance of the pixels of the proper difference, ``(ny, nx)``.

    The true variances, photon noise of all sources included, through the squares of the filters.
    """
    total = np.zeros_like(pair.science_visit.true_variance, dtype=float)
    for (visit, scale), transform in zip(_scaled_visits(pair), _proper_filters(pair), strict=True):
        square = fft.rfft2(fft.irfft2(transform, s=total.shape) ** 2)
        total += fft.irfft2(fft.rfft2(scale**2 * visit.true_variance) * square, s=total.shape)
    return total


def _scaled_visits(pair: SimulatedPair) -> tuple[tuple[SimulatedVisit, float], ...]:
    """Return science and template, each with what takes it to the flux scale of the science image."""
    return (pair.science_visit, 1.0), (pair.template_visit, 1.0 / pair.scale)


def _proper_filters(pair: SimulatedPair) -> tuple[np.ndarray, np.ndarray]:
    """Return the transforms of the filters of science and template."""
    visits = _scaled_visits(pair)
    variances = [scale**2 * (float(np.median(visit.sky)) + visit.read_noise**2) for visit, scale in visits]
    shape = pair.science_visit.model.shape
    science, template = (_transform_psf(visit.psf.middle_stamp(), shape) for visit, _ in visits)
    norm = np.sqrt(variances[0] * np.abs(template) ** 2 + variances[1] * np.abs(science) ** 2)
    # Where both PSFs have no power the norm vanishes, and with it the numerator.
    norm = np.maximum(norm, 1e-12 * norm.max()) / np.sqrt(variances[0] + variances[1])
    return template / norm, science / norm


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
