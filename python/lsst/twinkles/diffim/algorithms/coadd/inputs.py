"""What goes into a coadd."""

from __future__ import annotations

__all__ = ("CoaddInput", "cut_rows", "inverse_variance_image", "mean_variance_map", "strips")

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..noise import NoiseMap
from ..psf_grid import PsfGrid


@dataclass(frozen=True)
class CoaddInput:
    """One image on the grid and the flux scale of the coadd.

    Attributes
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Sky-subtracted, finite.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels without a value of their own, or with one that does not belong into a coadd.
    sky : `NoiseMap`
        Variance of a pixel of blank sky; of a resampled image that of its low frequencies.
    psf : `PsfGrid`
        PSF in array coordinates.
    """

    image: np.ndarray
    bad: np.ndarray
    sky: NoiseMap
    psf: PsfGrid


def strips(n_rows: int, *, rows: int) -> Iterator[slice]:
    """Yield slices of about ``rows`` rows that cover an image."""
    n = max(1, -(-n_rows // rows))
    edges = np.linspace(0, n_rows, n + 1).astype(int)
    for start, stop in pairwise(edges):
        yield slice(int(start), int(stop))


def cut_rows(inputs: Sequence[CoaddInput], rows: slice) -> list[CoaddInput]:
    """Return some rows of images, with noise and PSF in the coordinates of the part."""
    return [
        replace(
            item,
            image=item.image[rows],
            bad=item.bad[rows],
            sky=replace(item.sky, y=item.sky.y - rows.start),
            psf=replace(item.psf, y=item.psf.y - rows.start),
        )
        for item in inputs
    ]


def inverse_variance_image(inputs: Sequence[CoaddInput], *, good_only: bool) -> np.ndarray:
    """Return the sum of the inverse variances of the images at each pixel, ``(Ny, Nx)``, float32."""
    total = np.zeros(inputs[0].image.shape, dtype=np.float32)
    for item in inputs:
        weight = 1.0 / item.sky.image(total.shape)
        total += np.where(item.bad, np.float32(0.0), weight) if good_only else weight
    return total


def mean_variance_map(inputs: Sequence[CoaddInput]) -> NoiseMap:
    """Return the variance that a pixel of blank sky has in the weighted mean of whole images."""
    x, y = inputs[0].sky.x, inputs[0].sky.y
    grid_x, grid_y = np.meshgrid(x, y)
    weight = sum(1.0 / item.sky.evaluate(x=grid_x, y=grid_y) for item in inputs)
    return NoiseMap(values=1.0 / np.asarray(weight), x=x, y=y)
