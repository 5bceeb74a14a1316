"""Pictures that tell how good a difference is: star residuals, pulls of blank sky, directions of dipoles."""

from __future__ import annotations

__all__ = ("measure_sky_pulls", "plot_dipoles", "plot_sky_pulls", "plot_star_residuals")

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from scipy import stats

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.measure.psf_fit import measure_forced_fluxes
from ..algorithms.measure.sky_positions import draw_sky_positions
from .figures import save_figure
from .panels import NEGATIVE_COLOR, POSITIVE_COLOR

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.images import MaskedImage, VisitImage

_BAD = ("NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "EDGE")
_AVOID = (*_BAD, "DETECTED", "DETECTED_NEGATIVE", "CR", "STREAK")
_STARS_IN_ROW = 6


def measure_sky_pulls(difference: VisitImage, *, count: int = 1000, radius: float = 5.0) -> np.ndarray:
    """Return PSF fluxes over their errors at positions without detections, ``(N,)``.

    Parameters
    ----------
    difference : `lsst.images.VisitImage`
        Difference with PSF, variance and the mask of its detections.
    count : `int`, optional
        Positions that are wanted.
    radius : `float`, optional
        Pixels around them that have to be free.
    """
    avoid = bad_pixels(difference.mask, _AVOID)
    x, y = draw_sky_positions(avoid, n_sources=count, n_trials=5 * count, radius=radius, grow=0, seed=1)
    image, variance = difference.image.array, difference.variance.array
    good = ~bad_pixels(difference.mask, _BAD) & (variance > 0)
    weight = np.divide(1.0, variance, out=np.zeros_like(variance), where=good)
    psf = sample_psf(difference.psf, difference.bbox, grid=4)
    half = int(np.ceil(2.5 * psf_fwhm(psf)))
    fluxes = measure_forced_fluxes(np.where(good, image, 0.0), weight, psf, x=x, y=y, half=half)
    pulls = fluxes.flux / fluxes.error
    return pulls[np.isfinite(pulls)]


def plot_sky_pulls(pulls: np.ndarray, path: str | Path) -> Path:
    """Write a picture of fluxes over errors of blank sky beside the normal distribution.

    Parameters
    ----------
    pulls : `numpy.ndarray`, ``(N,)``
        Fluxes over errors.
    path : `str` or `pathlib.Path`
        PNG to write.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    edges = np.linspace(-5, 5, 41)
    left.hist(np.clip(pulls, -5, 5), edges, color="0.8", edgecolor="0.5", label=f"{len(pulls)} positions")
    grid = np.linspace(-5, 5, 201)
    expected = len(pulls) * (edges[1] - edges[0]) * stats.norm.pdf(grid)
    left.plot(grid, expected, color=POSITIVE_COLOR, lw=2, label="N(0, 1)")
    left.set(xlabel="PSF flux / error", ylabel="positions", xlim=(-5, 5))
    left.legend(frameon=False, fontsize=9)
    ordered = np.sort(pulls)
    theory = stats.norm.ppf((np.arange(len(ordered)) + 0.5) / max(len(ordered), 1))
    right.plot([-4, 4], [-4, 4], color=POSITIVE_COLOR, lw=1.5)
    right.plot(theory, ordered, ".", color="0.3", ms=4)
    right.set(xlabel="quantile of N(0, 1)", ylabel="PSF flux / error", xlim=(-4, 4), ylim=(-5, 5))
    if len(pulls):
        error = 1 / np.sqrt(len(pulls))
        figure.suptitle(
            f"Blank sky: mean {pulls.mean():+.3f} ± {error:.3f}, "
            f"standard deviation {pulls.std():.3f} ± {error / np.sqrt(2):.3f}",
            fontsize=12,
        )
    return save_figure(figure, path)


def plot_star_residuals(
    science: MaskedImage | None,
    difference: MaskedImage,
    stars: Table,
    path: str | Path,
    *,
    count: int = 12,
    half: int = 15,
) -> Path:
    """Write a picture of what is left of the brightest stars that made the kernel.

    Parameters
    ----------
    science : `lsst.images.MaskedImage` or `None`
        Science exposure, shown beside the difference if there is one.
    difference : `lsst.images.MaskedImage`
        Difference with variance.
    stars : `astropy.table.Table`
        ``x``, ``y``, ``signalToNoise``, ``fluxResidual``, ``chi2``, ``used``.
    path : `str` or `pathlib.Path`
        PNG to write.
    count : `int`, optional
        Stars to show.
    half : `int`, optional
        Half side of a cutout in pixels.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    order = np.argsort(-np.asarray(stars["signalToNoise"], float))[:count]
    shown = [difference] if science is None else [science, difference]
    rows = max(1, int(np.ceil(len(order) / _STARS_IN_ROW)))
    figure = Figure(figsize=(13.0, 1.25 * rows * (2 * len(shown)) + 3.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.2 * rows * len(shown), 2.2))
    top, bottom = parts
    axes = top.subplots(rows * len(shown), _STARS_IN_ROW, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for place, index in enumerate(order):
        row, column = divmod(place, _STARS_IN_ROW)
        star = stars[int(index)]
        for k, exposure in enumerate(shown):
            _show_star(
                axes[row * len(shown) + k, column], exposure, star, half, is_difference=exposure is difference
            )
        title = f"S/N {star['signalToNoise']:.0f}" + ("" if star["used"] else ", not used")
        axes[row * len(shown), column].set_title(title, fontsize=9)
    _plot_star_figures(bottom.subplots(1, 2), stars)
    figure.suptitle("The brightest kernel stars, and their residuals (−8 to 8 σ)", fontsize=12)
    return save_figure(figure, path)


def _show_star(ax: Any, exposure: MaskedImage, star: Any, half: int, *, is_difference: bool) -> None:
    """Show the pixels around a star."""
    box = exposure.bbox
    x, y = round(float(star["x"])) - box.x.start, round(float(star["y"])) - box.y.start
    cut = np.s_[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
    pixels = exposure.image.array[cut]
    if is_difference:
        with np.errstate(invalid="ignore", divide="ignore"):
            ax.imshow(
                pixels / np.sqrt(exposure.variance.array[cut]), origin="lower", cmap="RdBu_r", vmin=-8, vmax=8
            )
        return
    sky = float(np.median(pixels)) if pixels.size else 0.0
    noise = float(np.sqrt(np.median(exposure.variance.array[cut]))) if pixels.size else 1.0
    ax.imshow(np.arcsinh((pixels - sky) / (3 * noise)), origin="lower", cmap="gray")


def _plot_star_figures(axes: Any, stars: Table) -> None:
    """Plot residual flux and chi square against signal-to-noise."""
    used = np.asarray(stars["used"], bool)
    signal = np.maximum(np.asarray(stars["signalToNoise"], float), 1.0)
    for ax, name, ideal, label in (
        (axes[0], "fluxResidual", 0.0, "residual flux / error"),
        (axes[1], "chi2", 1.0, "chi square a pixel"),
    ):
        values = np.asarray(stars[name], float)
        ax.axhline(ideal, color="0.6", lw=1)
        for chosen, marker, color, text in (
            (used, "o", "#0072B2", "used"),
            (~used, "x", "#D55E00", "clipped"),
        ):
            ax.plot(
                signal[chosen],
                values[chosen],
                marker,
                color=color,
                ms=5,
                ls="",
                label=f"{chosen.sum()} {text}",
            )
        ax.set(xscale="log", xlabel="signal-to-noise of the star", ylabel=label)
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        # Clipped stars may lie anywhere; those used have to be seen.
        low, high = np.nanpercentile(values[used], (0, 100)) if used.any() else (0.0, 1.0)
        margin = max(0.3 * (high - low), 0.5)
        ax.set_ylim(min(low, ideal) - margin, max(high, ideal) + margin)
    axes[0].legend(frameon=False, fontsize=9)


def plot_dipoles(sources: Mapping[str, Any], bbox: Any, path: str | Path) -> Path:
    """Write a picture of the directions of dipoles over the image.

    Parameters
    ----------
    sources : mapping of columns
        ``x``, ``y``, ``isDipole``, ``dipoleLength`` (arcsec) and ``dipoleAngle`` (deg, east of north).
    bbox : `lsst.images.Box`
        Pixels of the image.
    path : `str` or `pathlib.Path`
        PNG to write.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    dipole = np.asarray(sources["isDipole"], bool)
    x, y = (np.asarray(sources[name], float)[dipole] for name in "xy")
    angle = np.radians(np.asarray(sources["dipoleAngle"], float)[dipole])
    length = np.asarray(sources["dipoleLength"], float)[dipole]
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    if dipole.any():
        # North up, east to the left.
        left.quiver(
            x, y, -np.sin(angle) * length, np.cos(angle) * length, angles="uv", color="#0072B2", width=0.006
        )
    left.set(xlim=(bbox.x.start, bbox.x.stop), ylim=(bbox.y.start, bbox.y.stop), aspect="equal")
    left.set(xlabel="x (pixels)", ylabel="y (pixels)", title=f"{dipole.sum()} dipoles, north up, east left")
    right: Any = figure.add_subplot(1, 2, 2, projection="polar")
    right.set_theta_zero_location("N")
    right.hist(
        np.mod(angle, 2 * np.pi), bins=np.linspace(0, 2 * np.pi, 17), color=NEGATIVE_COLOR, edgecolor="0.4"
    )
    strength = float(np.hypot(np.cos(angle).mean(), np.sin(angle).mean())) if dipole.any() else 0.0
    right.set_title(f"directions; mean resultant {strength:.2f} (1: all alike)", fontsize=10)
    return save_figure(figure, path)
