"""Pictures of a difference: the images side by side, the kernel, the noise."""

from __future__ import annotations

__all__ = ("plot_autocorrelation", "plot_difference", "plot_kernel", "save_figure")

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..adapters.metadata import visit_number
from ..adapters.psfs import psf_fwhm, sample_psf
from ..adapters.read_exposure import has_sky
from .panels import (
    MASK_COLOR,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    TRUTH_COLOR,
    TRUTH_MARKER,
    draw_compass,
    draw_panel,
    draw_scale_bar,
    mark_detections,
    mark_truth,
    show_sky,
    significance,
)

if TYPE_CHECKING:
    from lsst.images import MaskedImage, VisitImage
    from lsst.images.convolution_kernels import ConvolutionKernel

_PANEL_INCHES = 5.2
_REACH = 6.0
"""Significance at which the colors of the difference end."""
_ROLES = ("Science", "Matched template")


def plot_difference(
    science: VisitImage,
    matched_template: VisitImage,
    difference: VisitImage,
    dia_sources: Mapping[str, Any],
    path: str | Path,
    truth: Mapping[str, Any] | None = None,
) -> Path:
    """Write a picture of science, matched template, difference and detections.

    Parameters
    ----------
    science, matched_template, difference : `lsst.images.VisitImage`
        Exposures on one pixel grid.
    dia_sources : mapping of columns
        ``x``, ``y`` (pixels of the exposures), ``isNegative`` and, if there, ``snr``.
    path : `str` or `pathlib.Path`
        PNG to write; its directory must exist.
    truth : mapping of columns, optional
        ``x``, ``y`` of what changed in truth; pointed at by two ticks.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    height, width = difference.image.array.shape
    panel_height = _PANEL_INCHES * min(max(height / width, 0.4), 2.0)
    figure = Figure(figsize=(2 * _PANEL_INCHES + 1.0, 2 * panel_height + 1.6), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, exposure, role in zip(axes[0], (science, matched_template), _ROLES, strict=True):
        show_sky(ax, exposure)
        ax.set_title(f"{role}\n{describe_exposure(exposure)}", fontsize=11)
    panel = significance(difference)
    for ax in axes[1]:
        image = draw_panel(ax, panel, cmap="RdBu_r", vmin=-_REACH, vmax=_REACH)
    bar = figure.colorbar(image, ax=list(axes[1]), shrink=0.9, pad=0.02, extend="both")
    bar.set_label("difference / noise (σ)")
    axes[1, 0].set_title(f"Difference\n{_describe_difference(science, matched_template)}", fontsize=11)
    axes[1, 1].set_title(f"Detections\n{_describe_detections(dia_sources)}", fontsize=11)
    _mark_everything(axes[1, 1], dia_sources, truth, width=width)
    _draw_furniture(axes[0, 0], science)
    _draw_legend(figure, dia_sources, _on_panel(truth, axes[1, 1]))
    return save_figure(figure, path)


def _describe_detections(dia_sources: Mapping[str, Any]) -> str:
    """Say how many detections there are, and how significant."""
    count = len(dia_sources["x"])
    if count == 0:
        return "none"
    snr = np.abs(np.asarray(dia_sources["snr"], dtype=float)) if "snr" in _names(dia_sources) else np.zeros(0)
    best = f", S/N up to {np.nanmax(snr):.0f}" if np.isfinite(snr).any() else ""
    return f"{count}{best}"


def _names(table: Mapping[str, Any]) -> Any:
    """Return the names of the columns of a table or mapping."""
    return getattr(table, "colnames", None) or table.keys()


def _mark_everything(
    ax: Any, dia_sources: Mapping[str, Any], truth: Mapping[str, Any] | None, *, width: int
) -> None:
    """Mark detections, and what changed in truth."""
    size = _mark_size(width)
    mark_detections(ax, dia_sources, size=size)
    if truth is not None:
        mark_truth(ax, truth, size=size)


def _on_panel(truth: Mapping[str, Any] | None, ax: Any) -> Mapping[str, Any] | None:
    """Return the positions of the truth that lie on a panel."""
    if truth is None:
        return None
    x, y = np.asarray(truth["x"], dtype=float), np.asarray(truth["y"], dtype=float)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    inside = (x > left) & (x < right) & (y > bottom) & (y < top)
    return {"x": x[inside], "y": y[inside]}


def plot_kernel(
    kernel: ConvolutionKernel, difference: VisitImage, path: str | Path, *, points: int = 3
) -> Path:
    """Write a picture of the matching kernel over the field.

    Parameters
    ----------
    kernel : `lsst.images.convolution_kernels.ConvolutionKernel`
        The kernel.
    difference : `lsst.images.VisitImage`
        Whose pixels the kernel is for.
    path : `str` or `pathlib.Path`
        PNG to write.
    points : `int`, optional
        Positions along each side.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    box = difference.bbox
    xs = np.linspace(box.x.start, box.x.stop - 1, points)
    ys = np.linspace(box.y.start, box.y.stop - 1, points)
    stamps = np.array([[_kernel_stamp(kernel, x=x, y=y) for x in xs] for y in ys])
    peak = float(np.max(np.abs(stamps))) or 1.0
    figure = Figure(figsize=(2.3 * points + 1.2, 2.3 * points + 0.9), layout="constrained")
    axes = figure.subplots(points, points, squeeze=False)
    for j, i in np.ndindex(points, points):
        ax = axes[points - 1 - j, i]
        image = ax.imshow(stamps[j, i], origin="lower", cmap="RdBu_r", vmin=-peak, vmax=peak)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(f"({xs[i]:.0f}, {ys[j]:.0f})  sum {stamps[j, i].sum():.4f}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7, label="kernel")
    figure.suptitle("Matching kernel over the field", fontsize=12)
    return save_figure(figure, path)


def plot_autocorrelation(
    autocorrelation: np.ndarray, path: str | Path, *, label: str = "difference", claimed: float | None = None
) -> Path:
    """Write a picture of the autocorrelation of the noise.

    Parameters
    ----------
    autocorrelation : `numpy.ndarray`, ``(2 L + 1, 2 L + 1)``
        Correlation of the noise at lags -L to L, 1 in the middle.
    path : `str` or `pathlib.Path`
        PNG to write.
    label : `str`, optional
        What it is of.
    claimed : `float`, optional
        Standard deviation of the noise over the claimed one, for the title.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    largest = autocorrelation.shape[0] // 2
    lags = np.arange(-largest, largest + 1)
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    image = left.imshow(
        autocorrelation,
        origin="lower",
        extent=(-largest - 0.5, largest + 0.5, -largest - 0.5, largest + 0.5),
        cmap="RdBu_r",
        vmin=-0.2,
        vmax=0.2,
    )
    left.set(xlabel="lag in x (pixels)", ylabel="lag in y (pixels)", title="autocorrelation")
    figure.colorbar(image, ax=left, shrink=0.85, extend="both")
    right.axhspan(-0.02, 0.02, color="0.9", label="±0.02")
    right.plot(lags, autocorrelation[largest], "o-", color=POSITIVE_COLOR, label="along x")
    right.plot(lags, autocorrelation[:, largest], "s--", color=NEGATIVE_COLOR, label="along y", mfc="none")
    right.set(xlabel="lag (pixels)", ylabel="correlation", ylim=(-0.2, 1.05))
    right.legend(frameon=False)
    ratio = "" if claimed is None else f", σ measured / claimed = {claimed:.3f}"
    figure.suptitle(f"Noise of the {label}{ratio}", fontsize=12)
    return save_figure(figure, path)


def _kernel_stamp(kernel: Any, *, x: float, y: float) -> np.ndarray:
    """Return the kernel at a position, ``(h, w)``."""
    return np.asarray(kernel.compute_kernel_image(x=float(x), y=float(y)).array)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 130) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        figure.savefig(unfinished, dpi=dpi, format="png")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def describe_exposure(exposure: VisitImage) -> str:
    """Say in a line what an exposure is: visit, band, FWHM."""
    parts = []
    visit = visit_number(exposure)
    if visit is not None:
        parts.append(f"visit {visit}")
    if getattr(exposure, "band", None):
        parts.append(exposure.band)
    fwhm = _fwhm(exposure)
    if fwhm is not None:
        scale = _pixel_scale(exposure)
        parts.append(f"FWHM {fwhm:.2f} px" if scale is None else f"FWHM {fwhm * scale:.2f}″")
    return ", ".join(parts)


def _describe_difference(science: VisitImage, template: VisitImage) -> str:
    """Say what was subtracted from what."""
    numbers = [visit_number(exposure) for exposure in (science, template)]
    if None in numbers or numbers[0] == numbers[1]:
        return "science − template"
    return f"visit {numbers[0]} − visit {numbers[1]}"


def _fwhm(exposure: VisitImage) -> float | None:
    """Return the FWHM in pixels in the middle of an exposure; `None` without a PSF."""
    psf = getattr(exposure, "psf", None)
    if psf is None:
        return None
    return psf_fwhm(sample_psf(psf, exposure.bbox, grid=1))


def _sky_axes(exposure: MaskedImage) -> np.ndarray | None:
    """Return pixel steps of one arcsec to east and north, ``(2, 2)``; `None` without a WCS."""
    projection = exposure.sky_projection
    if projection is None:
        return None
    box = exposure.bbox
    x, y = (box.x.start + box.x.stop - 1) / 2, (box.y.start + box.y.stop - 1) / 2
    center = projection.pixel_to_sky(x=x, y=y)
    steps = []
    for angle in (90.0, 0.0):
        there = center.directional_offset_by(_degrees(angle), _degrees(1 / 3600))
        pixel = projection.sky_to_pixel(there)
        steps.append((float(pixel.x) - x, float(pixel.y) - y))
    result = np.array(steps)
    return result if np.isfinite(result).all() and np.all(np.hypot(*result.T) > 0) else None


def _degrees(value: float) -> Any:
    """Return an angle."""
    import astropy.units as u

    return value * u.deg


def _pixel_scale(exposure: MaskedImage) -> float | None:
    """Return arcsec per pixel; `None` without a WCS, or if that is a guess."""
    axes = None if "assumedPixelScale" in exposure.metadata else _sky_axes(exposure)
    return None if axes is None else float(1 / np.sqrt(abs(np.linalg.det(axes))))


def _draw_furniture(ax: Any, exposure: MaskedImage) -> None:
    """Draw scale bar and compass, as far as they are known."""
    axes = _sky_axes(exposure)
    scale = _pixel_scale(exposure)
    if axes is None or scale is None:
        return
    east, north = axes / np.hypot(*axes.T)[:, None]
    draw_scale_bar(ax, pixel_scale=scale, width=exposure.image.array.shape[1])
    if has_sky(exposure):
        draw_compass(ax, north=tuple(north), east=tuple(east))


def _mark_size(width: int) -> float:
    """Return the area of a mark: circles of about 12 pixels radius, within what can be seen."""
    points_per_pixel = _PANEL_INCHES * 72 / width
    return float(np.clip((24 * points_per_pixel) ** 2, 30, 260))


def _draw_legend(figure: Figure, sources: Mapping[str, Any], truth: Mapping[str, Any] | None) -> None:
    """Explain marks and colors below the panels."""
    negative = np.asarray(sources["isNegative"], dtype=bool)

    def mark(marker: Any, color: str, label: str, **options: Any) -> Line2D:
        style: dict[str, Any] = {"markersize": 9, "markeredgewidth": 1.6, "markerfacecolor": "none"} | options
        return Line2D([], [], ls="", marker=marker, color=color, label=label, **style)

    handles: list[Any] = [
        mark("o", POSITIVE_COLOR, f"{np.count_nonzero(~negative)} positive detections"),
        mark("s", NEGATIVE_COLOR, f"{np.count_nonzero(negative)} negative detections"),
    ]
    if truth is not None:
        handles.append(mark(TRUTH_MARKER, TRUTH_COLOR, f"{len(truth['x'])} true changes", markersize=15))
    handles.append(Patch(color=MASK_COLOR, label="masked"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
