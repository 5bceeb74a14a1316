"""Likelihood images of point sources, in afw types."""

from __future__ import annotations

__all__ = ("bad_bits", "convolve_exposure", "significance_of")

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..algorithms.psf_grid import PsfGrid
from ..algorithms.subtract.matched import convolve_kernel
from ..algorithms.threads import get_num_threads
from .exposures import plane_pixels

_TILE = 512


def convolve_exposure(exposure: Any, kernel: PsfGrid) -> Any:
    """Convolve an exposure.

    Parameters
    ----------
    exposure : `lsst.afw.image.ExposureF`
        Exposure; not modified.
    kernel : `PsfGrid`
        Kernel in array coordinates.

    Returns
    -------
    convolved : `lsst.afw.image.ExposureF`
        A copy, image and variance convolved with the kernel and with its square; the noise of its pixels is
        correlated. Pixels that are not finite count as 0. Mask, PSF and all else stay.
    """
    result = exposure.clone()

    def to_power(power: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return kernel.evaluate(x=x, y=y) ** power

    for image, power in ((result.image, 1), (result.variance, 2)):
        pixels = np.where(np.isfinite(image.array), image.array, np.float32(0.0))
        image.array[...] = convolve_kernel(
            pixels,
            partial(to_power, power),
            size=kernel.size,
            side=_TILE,
            workers=get_num_threads(),
        )
    # Of a transform's rounding.
    result.variance.array[...] = np.maximum(result.variance.array, np.finfo(np.float32).tiny)
    return result


def significance_of(score: Any, *, level: np.ndarray) -> np.ndarray:
    """Return the significance of a point source at each pixel.

    Parameters
    ----------
    score : `lsst.afw.image.ExposureF`
        Score image.
    level : `numpy.ndarray`, ``(Ny, Nx)``
        Smooth background that has been found in the difference since, and is in the score image as well.
    """
    variance = score.variance.array
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (score.image.array - level) / np.sqrt(variance), np.float32(np.nan))


def bad_bits(mask: Any, planes: Sequence[str]) -> np.ndarray:
    """Return the bits of some planes of a mask, ``(Ny, Nx)``."""
    bits = np.zeros_like(mask.array)
    for name in planes:
        bits[plane_pixels(mask, name)] |= np.asarray(mask.getPlaneBitMask(name), dtype=bits.dtype)
    return bits
