"""Connected regions of significant pixels."""

from __future__ import annotations

__all__ = ("Footprints", "make_footprints")

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

from ..fill_nb import spread_mask
from ..in_threads import run_in_threads

_EIGHT = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Footprints:
    """Regions of an image.

    Attributes
    ----------
    positive, negative : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Grown regions of each polarity.
    labels : `numpy.ndarray`, ``(Ny, Nx)``, int32
        Number of the region, 0 outside. Where regions of both polarities overlap and are
        not merged, that of the positive.
    negative_labels : `numpy.ndarray` or `None`
        Numbers of the negative regions, if they are kept apart.
    areas, extents : `numpy.ndarray`, ``(R + 1,)``
        Pixels of each region and the longer side of its bounding box, by number.
    """

    positive: np.ndarray
    negative: np.ndarray
    labels: np.ndarray
    negative_labels: np.ndarray | None
    areas: np.ndarray
    extents: np.ndarray

    def number_at(self, *, x: np.ndarray, y: np.ndarray, negative: np.ndarray) -> np.ndarray:
        """Return the numbers of the regions in which peaks lie."""
        numbers = self.labels[y, x]
        if self.negative_labels is not None:
            other = self.negative_labels[y, x]
            # The ring of a bright neighbour can turn the sign of a pixel: then the region that is there.
            first, second = np.where(negative, other, numbers), np.where(negative, numbers, other)
            numbers = np.where(first > 0, first, second)
        return numbers


def make_footprints(significance: np.ndarray, *, threshold: float, grow: int, merge: bool) -> Footprints:
    """Grow the regions beyond a threshold, and join those of both polarities that touch.

    Parameters
    ----------
    significance : `numpy.ndarray`, ``(Ny, Nx)``
        Significance image.
    threshold : `float`
        Least absolute value.
    grow : `int`
        Radius in pixels by which they grow.
    merge : `bool`
        Join positive and negative regions that touch after growing.
    """
    positive = _grow(significance > threshold, grow)
    negative = _grow(significance < -threshold, grow)
    if merge:
        labels, n = label(positive | negative, structure=_EIGHT)
        return Footprints(positive, negative, labels, None, *_sizes(labels, n))
    labels, n = label(positive, structure=_EIGHT)
    other, m = label(negative, structure=_EIGHT)
    sizes, more = _sizes(labels, n), _sizes(other, m)
    other[other > 0] += n
    areas, extents = (np.concatenate([a, b[1:]]) for a, b in zip(sizes, more, strict=True))
    return Footprints(positive, negative, labels, other, areas, extents)


def _grow(region: np.ndarray, radius: int) -> np.ndarray:
    out = region.copy()
    if radius > 0 and region.any():
        dy, dx = (a.ravel() for a in np.mgrid[-radius : radius + 1, -radius : radius + 1])
        disc = dy**2 + dx**2 <= (radius + 0.5) ** 2
        offsets = dy[disc].astype(np.int64), dx[disc].astype(np.int64)
        run_in_threads(spread_mask, len(region), region, *offsets, out)
    return out


def _sizes(labels: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    areas = np.bincount(labels.ravel(), minlength=n + 1)
    boxes = find_objects(labels)
    extents = [0] + [max(b[0].stop - b[0].start, b[1].stop - b[1].start) for b in boxes]
    return areas, np.array(extents)
