"""Shift and warp small images by Lanczos interpolation as the LSST stack does it, to the last digits.

A stored PSF of the stack means the images that the stack computes from it. Two of its habits are therefore
kept although neither is good interpolation: weights come from a cache of positions (an error of up to half of
its step), and an output pixel whose taps leave the padded input is zero.
"""

from __future__ import annotations

__all__ = ("Stamp", "add_stamps", "lanczos_weights", "shift_stamp", "split_position", "warp_stamp")

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_SHIFT_ORDER = 5
_POSITION_DIGITS = 9


@dataclass(frozen=True)
class Stamp:
    """A small image and where it lies.

    Attributes
    ----------
    array : `numpy.ndarray`, ``(Ny, Nx)``, float64
        Pixels.
    x0, y0 : `int`
        Position of the centre of the first pixel.
    """

    array: np.ndarray
    x0: int
    y0: int

    def normalised(self) -> Stamp:
        """Return the stamp scaled to unit sum; `ValueError` where that is not a number above zero."""
        total = float(self.array.sum())
        if not (np.isfinite(total) and total > 0):
            raise ValueError(f"the sum of a PSF image has to be positive and finite, it is {total}")
        return Stamp(self.array / total, self.x0, self.y0)


def lanczos_weights(offset: np.ndarray, order: int) -> np.ndarray:
    """Return ``sinc(t) sinc(t / order)`` at some offsets in pixels, without its cut at ``order``."""
    t = np.asarray(offset, dtype=float)
    return np.sinc(t) * np.sinc(t / order)


def split_position(position: float) -> tuple[int, float]:
    """Return the pixel that a position falls into, and its distance from the centre in [-0.5, 0.5)."""
    pixel = math.floor(position + 0.5)
    return pixel, position - pixel


def shift_stamp(stamp: Stamp, *, dx: float, dy: float) -> Stamp:
    """Move the contents of a stamp by less than a pixel, with Lanczos weights of order five.

    Parameters
    ----------
    stamp : `Stamp`
        Input, zero outside.
    dx, dy : `float`
        Shift in pixels, each within (-1, 1).

    Returns
    -------
    shifted : `Stamp`
        Of the same pixels.
    """
    if dx == 0.0 and dy == 0.0:
        return stamp
    rows = _shift_matrix(stamp.array.shape[0], dy)
    columns = _shift_matrix(stamp.array.shape[1], dx)
    return Stamp(rows @ stamp.array @ columns.T, stamp.x0, stamp.y0)


def warp_stamp(
    stamp: Stamp,
    matrix: np.ndarray,
    offset: np.ndarray,
    *,
    order: int,
    cache_size: int,
    bilinear: bool = False,
) -> Stamp:
    """Resample a stamp under an affine transform onto a box that is centred on the origin.

    Parameters
    ----------
    stamp : `Stamp`
        Input, zero outside.
    matrix, offset : `numpy.ndarray`, ``(2, 2)`` and ``(2,)``
        Input position ``matrix @ (x, y) + offset`` of an output position ``(x, y)``.
    order : `int`
        Order of the Lanczos weights.
    cache_size : `int`
        Steps per pixel in which fractional positions are rounded; 0 for none.
    bilinear : `bool`, optional
        Weights of linear interpolation instead; ``order`` is then 1.

    Returns
    -------
    warped : `Stamp`
        Unit sum, odd sides.

    Raises
    ------
    ValueError
        If its sum is zero.
    """
    half_x, half_y = _output_half_sides(stamp, matrix)
    y, x = np.mgrid[-half_y : half_y + 1, -half_x : half_x + 1].astype(float)
    source_x = matrix[0, 0] * x + matrix[0, 1] * y + offset[0] - stamp.x0
    source_y = matrix[1, 0] * x + matrix[1, 1] * y + offset[1] - stamp.y0
    height, width = stamp.array.shape
    column, weights_x, good_x = _taps(source_x, width, order, cache_size, bilinear)
    row, weights_y, good_y = _taps(source_y, height, order, cache_size, bilinear)
    pad = 2 * order + 2  # more than any tap of a good pixel reaches
    padded = np.pad(stamp.array, pad)
    out = np.zeros(x.shape)
    good = good_x & good_y
    j, i = np.where(good, row, 0) + pad, np.where(good, column, 0) + pad
    for b in range(2 * order):
        for a in range(2 * order):
            tap = padded[j + b - (order - 1), i + a - (order - 1)]
            out += weights_y[..., b] * weights_x[..., a] * tap
    return Stamp(np.where(good, out, 0.0), -half_x, -half_y).normalised()


def add_stamps(stamps: Sequence[Stamp], weights: Sequence[float]) -> Stamp:
    """Return the weighted mean of unit-sum stamps on the smallest box that holds all of them."""
    x0, y0 = min(s.x0 for s in stamps), min(s.y0 for s in stamps)
    x1 = max(s.x0 + s.array.shape[1] for s in stamps)
    y1 = max(s.y0 + s.array.shape[0] for s in stamps)
    total = np.zeros((y1 - y0, x1 - x0))
    for stamp, weight in zip(stamps, weights, strict=True):
        height, width = stamp.array.shape
        j, i = stamp.y0 - y0, stamp.x0 - x0
        total[j : j + height, i : i + width] += weight * stamp.array
    return Stamp(total / float(sum(weights)), x0, y0)


def _shift_matrix(n: int, shift: float) -> np.ndarray:
    """Return the ``(n, n)`` matrix that shifts the pixels of one axis."""
    shift = float(np.float32(shift))  # the stack passes it in single precision
    first = -_SHIFT_ORDER if shift > 0 else -(_SHIFT_ORDER - 1)
    taps = first + np.arange(2 * _SHIFT_ORDER)
    weights = lanczos_weights(taps + shift, _SHIFT_ORDER)
    weights /= weights.sum()
    matrix = np.zeros((n, n))
    for tap, weight in zip(taps, weights, strict=True):
        matrix += weight * np.eye(n, k=int(tap))
    return matrix


def _output_half_sides(stamp: Stamp, matrix: np.ndarray) -> tuple[int, int]:
    """Return half of the sides of the box into which the pixels of a stamp are mapped."""
    forward = np.linalg.inv(matrix)
    height, width = stamp.array.shape
    corners = np.array([[0, width, 0, width], [0, 0, height, height]], dtype=float)
    extent = np.ptp(forward @ corners, axis=1)
    return math.floor(0.5 * extent[0]), math.floor(0.5 * extent[1])


def _taps(
    position: np.ndarray, size: int, order: int, cache_size: int, bilinear: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first pixel, unit-sum weights ``(..., 2 order)``, and which positions have all their taps."""
    # Grids that differ by whole pixels have fractions of exactly zero, which round-off must not make 0.99...
    position = np.round(position, _POSITION_DIGITS)
    first = np.floor(position)
    fraction = position - first
    if cache_size > 0:
        fraction = (np.minimum(np.floor(fraction * cache_size), cache_size - 1) + 0.5) / cache_size
    offsets = np.arange(2 * order) - (order - 1) - fraction[..., None]
    weights = 1.0 - np.abs(offsets) if bilinear else lanczos_weights(offsets, order)
    weights /= weights.sum(axis=-1, keepdims=True)
    # The input is padded by order + 1 pixels, of which the kernel needs order - 1 before and order behind.
    good = (first >= -2) & (first <= size)
    return first.astype(int), weights, good
