"""What a difference of two simulated visits should show."""

from __future__ import annotations

__all__ = (
    "difference_truth",
    "exposure_truth",
    "mean_around",
    "optimal_flux_error",
    "stack_truth",
    "write_truth",
)

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from ..adapters.psfs import sample_psf, square_odd
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.select.depth import difference_flux_error, psf_power

if TYPE_CHECKING:
    from lsst.images import VisitImage

    from .visits import SimulatedVisit

_TRANSFORM_SIZE = 128


def optimal_flux_error(
    psf_science: np.ndarray,
    psf_template: np.ndarray,
    variance_science: np.ndarray | float,
    variance_template: np.ndarray | float,
) -> np.ndarray:
    """Return the error of the best possible flux of a point source in a difference.

    The expression is that of `~lsst.twinkles.diffim.algorithms.select.depth.difference_flux_error`, here for
    two PSFs and many variances.

    Parameters
    ----------
    psf_science, psf_template : `numpy.ndarray`, ``(S, S)``
        Unit-sum stamps.
    variance_science, variance_template : array-like, ``(N,)``
        Noise variance per pixel, in the flux scale of the science image.

    Returns
    -------
    error : `numpy.ndarray`, ``(N,)``
        Standard deviation of the flux in the unit of the images.
    """
    powers = [
        psf_power(PsfGrid.constant(square_odd(psf)), side=_TRANSFORM_SIZE)
        for psf in (psf_science, psf_template)
    ]
    # The result depends on the ratio of the variances but for a factor.
    ratio = np.linspace(-4, 4, 81)
    table = difference_flux_error(powers[0][None], powers[1][None], np.ones_like(ratio), 10**ratio)
    variance_science = np.asarray(variance_science, dtype=float)
    observed = np.log10(np.asarray(variance_template, dtype=float) / variance_science)
    return np.sqrt(variance_science) * np.exp(np.interp(observed, ratio, np.log(table)))


def difference_truth(science: SimulatedVisit, template: SimulatedVisit) -> Table:
    """Return what changed between two visits to one field.

    Parameters
    ----------
    science, template : `SimulatedVisit`
        Two visits of the same scene.

    Returns
    -------
    truth : `astropy.table.Table`
        The rows of the science visit that lie on its pixels, with
        ``difference_flux`` (nJy, science minus template), ``flux_error`` (the
        best possible one, nJy) and ``snr`` (their absolute ratio).
    """
    if science.model.shape != template.model.shape:
        raise ValueError(
            "Science and template must be of one scene; their shapes are "
            f"{science.model.shape} and {template.model.shape}."
        )
    truth = science.truth.copy()
    truth["difference_flux"] = (np.asarray(truth["flux"]) - np.asarray(template.truth["flux"])) * u.nJy
    ny, nx = science.model.shape
    x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
    truth = truth[(x >= 0) & (y >= 0) & (x <= nx - 1) & (y <= ny - 1)]
    truth["flux_error"] = _flux_errors(science, template, truth) * u.nJy
    truth["snr"] = np.abs(np.asarray(truth["difference_flux"])) / np.asarray(truth["flux_error"])
    truth.meta.update(template_visit=template.conditions.visit)
    return truth


def exposure_truth(
    science: VisitImage, template: VisitImage, science_truth: Table, template_truth: Table
) -> Table:
    """Return what changed between two visits, from what a simulated repository holds of them.

    Parameters
    ----------
    science, template : `lsst.images.VisitImage`
        The exposures.
    science_truth, template_truth : `astropy.table.Table`
        The truth of their visits, of one field.

    Returns
    -------
    truth : `astropy.table.Table`
        As of `difference_truth`. Errors are made with the PSFs in the middle and
        the variance planes of the exposures.
    """
    if not np.array_equal(science_truth["object_id"], template_truth["object_id"]):
        raise ValueError(
            "science_truth and template_truth must list the same objects; take both from one field."
        )
    truth = science_truth.copy()
    truth["difference_flux"] = (np.asarray(truth["flux"]) - np.asarray(template_truth["flux"])) * u.nJy
    box = science.bbox
    x, y = np.asarray(truth["x"]) - box.x.start, np.asarray(truth["y"]) - box.y.start
    inside = (x >= 0) & (y >= 0) & (x <= box.x.size - 1) & (y <= box.y.size - 1)
    # The template's own pixels differ if it was dithered; its sky is much the same everywhere.
    in_template = np.asarray(template_truth["x"])[inside], np.asarray(template_truth["y"])[inside]
    truth, places = truth[inside], ((x[inside], y[inside]), in_template)
    variances = [
        _nanojansky(exposure) ** 2 * _variance_at(exposure, *place)
        for exposure, place in zip((science, template), places, strict=True)
    ]
    psfs = [
        sample_psf(exposure.psf, exposure.bbox, grid=1, size=41).mean() for exposure in (science, template)
    ]
    truth["flux_error"] = optimal_flux_error(*psfs, *variances) * u.nJy
    truth["snr"] = np.abs(np.asarray(truth["difference_flux"])) / np.asarray(truth["flux_error"])
    return truth


def _nanojansky(exposure: VisitImage) -> float:
    """Return nJy per pixel unit in the middle of an exposure."""
    if exposure.photometric_scaling is None:
        raise ValueError("The exposure has no photometric_scaling; a simulated one has.")
    box = exposure.bbox
    x, y = np.array([(box.x.start + box.x.stop) / 2]), np.array([(box.y.start + box.y.stop) / 2])
    return float(np.asarray(exposure.photometric_scaling(x=x, y=y)).ravel()[0])


def _variance_at(exposure: VisitImage, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean of the variance plane around positions; those outside take the rim's."""
    ny, nx = exposure.variance.array.shape
    column, row = (np.clip(np.round(v), 0, n - 1).astype(int) for v, n in ((x, nx), (y, ny)))
    return mean_around(exposure.variance.array, row, column)


def _flux_errors(science: SimulatedVisit, template: SimulatedVisit, truth: Table) -> np.ndarray:
    """Return the best possible flux errors in nJy at the positions of a table."""
    scale_science = science.conditions.nanojansky_per_electron
    scale_template = template.conditions.nanojansky_per_electron
    column = np.round(np.asarray(truth["x"])).astype(int)
    row = np.round(np.asarray(truth["y"])).astype(int)
    variances = [
        scale**2 * mean_around(visit.true_variance, row, column)
        for visit, scale in ((science, scale_science), (template, scale_template))
    ]
    return optimal_flux_error(science.psf.middle_stamp(), template.psf.middle_stamp(), *variances)


def mean_around(image: np.ndarray, row: np.ndarray, column: np.ndarray, half: int = 2) -> np.ndarray:
    """Return means over squares around pixels, cut at the rim of the image, ``(N,)``."""
    return np.array(
        [
            image[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].mean()
            for y, x in zip(row, column, strict=True)
        ]
    )


def stack_truth(tables: Sequence[Table]) -> Table:
    """Put the truth tables of several visits into one, with their ``visit``, ``band`` and ``mjd``."""
    parts = []
    for table in tables:
        part = table.copy()
        for name in ("visit", "band", "mjd"):
            part[name] = np.full(len(part), table.meta[name])
        part["mjd"].unit = u.day
        part.meta.clear()
        parts.append(part)
    return vstack(parts)


def write_truth(table: Table, path: Path) -> None:
    """Write a truth table as parquet, units kept, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        table.write(unfinished, format="parquet", overwrite=True)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
