"""Significant peaks of a difference, without the rings that bright ones have around them."""

from __future__ import annotations

__all__ = ("Peaks", "find_peaks", "suppress_rings")

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from ..fourier import convolve_plane
from .footprints import significant_pixels


@dataclass(frozen=True)
class Peaks:
    """Peaks of a significance image.

    Attributes
    ----------
    x, y : `numpy.ndarray`, ``(N,)``, int
        Pixels.
    significance : `numpy.ndarray`, ``(N,)``
        Signed value.
    """

    x: np.ndarray
    y: np.ndarray
    significance: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray) -> Peaks:
        """Return a subset."""
        return Peaks(self.x[index], self.y[index], self.significance[index])


def find_peaks(significance: np.ndarray, *, threshold: float, radius: int) -> Peaks:
    """Find maxima above and minima below a threshold, the most significant first."""
    y, x = significant_pixels(significance, threshold)
    values = significance[y, x]
    sign = np.sign(values)
    ny, nx = significance.shape
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy == dx == 0:
                continue
            row, col = y + dy, x + dx
            inside = (row >= 0) & (row < ny) & (col >= 0) & (col < nx)
            other = sign * significance[np.where(inside, row, 0), np.where(inside, col, 0)]
            # Of equal ones the first counts.
            beaten = other > sign * values if (dy, dx) > (0, 0) else other >= sign * values
            keep = ~(beaten & inside)
            y, x, values, sign = y[keep], x[keep], values[keep], sign[keep]
    values = values.astype(float)
    order = np.lexsort([x, y, values < 0, -np.abs(values)])
    return Peaks(x[order], y[order], values[order])


def suppress_rings(peaks: Peaks, psf: np.ndarray, *, threshold: float, model_error: float) -> Peaks:
    """Keep the peaks that brighter ones do not explain.

    Parameters
    ----------
    peaks : `Peaks`
        Peaks, the most significant first.
    psf : `numpy.ndarray`, ``(S, S)``
        PSF of the difference.
    threshold : `float`
        Least significance of what is left after the brighter sources' share is taken away.
    model_error : `float`
        Fractional error of that share, added to the threshold.

    Returns
    -------
    kept : `Peaks`
        Those left, with their own significance.

    Notes
    -----
    The PSF of a whitened difference has rings of both signs. A source of significance
    ``s`` puts ``s A(dx, dy)`` on its surroundings, ``A`` being the normalised autocorrelation of the PSF:
    the same step as in CLEAN (Hogbom 1974), without an image.
    """
    if len(peaks) == 0:
        return peaks
    pattern = convolve_plane(np.pad(psf, psf.shape[0] // 2), psf[::-1, ::-1])
    centre = pattern.shape[0] // 2
    pattern = pattern / pattern[centre, centre]
    tree = cKDTree(np.column_stack([peaks.x, peaks.y]))
    left = peaks.significance.copy()
    allowance = np.zeros(len(peaks))
    keep = np.zeros(len(peaks), dtype=bool)
    neighbours = tree.query_ball_point(tree.data, r=centre - 1)
    for i in range(len(peaks)):
        if abs(left[i]) < threshold + allowance[i]:
            continue
        keep[i] = True
        near = np.array([j for j in neighbours[i] if j > i], dtype=int)
        if len(near) == 0:
            continue
        offsets = np.array([peaks.y[near] - peaks.y[i] + centre, peaks.x[near] - peaks.x[i] + centre])
        share = left[i] * map_coordinates(pattern, offsets, order=1, mode="constant")
        left[near] -= share
        allowance[near] += model_error * np.abs(share)
    index = np.flatnonzero(keep)
    return Peaks(peaks.x[index], peaks.y[index], left[index])
