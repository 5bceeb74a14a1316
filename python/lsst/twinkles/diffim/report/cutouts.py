"""Cutouts of detections: science, template and difference beside each other."""

from __future__ import annotations

__all__ = ("plot_cutouts",)

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..algorithms.robust import robust_scatter
from .figures import save_figure
from .panels import NEGATIVE_COLOR, POSITIVE_COLOR

if TYPE_CHECKING:
    from lsst.images import MaskedImage

_TRIPLETS_IN_ROW = 3


def plot_cutouts(
    science: MaskedImage,
    matched_template: MaskedImage,
    difference: MaskedImage,
    dia_sources: Mapping[str, Any],
    path: str | Path,
    *,
    count: int = 12,
    size: int = 31,
) -> Path:
    """Write a picture of the detections of highest signal-to-noise.

    Parameters
    ----------
    science, matched_template, difference : `lsst.images.MaskedImage`
        Exposures on one pixel grid.
    dia_sources : mapping of columns
        ``x``, ``y`` (pixels of the exposures), ``snr`` and ``isNegative``.
    path : `str` or `pathlib.Path`
        PNG to write; its directory must exist.
    count : `int`, optional
        Detections to show.
    size : `int`, optional
        Side of a cutout in pixels; odd.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    if count < 1 or size < 3 or size % 2 == 0:
        raise ValueError(f"count must be at least 1 and size odd and at least 3; got {count} and {size}.")
    snr = np.abs(np.asarray(dia_sources["snr"], dtype=float))
    order = np.argsort(-np.nan_to_num(snr), kind="stable")[:count]
    rows = max(1, int(np.ceil(len(order) / _TRIPLETS_IN_ROW)))
    figure = Figure(figsize=(4.6 * _TRIPLETS_IN_ROW, 1.75 * rows + 0.5), layout="constrained")
    groups = figure.subfigures(rows, _TRIPLETS_IN_ROW, wspace=0.03, squeeze=False).ravel()
    for group, index in zip(groups, order, strict=False):
        x, y = float(dia_sources["x"][index]), float(dia_sources["y"][index])
        negative = bool(dia_sources["isNegative"][index])
        cutouts = [_cut(e, x=x, y=y, size=size) for e in (science, matched_template, difference)]
        _draw_triplet(group.subplots(1, 3), cutouts)
        group.suptitle(
            f"{'−' if negative else '+'} S/N {snr[index]:.1f}   ({x:.1f}, {y:.1f})",
            fontsize=9,
            color=NEGATIVE_COLOR if negative else POSITIVE_COLOR,
            fontweight="bold",
        )
    figure.suptitle("Science, matched template, difference of the highest detections", fontsize=11)
    return save_figure(figure, path)


def _cut(exposure: MaskedImage, *, x: float, y: float, size: int) -> np.ndarray:
    """Return ``(size, size)`` pixels around a position; NaN outside the exposure."""
    box, half = exposure.bbox, size // 2
    column, row = round(x) - box.x.start, round(y) - box.y.start
    result = np.full((size, size), np.nan)
    y0, y1 = max(0, row - half), min(box.y.size, row + half + 1)
    x0, x1 = max(0, column - half), min(box.x.size, column + half + 1)
    if y0 < y1 and x0 < x1:
        inner = np.s_[y0 - row + half : y1 - row + half, x0 - column + half : x1 - column + half]
        result[inner] = exposure.image.array[y0:y1, x0:x1]
    return result


def _draw_triplet(axes: np.ndarray, cutouts: list[np.ndarray]) -> None:
    """Draw science and template on one asinh scale and the difference on a symmetric one."""
    sky = [np.nanmedian(c) if np.isfinite(c).any() else 0.0 for c in cutouts[:2]]
    direct = [c - level for c, level in zip(cutouts[:2], sky, strict=True)]
    noise = max(*(np.nan_to_num(robust_scatter(d)) for d in direct[:2]), 1e-12)
    top = max(float(np.nanmax(np.abs(np.stack(direct)), initial=0.0)), 10 * noise)
    for ax, pixels in zip(axes[:2], direct, strict=True):
        shown = np.arcsinh(pixels / (2 * noise))
        _show(ax, shown, cmap="gray", vmin=np.arcsinh(-1.0), vmax=np.arcsinh(top / (2 * noise)))
    reach = max(
        float(np.nanmax(np.abs(cutouts[2]), initial=0.0)),
        5 * np.nan_to_num(robust_scatter(cutouts[2])),
        1e-12,
    )
    _show(axes[2], cutouts[2], cmap="RdBu_r", vmin=-reach, vmax=reach)


def _show(ax: Axes, pixels: np.ndarray, **options: Any) -> None:
    ax.imshow(pixels, origin="lower", interpolation="nearest", **options)
    ax.set_facecolor("0.6")
    ax.set_xticks([])
    ax.set_yticks([])
