"""Convolution with filters that vary over the image, by overlapping Fourier tiles."""

from __future__ import annotations

__all__ = ("TileGrid", "choose_tile_grid", "convolve_varying", "make_tile_grid")

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import scipy.fft

from .convolve_nb import add_weighted, cut_tile

type Filters = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]

# Nodes whose filters are made at once: the fewer, the better they stay in the processor's cache.
_CHUNK = 3


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
    """Choose tiles of about ``side`` pixels with the given halo that cover an image.

    They are as small as their number allows, so that little of the last ones lies beyond the image.
    """
    longest = max(side, 4 * halo) - 2 * halo
    inner = max(-(-n // -(-n // longest)) for n in shape)
    side = scipy.fft.next_fast_len(inner + 2 * halo, real=True)
    inner = side - 2 * halo
    return TileGrid(
        shape=shape,
        inner=inner,
        halo=halo,
        y=np.arange(0, shape[0], inner),
        x=np.arange(0, shape[1], inner),
    )


def choose_tile_grid(
    shape: tuple[int, int],
    *,
    halo: int,
    side: int,
    error: Callable[[TileGrid], float],
    largest_error: float,
) -> TileGrid:
    """Choose tiles, smaller ones where filters vary so much that they are not bilinear within these.

    Parameters
    ----------
    shape, halo, side
        As in `make_tile_grid`; the side is halved as long as eight halos fit into it.
    error : callable
        Returns how wrong interpolated filters are for a grid.
    largest_error : `float`
        What is let pass.
    """
    grid = make_tile_grid(shape, halo=halo, side=side)
    while grid.side >= 8 * halo and error(grid) > largest_error:
        grid = make_tile_grid(shape, halo=halo, side=grid.side // 2)
    return grid


def convolve_varying(
    images: list[np.ndarray],
    filters: Filters,
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
        A variation within a tile of less than this to either side, relative to the filter, is left out.
    beyond : `str`
        What the images are beyond their rim: their reflection, or zero.

    Returns
    -------
    result : `numpy.ndarray`, ``(Ny, Nx)`` float32
        The filter of a pixel is that of its own position ("gather").

    Notes
    -----
    Within a tile the filter is bilinear between its values at the corners,
    so that the result has no steps at tile edges: ``D = sum_c w_c (f_c * I)``, an inverse transform for each
    corner, or but one where the filter does not vary.
    """
    images = [np.ascontiguousarray(image, dtype=np.float32) for image in images]
    result = np.empty(grid.shape, dtype=np.float32)
    tiles = _Tiles(images, grid, tolerance, beyond == "reflection", result)
    columns = range(len(grid.x))
    with _Workers(workers) as do:
        low, high = (_join(do(_node_jobs(filters, grid, row))) for row in (0, 1))
        for row in range(len(grid.y)):
            corners = [(low[t], low[t + 1], high[t], high[t + 1]) for t in columns]
            # The filters of the next row are made beside the tiles of this one.
            ahead = _node_jobs(filters, grid, row + 2)
            done = do([*ahead, *(partial(tiles.convolve, row, t, corners[t]) for t in columns)])
            low, high = high, _join(done[: len(ahead)])
    return result


@dataclass(frozen=True)
class _Tiles:
    """Images and where the result goes; everything but the filters."""

    images: list[np.ndarray]
    grid: TileGrid
    tolerance: float
    mirror: bool
    result: np.ndarray

    def convolve(self, row: int, column: int, corners: tuple[list[np.ndarray], ...]) -> None:
        """Convolve one tile, given the filters of all images at its corners, lower two first."""
        grid = self.grid
        side, y, x = grid.side, grid.y[row], grid.x[column]
        pixels = np.empty((side, side), dtype=np.float32)
        spectra = []
        for image in self.images:
            cut_tile(image, y - grid.halo, x - grid.halo, self.mirror, pixels)
            spectra.append(scipy.fft.rfft2(pixels))
        if _are_equal(corners, self.tolerance):
            corners = ([np.mean(filters, axis=0) for filters in zip(*corners, strict=True)],)
            weights = [(self.even, self.even)]
        else:
            weights = [(v, u) for v in (self.falling, self.rising) for u in (self.falling, self.rising)]
        # One corner after the other: what it takes stays in the processor's cache.
        for number, (filters, weight) in enumerate(zip(corners, weights, strict=True)):
            product = spectra[0] * filters[0]
            for spectrum, filter_ in zip(spectra[1:], filters[1:], strict=True):
                product += spectrum * filter_
            part = scipy.fft.irfft2(product, s=(side, side), overwrite_x=True)
            add_weighted(part, *weight, grid.halo, y, x, number > 0, self.result)

    @cached_property
    def rising(self) -> np.ndarray:
        """Weights of the right, or upper, corner along a tile (`numpy.ndarray`)."""
        return ((np.arange(self.grid.inner) + 0.5) / self.grid.inner).astype(np.float32)

    @cached_property
    def falling(self) -> np.ndarray:
        """Weights of the other corner (`numpy.ndarray`)."""
        return np.float32(1.0) - self.rising

    @cached_property
    def even(self) -> np.ndarray:
        """Weights if all corners are equal (`numpy.ndarray`)."""
        return np.ones_like(self.rising)


class _Workers:
    """Threads that do a list of jobs; the calling thread itself if there is but one."""

    def __init__(self, number: int) -> None:
        self._pool = ThreadPoolExecutor(number) if number > 1 else None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, jobs: list[Callable[[], Any]]) -> list[Any]:
        """Return what the jobs return."""
        if self._pool is None:
            return [job() for job in jobs]
        return [future.result() for future in [self._pool.submit(job) for job in jobs]]


def _node_jobs(filters: Filters, grid: TileGrid, row: int) -> list[Callable[[], list[np.ndarray]]]:
    """Return jobs that make the filters at the nodes of a row, some nodes each; none beyond the last row."""
    if row > len(grid.y):
        return []
    x = grid.node_x
    y = np.full(len(x), grid.node_y[row])
    return [partial(filters, x[k : k + _CHUNK], y[k : k + _CHUNK]) for k in range(0, len(x), _CHUNK)]


def _join(chunks: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Return the filters of all images by node."""
    return [
        [np.ascontiguousarray(image[k], dtype=np.complex64) for image in chunk]
        for chunk in chunks
        for k in range(len(chunk[0]))
    ]


def _are_equal(corners: tuple[list[np.ndarray], ...], tolerance: float) -> bool:
    """Tell whether the filters at a tile's corners are the same but for a fraction of the largest value."""
    for filters in zip(*corners, strict=True):
        # A filter is smooth in frequency: every fifth one tells.
        first, *others = (f[::5, ::5] for f in filters)
        limit = 2.0 * tolerance * np.abs(first).max()
        if any(np.abs(other - first).max() > limit for other in others):
            return False
    return True
