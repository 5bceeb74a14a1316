"""What a difference is like all over the image: maps and ranges of the spatially sampled figures."""

from __future__ import annotations

__all__ = ("plot_spatial_figures", "summarize_spatial_figures")

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from .figures import save_figure

if TYPE_CHECKING:
    from astropy.table import Table

_COLUMNS = 5
_BAD_PLANES = ("no_data", "bad", "sat", "sat_template", "cr", "streak", "edge")


class SpatialFigure(NamedTuple):
    """Values of one figure at all positions.

    Attributes
    ----------
    title : `str`
        What it is, with its unit.
    values : `numpy.ndarray`, ``(N,)``
        Values.
    centred : `bool`
        0 is what it should be.
    """

    title: str
    values: np.ndarray
    centred: bool


def _figures(table: Table) -> list[SpatialFigure]:
    """Return the figures that are shown, as far as the table has them."""

    def unit(name: str) -> str:
        return f" ({table[name].unit})" if table[name].unit is not None else ""

    columns = (
        ("diffim_value", "median of the difference", True),
        ("diffim_variance", "its variance", False),
        ("science_psfSize", "FWHM, science image", False),
        ("template_psfSize", "FWHM, template", False),
        ("psfMatchingKernel_sum", "kernel sum", False),
        ("psfMatchingKernel_length", "kernel offset", False),
        ("source_density", "sources", False),
        ("dipole_density", "dipoles", False),
        ("dipole_separation", "separation of dipoles", False),
    )
    figures = [
        SpatialFigure(text + unit(name), np.asarray(table[name], float), centred)
        for name, text, centred in columns
        if name in table.colnames
    ]
    bad = [f"{plane}_mask_fraction" for plane in _BAD_PLANES if f"{plane}_mask_fraction" in table.colnames]
    if bad:
        total = np.minimum(np.sum([np.asarray(table[name], float) for name in bad], axis=0), 1.0)
        figures.append(SpatialFigure("share of bad pixels", total, False))
    return [figure for figure in figures if np.isfinite(figure.values).any()]


def summarize_spatial_figures(table: Table) -> list[tuple[str, float, float, float]]:
    """Return title, median, least and greatest of each figure.

    Parameters
    ----------
    table : `astropy.table.Table`
        Of `~lsst.twinkles.diffim.tasks.spatially_sampled_metrics.SpatiallySampledMetricsTask`.
    """
    rows = []
    for figure in _figures(table):
        good = figure.values[np.isfinite(figure.values)]
        rows.append((figure.title, float(np.median(good)), float(good.min()), float(good.max())))
    return rows


def plot_spatial_figures(table: Table, bbox: Any, path: str | Path) -> Path:
    """Write a picture of maps of the figures, one point for each square that was looked at.

    Parameters
    ----------
    table : `astropy.table.Table`
        Of `~lsst.twinkles.diffim.tasks.spatially_sampled_metrics.SpatiallySampledMetricsTask`.
    bbox : `lsst.images.Box`
        Pixels of the image.
    path : `str` or `pathlib.Path`
        PNG to write.

    Returns
    -------
    path : `pathlib.Path`
        The file.

    Raises
    ------
    ValueError
        If there is no finite figure.
    """
    figures = _figures(table)
    if not figures:
        raise ValueError(f"None of the {len(table)} positions has a figure.")
    rows = -(-len(figures) // _COLUMNS)
    picture = Figure(figsize=(15.0, 2.9 * rows), layout="constrained")
    axes = picture.subplots(rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
    x, y = (np.asarray(table[name], float) for name in "xy")
    for ax, figure in zip(axes.ravel(), figures, strict=False):
        _draw_map(picture, ax, x, y, figure)
        ax.set(xlim=(bbox.x.start, bbox.x.stop), ylim=(bbox.y.start, bbox.y.stop), aspect="equal")
    for ax in axes.ravel()[len(figures) :]:
        ax.set_axis_off()
    return save_figure(picture, path)


def _draw_map(picture: Figure, ax: Any, x: np.ndarray, y: np.ndarray, figure: SpatialFigure) -> None:
    """Draw one figure; colours span what all but the outermost values do."""
    good = np.isfinite(figure.values)
    low, high = np.percentile(figure.values[good], (2, 98))
    if figure.centred:
        high = max(abs(low), abs(high))
        low = -high
    if not high > low:
        margin = 0.01 * abs(high) or 1.0
        low, high = (low - margin if low else 0.0), high + margin
    points = ax.scatter(
        x[good], y[good], c=figure.values[good], s=42, vmin=low, vmax=high,
        cmap="RdBu_r" if figure.centred else "viridis", edgecolors="0.4", linewidths=0.4,
    )  # fmt: skip
    ax.plot(x[~good], y[~good], "x", color="0.6", ms=4)
    ax.set_title(figure.title, fontsize=10)
    ax.tick_params(labelsize=8)
    bar = picture.colorbar(points, ax=ax, shrink=0.85)
    bar.ax.tick_params(labelsize=8)
    bar.ax.ticklabel_format(useOffset=False, axis="y")
