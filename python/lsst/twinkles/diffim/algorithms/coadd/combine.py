"""Sums of images: plain weighted means, and filtered sums of one PSF."""

from __future__ import annotations

__all__ = ("combine_direct", "combine_filtered", "direct_psf", "fill_from_others")

from collections.abc import Sequence

import numpy as np

from ..convolve import convolve_varying, make_tile_grid
from ..psf_grid import PsfGrid
from .filters import CoaddFilters
from .inputs import CoaddInput, cut_rows, strips


def combine_direct(inputs: Sequence[CoaddInput]) -> np.ndarray:
    """Return the mean of the good pixels with weights ``1 / v``, zero where there are none.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        Images.

    Returns
    -------
    mean : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Images as they are: the PSF is the mean of theirs (`direct_psf`), and steps where the good pixels
        are of other images than next to them.
    """
    shape = inputs[0].image.shape
    total, weight = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for item in inputs:
        w = np.where(item.bad, np.float32(0.0), 1.0 / item.sky.image(shape))
        total += w * item.image
        weight += w
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def direct_psf(inputs: Sequence[CoaddInput], *, x: np.ndarray, y: np.ndarray, size: int) -> PsfGrid:
    """Return the PSF of the weighted mean of whole images on a grid of columns ``x`` and rows ``y``."""
    grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
    total = np.zeros((len(grid_x), size, size))
    for item in inputs:
        weight = 1.0 / item.sky.evaluate(x=grid_x, y=grid_y)
        total += weight[:, None, None] * item.psf.padded(size).evaluate(x=grid_x, y=grid_y)
    total /= total.sum(axis=(1, 2), keepdims=True)
    return PsfGrid(stamps=total.reshape(len(y), len(x), size, size), x=np.asarray(x), y=np.asarray(y))


def combine_filtered(
    filters: CoaddFilters, *, side: int, tolerance: float, rows: int, workers: int
) -> np.ndarray:
    """Return the sum of the filtered images.

    Parameters
    ----------
    filters : `CoaddFilters`
        Images without holes, and their filters.
    side : `int`
        Side of the Fourier tiles in pixels, enlarged where the filters need it.
    tolerance : `float`
        Share of the energy of the filters that may be cut off.
    rows : `int`
        Rows of the image that are worked on at a time.
    workers : `int`
        Threads.

    Returns
    -------
    coadd : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Beyond the rim images are continued by reflection.
    """
    inputs = filters.inputs
    ny, nx = inputs[0].image.shape
    halo = filters.extent(x=(nx - 1) / 2, y=(ny - 1) / 2, tolerance=tolerance)
    result = np.empty((ny, nx), dtype=np.float32)
    for part in strips(ny, rows=rows):
        around = slice(max(0, part.start - halo), min(ny, part.stop + halo))
        here = CoaddFilters(cut_rows(inputs, around), filters.method)
        grid = make_tile_grid((around.stop - around.start, nx), halo=halo, side=side)
        total = convolve_varying(
            [item.image for item in here.inputs],
            lambda x, y, here=here, grid=grid: here(x, y, grid.side),  # type: ignore[misc]
            grid,
            workers=workers,
        )
        result[part] = total[part.start - around.start : part.stop - around.start]
    return result


def fill_from_others(inputs: Sequence[CoaddInput]) -> None:
    """Give bad pixels the weighted mean of the good ones of other images, in place; zero if there are none.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        Images, changed. What is filled carries no information of its own; see the variance.
    """
    mean = combine_direct(inputs)
    for item in inputs:
        item.image[item.bad] = mean[item.bad]
