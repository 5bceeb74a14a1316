"""Convolution with filters that vary over the image, by overlapping Fourier tiles."""

from __future__ import annotations

__all__ = ("TileGrid", "convolve_varying", "make_tile_grid")

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft

from .convolve_nb import assemble_tiles, cut_tiles, multiply_filters


@dataclass(frozen=True)
class TileGrid:
    """Division of an image into tiles that are convolved one by one.

    Attributes
    ----------
    shape : `tuple` [`int`, `int`]
        Shape of the image.
    inner : `int`
        Side of the part of a tile that is kept.
    halo : `int`
        Pixels around it that are only read.
    y, x : `numpy.ndarray`
        First row and column of the kept parts.
    """

    shape: tuple[int, int]
    inner: int
    halo: int
    y: np.ndarray
    x: np.ndarray

    @property
    def side(self) -> int:
        """Side of the Fourier transforms."""
        return self.inner + 2 * self.halo

    @property
    def node_x(self) -> np.ndarray:
        """Positions of the tile corners along x."""
        return np.append(self.x, self.x[-1] + self.inner) - 0.5

    @property
    def node_y(self) -> np.ndarray:
        """Positions of the tile corners along y."""
        return np.append(self.y, self.y[-1] + self.inner) - 0.5


def make_tile_grid(shape: tuple[int, int], *, halo: int, side: int) -> TileGrid:
    """Choose tiles of ``side`` pixels with the given halo that cover an image."""
    longest = max(shape) + 2 * halo
    side = scipy.fft.next_fast_len(min(max(side, 4 * halo), longest), real=True)
    inner = side - 2 * halo
    return TileGrid(
        shape=shape,
        inner=inner,
        halo=halo,
        y=np.arange(0, shape[0], inner),
        x=np.arange(0, shape[1], inner),
    )


def convolve_varying(
    images: list[np.ndarray],
    filters: Callable[[np.ndarray, np.ndarray], list[np.ndarray]],
    grid: TileGrid,
    *,
    workers: int,
    tolerance: float = 1e-5,
    beyond: Literal["reflection", "zero"] = "reflection",
) -> np.ndarray:
    """Sum of images, each convolved with a filter that varies over the image.

    Parameters
    ----------
    images : `list` [`numpy.ndarray`], each ``(Ny, Nx)`` float32
        Finite images.
    filters : callable
        Takes positions ``x`` and ``y``, ``(N,)`` each, and returns for each image
        the half-plane transforms (``rfft2`` of a stamp whose centre is rolled to the
        first pixel) of its filter, ``(N, side, side // 2 + 1)`` complex64.
    grid : `TileGrid`
        Tiles.
    workers : `int`
        Threads.
    tolerance : `float`
        A variation within a tile (along x, along y, crossed) smaller than this,
        relative to the filter, is left out.
    beyond : `str`
        What the images are beyond their rim: their reflection, or zero.

    Returns
    -------
    result : `numpy.ndarray`, ``(Ny, Nx)`` float32
        The filter of a pixel is that of its own position ("gather").

    Notes
    -----
    Within a tile the filter is bilinear between its values at the corners,
    so that the result has no steps at tile edges: up to four inverse transforms a
    tile, ``D = f0*I + u (fx*I) + v (fy*I) + u v (fxy*I)``.
    """
    side, halo, inner = grid.side, grid.halo, grid.inner
    ny, nx = grid.shape
    tall, wide = len(grid.y) * inner + 2 * halo, len(grid.x) * inner + 2 * halo
    padded = [_pad(image, halo, tall, wide, beyond) for image in images]
    result = np.empty((ny, nx), dtype=np.float32)
    ramp = ((np.arange(inner) + 0.5) * (2.0 / inner) - 1.0).astype(np.float32)
    node_x, node_y = grid.node_x, grid.node_y
    tiles = np.empty((len(grid.x), side, side), dtype=np.float32)
    upper = filters(node_x, np.full(len(node_x), node_y[0]))
    for j, y0 in enumerate(grid.y):
        lower, upper = upper, filters(node_x, np.full(len(node_x), node_y[j + 1]))
        terms = _needed_terms(lower, upper, tolerance)
        products = np.empty((len(terms), len(grid.x), side, side // 2 + 1), dtype=np.complex64)
        for number, (image, low, high) in enumerate(zip(padded, lower, upper, strict=True)):
            cut_tiles(image, y0, grid.x, side, tiles)
            spectrum = scipy.fft.rfft2(tiles, workers=workers)
            multiply_filters(spectrum, _single(low), _single(high), terms, number > 0, products)
        parts = scipy.fft.irfft2(products, s=(side, side), axes=(-2, -1), workers=workers, overwrite_x=True)
        rows = min(inner, ny - y0)
        assemble_tiles(parts, terms, halo, ramp, rows, result[y0 : y0 + rows])
    return result


def _needed_terms(lower: list[np.ndarray], upper: list[np.ndarray], tolerance: float) -> np.ndarray:
    """Return which terms of the bilinear filters count, the constant one first (see `multiply_filters`)."""
    needed = [True, False, False, False]
    for low, high in zip(lower, upper, strict=True):
        # A filter is smooth in frequency: every fifth one tells.
        a, b, c, d = (f[:, ::5, ::5] for f in (low[:-1], low[1:], high[:-1], high[1:]))
        size = 4.0 * tolerance * np.abs(a).max()
        for term, change in ((1, b + d - a - c), (2, c + d - a - b), (3, a + d - b - c)):
            needed[term] = needed[term] or bool(np.abs(change).max() > size)
    return np.flatnonzero(needed)


def _single(filters: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(filters, dtype=np.complex64)


def _pad(image: np.ndarray, halo: int, tall: int, wide: int, beyond: str) -> np.ndarray:
    ny, nx = image.shape
    pads = ((halo, tall - ny - halo), (halo, wide - nx - halo))
    if beyond == "zero":
        return np.pad(np.ascontiguousarray(image, dtype=np.float32), pads)
    return np.pad(np.ascontiguousarray(image, dtype=np.float32), pads, mode="symmetric")
