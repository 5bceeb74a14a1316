"""Pixels of a bare image that cannot be trusted: saturated ones and blank borders."""

from __future__ import annotations

__all__ = ("find_blank_border", "find_pile_up", "find_saturated")

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


def find_blank_border(image: np.ndarray) -> np.ndarray:
    """Find the parts of the rim that a registration program filled with one value.

    A value that makes up more than half of the outermost row or column on a side is a filling; all pixels
    that have it and hang together with that side are blank.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.

    Returns
    -------
    blank : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Mask.
    """
    blank = np.zeros(image.shape, dtype=bool)
    for side in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
        values, counts = np.unique(image[side], return_counts=True)
        if 2 * counts.max() <= image[side].size or not np.isfinite(values[counts.argmax()]):
            continue
        labels, _ = label(image == values[counts.argmax()])
        touching = np.unique(labels[side])
        blank |= np.isin(labels, touching[touching > 0])
    return blank
