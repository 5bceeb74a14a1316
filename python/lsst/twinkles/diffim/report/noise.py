"""How white the noise of an exposure is, and whether its variance plane says the truth."""

from __future__ import annotations

__all__ = ("NoiseFigures", "find_blank_sky", "measure_noise")

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from lsst.images import MaskedImage

_CLIP = 6.0
_SOURCE_VARIANCE = 1.3
_GOOD_PLANES = ("INEXACT_PSF", "INTERPOLATED", "NOT_DEBLENDED", "HIGH_VARIANCE")


@dataclass(frozen=True)
class NoiseFigures:
    """The noise of blank sky.

    Attributes
    ----------
    ratio : `float`
        Standard deviation of pixel over claimed error; 1 if the variance plane is right.
    autocorrelation : `numpy.ndarray`, ``(2 L + 1, 2 L + 1)``
        At lags -L to L in y and x; 1 in the middle, 0 elsewhere for white noise.
    n_pixels : `int`
        Pixels that went in.
    """

    ratio: float
    autocorrelation: np.ndarray
    n_pixels: int

    @property
    def ac1(self) -> float:
        """Mean correlation of neighbours along x and y (`float`)."""
        middle = self.autocorrelation.shape[0] // 2
        return float(
            (self.autocorrelation[middle, middle + 1] + self.autocorrelation[middle + 1, middle]) / 2
        )


def find_blank_sky(exposure: MaskedImage, *, growth: int = 8) -> np.ndarray:
    """Return the pixels that show nothing but sky, as far as the exposure itself tells.

    Parameters
    ----------
    exposure : `lsst.images.MaskedImage`
        With mask and variance.
    growth : `int`, optional
        Pixels by which masked areas, detections and light are grown.

    Returns
    -------
    blank : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Neither masked, nor near a detection, nor where the variance plane
        shows the light of a source.
    """
    variance = exposure.variance.array
    usable = np.isfinite(exposure.image.array) & np.isfinite(variance) & (variance > 0)
    if not usable.any():
        return usable
    occupied = ~usable | (variance > _SOURCE_VARIANCE * np.median(variance[usable]))
    for plane in exposure.mask.schema.names:
        if plane not in _GOOD_PLANES:
            occupied |= exposure.mask.get(plane)
    return ~ndimage.binary_dilation(occupied, iterations=growth)


def measure_noise(exposure: MaskedImage, *, largest_lag: int = 3) -> NoiseFigures:
    """Measure scatter and autocorrelation of the blank sky.

    Parameters
    ----------
    exposure : `lsst.images.MaskedImage`
        With mask and variance; a difference image, or any with its sky subtracted.
    largest_lag : `int`, optional
        Largest lag of the autocorrelation in pixels.

    Returns
    -------
    noise : `NoiseFigures`
        Scatter over claimed errors, clipped at 6 sigma, and correlations.

    Raises
    ------
    ValueError
        If there are fewer than 100 pixels of blank sky.
    """
    blank = find_blank_sky(exposure)
    count = int(np.count_nonzero(blank))
    if count < 100:
        raise ValueError(f"Only {count} pixels of blank sky are left; the noise needs at least 100.")
    errors = np.sqrt(np.where(blank, exposure.variance.array, 1.0))
    values = np.where(blank, exposure.image.array, 0.0) / errors
    values = np.where(blank, np.clip(values - np.median(values[blank]), -_CLIP, _CLIP), 0.0)
    return NoiseFigures(
        ratio=float(np.std(values[blank])),
        autocorrelation=_autocorrelation(values, blank, largest_lag),
        n_pixels=count,
    )


def _autocorrelation(values: np.ndarray, blank: np.ndarray, largest: int) -> np.ndarray:
    """Return correlations at all lags up to one, from the pairs of which both pixels are blank."""
    lags = range(-largest, largest + 1)
    result = np.ones((2 * largest + 1, 2 * largest + 1))
    power = np.mean(values[blank] ** 2)
    for dy in range(largest + 1):
        for dx in lags:
            if dy == 0 and dx <= 0:
                continue
            here, there = _overlap(values, dy, dx)
            pairs = np.logical_and(*_overlap(blank, dy, dx))
            number = np.count_nonzero(pairs)
            correlation = float(np.sum(here * there) / number / power) if number else np.nan
            result[largest + dy, largest + dx] = result[largest - dy, largest - dx] = correlation
    return result


def _overlap(array: np.ndarray, dy: int, dx: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two views of an array, one displaced by a lag (``dy`` not negative)."""
    ny, nx = array.shape
    left, right = max(0, -dx), nx - max(0, dx)
    return array[: ny - dy, left:right], array[dy:, left + dx : right + dx]
