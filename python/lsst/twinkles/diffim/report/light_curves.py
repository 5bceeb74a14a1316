"""Light curves from difference images, and their pictures beside the truth."""

from __future__ import annotations

__all__ = ("measure_depth", "measure_points", "plot_light_curves", "plot_stamps")

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from matplotlib.figure import Figure

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.measure.psf_fit import measure_forced_fluxes
from ..algorithms.robust import robust_scatter
from .figures import save_figure

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.images import DifferenceImage

_BAD_PLANES = ("NO_DATA", "BAD", "SAT", "SAT_TEMPLATE")
_RADIUS_FWHM = 2.5
_COLUMNS = 3
_BLANK_POSITIONS = 1000
_MODEL_COLOR, _POINT_COLOR = "0.45", "tab:blue"


def measure_points(
    difference: DifferenceImage, *, ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure PSF fluxes at positions on the sky.

    Parameters
    ----------
    difference : `lsst.images.DifferenceImage`
        Calibrated difference.
    ra, dec : `numpy.ndarray`, ``(N,)``
        ICRS positions in degrees.

    Returns
    -------
    flux, error : `numpy.ndarray`, ``(N,)``
        nJy; NaN for positions outside the image or on masked pixels.
    """
    from astropy.coordinates import SkyCoord

    there = difference.sky_projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg"))
    box = difference.bbox
    x, y = np.asarray(there.x) - box.x.start, np.asarray(there.y) - box.y.start
    return _measure_pixels(difference, x, y)


def _measure_pixels(
    difference: DifferenceImage, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    variance = difference.variance.array
    bad = bad_pixels(difference.mask, _BAD_PLANES) | ~(variance > 0)
    weight = np.where(bad, 0.0, 1.0 / np.where(variance > 0, variance, 1.0))
    psf = sample_psf(difference.psf, difference.bbox)
    half = int(np.ceil(_RADIUS_FWHM * psf_fwhm(psf)))
    ny, nx = variance.shape
    inside = np.isfinite(x) & np.isfinite(y) & (x >= 0) & (y >= 0) & (x <= nx - 1) & (y <= ny - 1)
    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    if inside.any():
        fluxes = measure_forced_fluxes(
            difference.image.array, weight, psf, x=x[inside], y=y[inside], half=half
        )
        centre_bad = bad[np.round(y[inside]).astype(int), np.round(x[inside]).astype(int)]
        flux[inside] = np.where(centre_bad, np.nan, fluxes.flux)
        error[inside] = np.where(centre_bad, np.nan, fluxes.error)
    scale = _nanojansky(difference)
    return flux * scale, error * scale


def measure_depth(difference: DifferenceImage, *, seed: int = 1) -> float:
    """Return the AB magnitude of a point source at 5 sigma, from the scatter of fluxes in blank sky."""
    rng = np.random.default_rng(seed)
    ny, nx = difference.image.array.shape
    margin = min(25, nx // 8, ny // 8)
    x, y = (rng.uniform(margin, n - 1 - margin, _BLANK_POSITIONS) for n in (nx, ny))
    taken = bad_pixels(difference.mask, (*_BAD_PLANES, "DETECTED", "DETECTED_NEGATIVE"))
    blank = ~taken[np.round(y).astype(int), np.round(x).astype(int)]
    flux, _ = _measure_pixels(difference, x[blank], y[blank])
    return float(31.4 - 2.5 * np.log10(5.0 * robust_scatter(flux)))


def _nanojansky(difference: DifferenceImage) -> float:
    """Return nJy per unit in the middle of a difference."""
    if difference.unit.is_equivalent(u.nJy):
        return float(difference.unit.to(u.nJy))
    box, scaling = difference.bbox, difference.photometric_scaling
    if scaling is None:
        raise ValueError(
            "The difference is not calibrated (no photometric_scaling), so that it has no fluxes."
        )
    value = float(np.asarray(scaling(x=box.x.center, y=box.y.center)))
    return value * float((difference.unit * scaling.unit).to(u.nJy))


def plot_light_curves(
    curves: Sequence[Table], models: Sequence[Mapping[str, np.ndarray]], path: str | Path, *, title: str
) -> Path:
    """Draw measured fluxes over the true light curves.

    Parameters
    ----------
    curves : sequence of `astropy.table.Table`
        One an object: ``mjd``, ``flux``, ``error`` (nJy) and ``meta["label"]``.
    models : sequence of mapping
        For each object the truth on a fine grid: ``mjd`` and ``flux`` (nJy).
    path : `str` or `pathlib.Path`
        PNG to write.
    title : `str`
        Above all.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    rows = max(1, -(-len(curves) // _COLUMNS))
    figure = Figure(figsize=(4.6 * _COLUMNS, 2.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for ax in axes.ravel()[len(curves) :]:
        ax.set_visible(False)
    for ax, curve, model in zip(axes.ravel(), curves, models, strict=False):
        ax.plot(model["mjd"], model["flux"], color=_MODEL_COLOR, lw=1.2, label="truth")
        ax.errorbar(
            np.asarray(curve["mjd"]),
            np.asarray(curve["flux"]),
            np.asarray(curve["error"]),
            fmt="o",
            ms=3.5,
            lw=1.0,
            color=_POINT_COLOR,
            label="measured",
        )
        ax.axhline(0.0, color="0.8", lw=0.8, zorder=0)
        ax.set_title(curve.meta["label"], fontsize=9)
        ax.tick_params(labelsize=8)
        ax.set_xlabel("MJD", fontsize=8)
        ax.set_ylabel("flux / nJy", fontsize=8)
    if len(curves):
        axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=12)
    return save_figure(figure, path)


def plot_stamps(
    rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], path: str | Path, *, title: str
) -> Path:
    """Draw cutouts of differences in rows, one an object, in the order of time.

    Parameters
    ----------
    rows : sequence of `tuple`
        Label of the object, and pairs of a label and an image in units of the noise.
    path : `str` or `pathlib.Path`
        PNG to write.
    title : `str`
        Above all.
    """
    columns = max((len(stamps) for _, stamps in rows), default=1)
    figure = Figure(figsize=(1.15 * columns + 1.4, 1.4 * max(1, len(rows)) + 0.6), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for row, (label, stamps) in zip(axes, rows, strict=False):
        row[0].text(-0.1, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
        for ax, (name, image) in zip(row, stamps, strict=False):
            ax.imshow(image, origin="lower", cmap="RdBu_r", vmin=-8, vmax=8, interpolation="nearest")
            ax.set_title(name, fontsize=7, pad=2)
    figure.suptitle(title, fontsize=11)
    return save_figure(figure, path)
