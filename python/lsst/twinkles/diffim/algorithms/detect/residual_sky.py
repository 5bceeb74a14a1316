"""The sky that is left in a difference."""

from __future__ import annotations

__all__ = ("average_blocks", "is_dark", "sky_of_cells")

import warnings

import numpy as np
from scipy.ndimage import binary_dilation

from ..cells import split_into_cells
from ..noise import MAD_TO_SIGMA

_CLIP = 2.5


def average_blocks(image: np.ndarray, bad: np.ndarray, *, size: int) -> np.ndarray:
    """Return the means of squares of pixels.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that must not be used.
    size : `int`
        Side of the squares; pixels beyond the last whole one are left out.

    Returns
    -------
    means : `numpy.ndarray`, ``(Ny // size, Nx // size)``, float64
        NaN for a square with a bad pixel.
    """
    ny, nx = (extent // size for extent in image.shape)
    inner = np.s_[: ny * size, : nx * size]
    # Whole rows first: numpy is slow along short axes.
    strips, blocks = (ny, size, nx * size), (ny, nx, size)
    means = image[inner].reshape(strips).sum(axis=1, dtype=float).reshape(blocks).mean(axis=2) / size
    means[bad[inner].reshape(strips).any(axis=1).reshape(blocks).any(axis=2)] = np.nan
    return means


def is_dark(light: np.ndarray, limit: float) -> np.ndarray:
    """Tell where blocks have no light: where they exceed the median of all by no more than a limit.

    Parameters
    ----------
    light : `numpy.ndarray`, ``(By, Bx)``
        Means of blocks, without what varies of the sky; NaN where there are none.
    limit : `float`
        Most light.
    """
    good = np.isfinite(light)
    with np.errstate(invalid="ignore"):
        return good & (light <= (np.median(light[good]) if good.any() else 0.0) + limit)


def sky_of_cells(means: np.ndarray, *, size: int, min_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the sky in cells of blocks.

    Parameters
    ----------
    means : `numpy.ndarray`, ``(By, Bx)``
        Means of blocks; NaN for those that are not sky.
    size : `int`
        Blocks along a side of a cell; cells at the upper rims may be smaller.
    min_fraction : `float`
        Cells with a smaller share of blocks are NaN.

    Returns
    -------
    sky, number : `numpy.ndarray`, ``(Cy, Cx)``
        Median without what deviates by 2.5 sigma and its neighbours, and blocks that went in.

    Notes
    -----
    The noise of pixels is skew, where it is that of photons, so that their median lies below their mean by a
    sixth of the skewness, in standard deviations; sums of pixels know the mean. The means of 64 pixels have
    an eighth of the skewness, and an eighth of the standard deviation.
    """
    values = split_into_cells(means, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without a block
        for again in range(2):
            middle = np.nanmedian(values, axis=(1, 3), keepdims=True)
            distance = np.abs(values - middle)
            far = distance > _CLIP * MAD_TO_SIGMA * np.nanmedian(distance, axis=(1, 3), keepdims=True)
            if again == 0:
                # The light that makes a block stand out is in its neighbours, too.
                far = binary_dilation(far.reshape(far.shape[0] * size, -1), np.ones((3, 3))).reshape(
                    far.shape
                )
            values = np.where(far, np.nan, values)
        sky, number = np.nanmedian(values, axis=(1, 3)), np.isfinite(values).sum(axis=(1, 3))
    return np.where(number >= max(3.0, min_fraction * size**2), sky, np.nan), number
