"""Measurement of blank sky along with the detections."""

from __future__ import annotations

__all__ = ("as_detections", "force_positions")

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.measure.psf_fit import measure_forced_fluxes


def as_detections(positions: np.ndarray, like: Table) -> Table:
    """Return positions ``(N, 2)`` as a table with the columns of detections."""
    rows = Table()
    for name in like.colnames:
        column = like[name]
        values = positions[:, "xy".index(name)] if name in ("x", "y") else np.zeros(len(positions))
        rows[name] = np.asarray(values, dtype=column.dtype)
        rows[name].unit = column.unit
    return rows


def force_positions(
    table: Table, image: Any, positions: np.ndarray, *, first: int, planes: Sequence[str]
) -> None:
    """Put PSF fluxes at given positions in the place of fitted ones.

    Parameters
    ----------
    table : `astropy.table.Table`
        DIA sources; rows from ``first`` on are changed.
    image : `lsst.images.VisitImage`
        Difference.
    positions : `numpy.ndarray`, ``(N, 2)``
        x and y of those rows.
    first : `int`
        Number of the first of them.
    planes : sequence of `str`
        Planes whose pixels get no weight.
    """
    if len(positions) == 0:
        return
    pixels, variance = image.image.array, image.variance.array
    bad = bad_pixels(image.mask, planes)
    with np.errstate(invalid="ignore", divide="ignore"):
        bad |= ~(variance > 0) | ~np.isfinite(variance) | ~np.isfinite(pixels)
        weight = np.where(bad, np.float32(0.0), np.float32(1.0) / variance)
    psf = sample_psf(image.psf, image.bbox, grid=4)
    forced = measure_forced_fluxes(
        np.where(bad, np.float32(0.0), pixels),
        weight,
        psf,
        x=positions[:, 0] - image.bbox.x.start,
        y=positions[:, 1] - image.bbox.y.start,
        half=int(np.ceil(2.5 * psf_fwhm(psf))),
    )
    rows = slice(first, first + len(positions))
    table["x"][rows], table["y"][rows] = positions.T
    table["psfFlux"][rows], table["psfFluxErr"][rows] = forced.flux, forced.error
    table["psfNdata"][rows] = forced.n_pixels
    table["centroid_flag"][rows] = False
