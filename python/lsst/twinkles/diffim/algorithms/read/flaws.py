"""Pixels of a bare image that cannot be trusted: saturated ones, spikes, blank borders, odd rims."""

from __future__ import annotations

__all__ = ("find_blank_border", "find_odd_rim", "find_pile_up", "find_saturated", "find_spikes")

import numpy as np
from scipy.ndimage import binary_dilation, label

# A detector's ceiling: the pixels within this fraction of the brightest ...
_TOP = 0.002
# ... against those in a band below it.
_BAND = 0.1


def find_pile_up(image: np.ndarray, *, n_min: int, contrast: float) -> float | None:
    """Find the level at which the brightest pixels pile up, as those of a saturated detector do.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; not finite ones are left out.
    n_min : `int`
        Least number of pixels in the pile.
    contrast : `float`
        Least ratio of their density, per unit of brightness, to that of the tenth below the maximum.

    Returns
    -------
    level : `float` or `None`
        Lower edge of the pile; `None` where there is none.
    """
    values = image[np.isfinite(image)]
    if values.size == 0 or values.max() <= 0:
        return None
    top = float(values.max())
    level = top * (1.0 - _TOP)
    n_top = np.count_nonzero(values >= level)
    n_band = np.count_nonzero(values >= top * (1.0 - _BAND)) - n_top
    expected = n_band * _TOP / (_BAND - _TOP)
    # A blank image piles up too, at the value of nearly all its pixels: that is no detector's ceiling.
    if n_top < n_min or n_top < contrast * expected or n_top > 0.2 * values.size:
        return None
    return level


def find_saturated(image: np.ndarray, level: float, *, grow: int) -> np.ndarray:
    """Return the pixels at or above a level, and those within ``grow`` pixels of them.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; plus infinity counts as saturated.
    level : `float`
        Saturation level in pixel units.
    grow : `int`
        Pixels by which charge bleeds beyond.

    Returns
    -------
    saturated : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask.
    """
    with np.errstate(invalid="ignore"):
        saturated = image >= level
    return binary_dilation(saturated, iterations=grow) if grow > 0 and saturated.any() else saturated


def find_spikes(
    light: np.ndarray, sigma: np.ndarray, bad: np.ndarray, *, least_ratio: float, n_sigma: float
) -> np.ndarray:
    """Find pixels that stand out more sharply than any star: hot and dead pixels, cosmic rays.

    Of the two neighbours in a row and the two in a column the mean of the fainter pair is compared with the
    pixel. Tracks of a pixel's width are found along with single pixels.

    Parameters
    ----------
    light : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted pixels, finite.
    sigma : `numpy.ndarray`, ``(Ny, Nx)``
        Standard deviation of each pixel.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that are not judged, nor their neighbours by them.
    least_ratio : `float`
        Ratio of the pair to the pixel below which it is no star, somewhat below that of the PSF.
    n_sigma : `float`
        Least deviation of a spike from the sky.

    Returns
    -------
    spikes : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask; the outermost pixels are never in it.
    """
    spikes = np.zeros(light.shape, dtype=bool)
    inner = np.s_[1:-1, 1:-1]
    peak, noise = np.abs(light[inner]), sigma[inner]
    sign = np.sign(light[inner])
    pairs = np.minimum(light[1:-1, :-2] + light[1:-1, 2:], light[:-2, 1:-1] + light[2:, 1:-1]) / 2
    dark = np.maximum(light[1:-1, :-2] + light[1:-1, 2:], light[:-2, 1:-1] + light[2:, 1:-1]) / -2
    fainter = np.where(sign > 0, pairs, dark)
    # The noise of a pair is that of a pixel over the root of two.
    limit = least_ratio * peak - _PAIR_MARGIN * noise / np.sqrt(2.0)
    near_bad = binary_dilation(bad, np.ones((3, 3), dtype=bool))
    spikes[inner] = (peak > n_sigma * noise) & (fainter < limit) & ~near_bad[inner]
    return spikes


# Standard deviations by which a pair has to miss what a star would have.
_PAIR_MARGIN = 2.0


def find_blank_border(image: np.ndarray, *, grow: int) -> np.ndarray:
    """Find the parts of the rim that a registration program filled with one value.

    A value that repeats itself along a run of pixels of the outermost row or column on a side is a filling;
    all pixels that have it and hang together with that run are blank. The pixels next to them are mixtures
    of data and filling, which the program interpolated.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.
    grow : `int`
        Pixels that the mixtures reach into the data, diagonals included.

    Returns
    -------
    blank : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask.
    """
    blank = np.zeros(image.shape, dtype=bool)
    for side in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
        values, runs = _find_runs(image[side])
        for value in values:
            labels, _ = label(image == value)
            blank |= np.isin(labels, np.unique(labels[side][runs & (image[side] == value)]))
    square = np.ones((3, 3), dtype=bool)
    return binary_dilation(blank, square, iterations=grow) if grow > 0 and blank.any() else blank


def find_odd_rim(image: np.ndarray, bad: np.ndarray, *, depth: int, n_sigma: float) -> np.ndarray:
    """Find outermost rows and columns the level of which is not that of the rows and columns inside of them.

    They are read-out artefacts, or what a registration program interpolated between data and nothing.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels; not finite ones are left out.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to leave out.
    depth : `int`
        Largest number of rows or columns on a side.
    n_sigma : `float`
        Least deviation of their median, in standard deviations of a pixel.

    Returns
    -------
    odd : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask.
    """
    odd = np.zeros(image.shape, dtype=bool)
    values = np.where(np.isfinite(image) & ~bad, image, np.nan)
    # Four views, each with the rim in question as its first rows.
    for turned, mask in zip(_four_sides(values), _four_sides(odd), strict=True):
        inside = turned[depth : 4 * depth]
        if inside.shape[0] < depth or not np.isfinite(inside).any():
            continue
        middle = np.nanmedian(inside)
        sigma = 1.4826 * np.nanmedian(np.abs(inside - middle))
        for row in reversed(range(depth)):
            usable = turned[row][np.isfinite(turned[row])]
            if usable.size and abs(np.median(usable) - middle) > n_sigma * sigma > 0:
                mask[: row + 1] = True
                break
    return odd


# So many equal neighbours are no accident, even among whole numbers with a scatter of one.
_RUN = 24


def _find_runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the finite values that fill a run of pixels, and where such runs are."""
    edges = np.flatnonzero(np.diff(values, prepend=np.nan, append=np.nan) != 0)  # NaN differs from all
    lengths = np.diff(edges)
    long = np.repeat(lengths >= min(_RUN, values.size), lengths) & np.isfinite(values)
    return np.unique(values[long]), long


def _four_sides(array: np.ndarray) -> list[np.ndarray]:
    """Return views of an array that begin with its bottom, top, left and right rim."""
    return [array, array[::-1], array.T, array.T[::-1]]
