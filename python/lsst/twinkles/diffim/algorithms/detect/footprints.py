"""Connected regions of significant pixels."""

from __future__ import annotations

__all__ = ("Footprints", "Regions", "label_regions", "make_footprints", "significant_pixels")

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Regions:
    """Pixels that touch each other, along a side or at a corner.

    Attributes
    ----------
    pixels : `numpy.ndarray`, ``(P,)``, int64
        All pixels of the regions, ascending, as indices into the image row by row.
    labels : `numpy.ndarray`, ``(P,)``, int
        Number of the region of each, from 1, in the order of their first pixels.
    areas, extents : `numpy.ndarray`, ``(R + 1,)``
        Pixels of each region, and the longer side of its bounding box, by number; 0 for number 0.
    """

    pixels: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    extents: np.ndarray

    def number_at(self, pixels: np.ndarray) -> np.ndarray:
        """Return the region of each of some pixels, 0 for those in none."""
        if len(self.pixels) == 0:
            return np.zeros(len(pixels), dtype=int)
        place = np.minimum(np.searchsorted(self.pixels, pixels), len(self.pixels) - 1)
        return np.where(self.pixels[place] == pixels, self.labels[place], 0)


@dataclass(frozen=True)
class Footprints:
    """Regions of an image.

    Attributes
    ----------
    positive, negative : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Grown regions of each polarity.
    regions : `Regions`
        The regions; those of positive polarity, if the negative ones are kept apart.
    negative_regions : `Regions` or `None`
        Negative regions, if they are kept apart; their numbers follow those of the others.
    """

    positive: np.ndarray
    negative: np.ndarray
    regions: Regions
    negative_regions: Regions | None

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each region, ``(R + 1,)``, by number."""
        return self._all("areas")

    @property
    def extents(self) -> np.ndarray:
        """Longer side of the bounding box of each region, ``(R + 1,)``, by number."""
        return self._all("extents")

    def _all(self, name: str) -> np.ndarray:
        first = getattr(self.regions, name)
        other = self.negative_regions
        return first if other is None else np.concatenate([first, getattr(other, name)[1:]])

    def number_at(self, *, x: np.ndarray, y: np.ndarray, negative: np.ndarray) -> np.ndarray:
        """Return the numbers of the regions in which peaks lie."""
        pixels = np.asarray(y, np.int64) * self.positive.shape[1] + x
        numbers = self.regions.number_at(pixels)
        if self.negative_regions is not None:
            other = self.negative_regions.number_at(pixels)
            other = np.where(other > 0, other + len(self.regions.areas) - 1, 0)
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
    rows, cols = significant_pixels(significance, threshold)
    above = significance[rows, cols] > 0
    positive, negative = (_grow(significance.shape, rows[w], cols[w], grow) for w in (above, ~above))
    if merge:
        return Footprints(positive, negative, label_regions(positive | negative), None)
    return Footprints(positive, negative, label_regions(positive), label_regions(negative))


def significant_pixels(significance: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the pixels beyond a threshold of either sign, row by row."""
    beyond = significance > threshold
    beyond |= significance < -threshold
    # Of a flat array: some ten times as fast as `numpy.nonzero` of a plane.
    rows, cols = np.divmod(np.flatnonzero(beyond), significance.shape[1])
    return rows, cols


def _grow(shape: tuple[int, int], rows: np.ndarray, cols: np.ndarray, radius: int) -> np.ndarray:
    """Return the pixels within a radius (and a half) of some pixels."""
    out = np.zeros(shape, dtype=bool)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy**2 + dx**2 <= (radius + 0.5) ** 2:
                y, x = rows + dy, cols + dx
                inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
                out[y[inside], x[inside]] = True
    return out


def label_regions(mask: np.ndarray) -> Regions:
    """Find the connected regions of a mask that is set in few places.

    Parameters
    ----------
    mask : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels of the regions.

    Notes
    -----
    What `scipy.ndimage.label` finds for a structure of 3 x 3, from the pixels that are set alone: runs along
    the rows are joined with the runs that they touch in the next row.
    """
    nx = mask.shape[1]
    pixels = np.flatnonzero(mask)
    if len(pixels) == 0:
        return Regions(pixels, np.zeros(0, int), np.zeros(1, int), np.zeros(1, int))
    x, y = pixels % nx, pixels // nx
    run = np.cumsum((np.diff(pixels, prepend=-2) != 1) | (x == 0)) - 1
    links = []
    for step in (-1, 0, 1):
        which = np.flatnonzero((x + step >= 0) & (x + step < nx))
        below = pixels[which] + nx + step
        place = np.minimum(np.searchsorted(pixels, below), len(pixels) - 1)
        touch = pixels[place] == below
        links.append(np.stack([run[which[touch]], run[place[touch]]]))
    a, b = np.concatenate(links, axis=1)
    n_runs = int(run[-1]) + 1
    graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(n_runs, n_runs))
    _, part = connected_components(graph, directed=False)
    _, first, part = np.unique(part, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=int)
    rank[np.argsort(first)] = np.arange(1, len(first) + 1)
    labels = rank[part][run]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(1, len(first) + 1))
    size = [np.maximum.reduceat(v[order], starts) - np.minimum.reduceat(v[order], starts) + 1 for v in (x, y)]
    areas = np.bincount(labels, minlength=len(first) + 1)
    return Regions(pixels, labels, areas, np.concatenate([[0], np.maximum(*size)]))
