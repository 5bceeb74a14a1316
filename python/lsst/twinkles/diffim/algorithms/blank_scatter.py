"""Scatter of the pixels of blank sky."""

from __future__ import annotations

__all__ = ("find_dark_pixels", "measure_blank_scatter")

import numpy as np
from scipy import ndimage

from .cells import split_into_cells

# Standard deviation of a normal distribution over its interquartile range, and over its median deviation.
_SIGMA_PER_IQR = 0.741301109252801
_SIGMA_PER_MAD = 2.0 * _SIGMA_PER_IQR


def find_dark_pixels(variance: np.ndarray, *, cell: tuple[int, int], ratio: float) -> np.ndarray:
    """Tell which pixels show no light of sources, by their variance.

    Parameters
    ----------
    variance : `numpy.ndarray`, ``(Ny, Nx)``
        Variance, NaN for pixels that are not used.
    cell : 2-tuple of `int`
        Height and width in pixels of the cells of which the darkest quarter tells the level.
    ratio : `float`
        Pixels of more than so many times that level are not dark.

    Returns
    -------
    dark : `numpy.ndarray`, ``(Ny, Nx)``, bool
    """
    (ny, nx), (height, width) = variance.shape, cell
    cells = split_into_cells(variance.astype(np.float32, copy=False), height, width).transpose(0, 2, 1, 3)
    cells = cells.reshape(*cells.shape[:2], -1)
    # NaN sorts last.
    ordered = np.sort(cells, axis=-1)
    quarter = np.isfinite(cells).sum(axis=-1, keepdims=True) // 4
    level = np.take_along_axis(ordered, quarter, axis=-1)[..., 0]
    return variance < ratio * np.repeat(np.repeat(level, height, 0), width, 1)[:ny, :nx]


def measure_blank_scatter(noise: np.ndarray, *, side: int, clip: float) -> float:
    """Return the standard deviation of pixels where nothing stands out, from their interquartile range.

    Parameters
    ----------
    noise : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels, over their errors for example; those that are NaN are not used.
    side : `int`
        Pixels on a side of the squares whose means are looked at: about the width of a source.
    clip : `float`
        Squares that differ from the median by so many times their scatter are left out, and those around
        them.

    Returns
    -------
    scatter : `float`
        Standard deviation; NaN if there are no pixels.

    Notes
    -----
    An interquartile range does not mind how far off pixels are, but how many: where sources cover 9 percent
    of the pixels it is 5 percent too wide.
    """
    squares = split_into_cells(noise.astype(np.float32, copy=False), side, side)
    number = np.isfinite(squares).sum(axis=(1, 3))
    total = np.nansum(squares, axis=(1, 3)) / np.sqrt(np.maximum(number, 1))
    there = total[number > 0]
    if len(there) == 0:
        return float("nan")
    deviation = np.abs(total - np.median(there))
    loud = (number > 0) & (deviation > clip * _SIGMA_PER_MAD * np.median(deviation[number > 0]))
    loud = ndimage.binary_dilation(loud, np.ones((3, 3), bool))
    quiet = squares.transpose(0, 2, 1, 3)[~loud]
    kept = quiet[np.isfinite(quiet)]
    if len(kept) < 0.1 * number.sum():  # sources everywhere: there is no blank sky
        kept = squares[np.isfinite(squares)]
    lower, upper = np.percentile(kept, (25.0, 75.0))
    return float(_SIGMA_PER_IQR * (upper - lower))
