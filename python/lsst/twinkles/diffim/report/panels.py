"""One image on one set of axes, as an astronomer wants to see it."""

from __future__ import annotations

__all__ = (
    "NEGATIVE_COLOR",
    "POSITIVE_COLOR",
    "Panel",
    "bin_image",
    "draw_compass",
    "draw_panel",
    "draw_scale_bar",
    "mark_detections",
    "mark_truth",
    "show_sky",
    "significance",
)

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.visualization import AsinhStretch, ImageNormalize, ZScaleInterval
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage
from matplotlib.path import Path

from ..algorithms.robust import robust_moments

if TYPE_CHECKING:
    from lsst.images import MaskedImage

# Two colors of the Okabe-Ito palette, which the common forms of color blindness tell apart.
POSITIVE_COLOR = "#E69F00"
NEGATIVE_COLOR = "#56B4E9"
TRUTH_COLOR = "#009E73"
MASK_COLOR = "#7A4B8C"

LARGEST_SIDE = 676
"""Bins along a panel: as many as it has dots, so that every pixel counts in what is seen."""

_HIDDEN_PLANES = ("SATURATED", "BAD", "COSMIC_RAY", "NO_DATA", "SAT_TEMPLATE", "DETECTION_EDGE")
TRUTH_MARKER = Path([(0.55, 0), (1, 0), (0, 0.55), (0, 1)], [Path.MOVETO, Path.LINETO] * 2)
_OUTLINE = [patheffects.withStroke(linewidth=2.5, foreground="black", alpha=0.7)]


@dataclass(frozen=True)
class Panel:
    """Pixels to show, binned to a size a screen can show.

    Attributes
    ----------
    values : `numpy.ndarray`, ``(Ny / factor, Nx / factor)``
        Mean of the good pixels of each bin; NaN where there is none.
    hidden : `numpy.ndarray`, same shape, bool
        Bins of which half the pixels or more are masked.
    extent : `tuple` [`float`, `float`, `float`, `float`]
        Left, right, bottom and top in pixels of the exposure.
    factor : `int`
        Pixels on a side of a bin.
    """

    values: np.ndarray
    hidden: np.ndarray
    extent: tuple[float, float, float, float]
    factor: int


def bin_image(values: np.ndarray, good: np.ndarray, *, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Average an image over squares of pixels.

    Parameters
    ----------
    values : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.
    good : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to use; others, and those that are not finite, are left out.
    factor : `int`
        Pixels on a side of a square; squares at the rim may be smaller.

    Returns
    -------
    means : `numpy.ndarray`, ``(ceil(Ny / factor), ceil(Nx / factor))``
        NaN where a square has no pixel to use.
    counts : `numpy.ndarray`, same shape
        Number of pixels used.
    """
    use = good & np.isfinite(values)
    rows, columns = (np.arange(0, size, factor) for size in values.shape)

    def add_up(array: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(array, rows, axis=0), columns, axis=1)

    counts = add_up(use.astype(np.int64))
    sums = add_up(np.where(use, values, 0.0).astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, sums / counts, np.nan), counts


def significance(exposure: MaskedImage, *, largest: int = LARGEST_SIDE) -> Panel:
    """Return pixel values over their noise, binned.

    Parameters
    ----------
    exposure : `lsst.images.MaskedImage`
        With variance.
    largest : `int`, optional
        Bins are chosen so that no side has more.
    """
    factor = _binning(exposure, largest)
    good = _good_pixels(exposure) & (exposure.variance.array > 0)
    means, counts = bin_image(exposure.image.array, good, factor=factor)
    variances, _ = bin_image(exposure.variance.array, good, factor=factor)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = means / np.sqrt(variances / counts)
    return Panel(values=values, hidden=2 * counts <= factor**2, extent=_extent(exposure), factor=factor)


def show_sky(ax: Axes, exposure: MaskedImage, *, largest: int = LARGEST_SIDE) -> AxesImage:
    """Show an exposure in gray: asinh stretch, the sky dark, masked pixels in a color.

    Parameters
    ----------
    ax : `matplotlib.axes.Axes`
        Where to draw.
    exposure : `lsst.images.MaskedImage`
        What to draw.
    largest : `int`, optional
        See `significance`.
    """
    factor = _binning(exposure, largest)
    values, counts = bin_image(exposure.image.array, _good_pixels(exposure), factor=factor)
    panel = Panel(values=values, hidden=2 * counts <= factor**2, extent=_extent(exposure), factor=factor)
    return draw_panel(ax, panel, cmap="gray", norm=_sky_norm(values))


def draw_panel(ax: Axes, panel: Panel, **options: Any) -> AxesImage:
    """Draw a panel and its hidden pixels, without ticks."""
    image = ax.imshow(panel.values, origin="lower", extent=panel.extent, interpolation="nearest", **options)
    veil = np.where(panel.hidden, 1.0, np.nan)
    ax.imshow(
        veil, origin="lower", extent=panel.extent, interpolation="nearest", cmap=ListedColormap([MASK_COLOR])
    )
    # Marks of sources beyond the rim must not widen the panel.
    ax.set(xticks=[], yticks=[], xlim=panel.extent[:2], ylim=panel.extent[2:])
    return image


def _sky_norm(values: np.ndarray) -> ImageNormalize:
    """Return a stretch that shows the noise of the sky and does not burn out galaxies."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return ImageNormalize(vmin=0.0, vmax=1.0)
    middle, noise = robust_moments(finite)
    noise = noise or float(np.std(finite)) or 1.0
    _, bright = ZScaleInterval().get_limits(finite)
    top = max(float(np.percentile(finite, 99.7)), bright, middle + 20 * noise)
    # The sky's noise takes the lowest part of the scale whatever the brightest pixel is.
    softening = min(max(3 * noise / (top - middle + 1.5 * noise), 1e-4), 0.9)
    return ImageNormalize(vmin=middle - 1.5 * noise, vmax=top, stretch=AsinhStretch(a=softening), clip=False)


def mark_detections(ax: Axes, sources: Mapping[str, Any], *, size: float = 90.0) -> tuple[int, int]:
    """Mark positive detections by circles and negative ones by squares.

    Parameters
    ----------
    ax : `matplotlib.axes.Axes`
        Where to draw.
    sources : mapping of columns
        ``x``, ``y`` in pixels of the exposure and ``isNegative``.
    size : `float`, optional
        Area of a mark in square points.

    Returns
    -------
    counts : `tuple` [`int`, `int`]
        Positive and negative detections.
    """
    x, y = np.asarray(sources["x"], dtype=float), np.asarray(sources["y"], dtype=float)
    negative = np.asarray(sources["isNegative"], dtype=bool)
    for chosen, marker, color, label in (
        (~negative, "o", POSITIVE_COLOR, "positive"),
        (negative, "s", NEGATIVE_COLOR, "negative"),
    ):
        ax.scatter(
            x[chosen],
            y[chosen],
            s=size,
            marker=marker,
            facecolors="none",
            edgecolors=color,
            linewidths=1.3,
            label=f"{np.count_nonzero(chosen)} {label}",
            path_effects=_OUTLINE,
        )
    return int(np.count_nonzero(~negative)), int(np.count_nonzero(negative))


def mark_truth(ax: Axes, truth: Mapping[str, Any], *, size: float = 90.0) -> None:
    """Point at true changes with two ticks that leave the source free to see.

    Parameters
    ----------
    ax : `matplotlib.axes.Axes`
        Where to draw.
    truth : mapping of columns
        ``x``, ``y`` in pixels of the exposure.
    size : `float`, optional
        Area of the mark of a detection, which the ticks stay within.
    """
    ax.scatter(
        np.asarray(truth["x"]),
        np.asarray(truth["y"]),
        s=5.5 * size,
        marker=TRUTH_MARKER,
        facecolors="none",
        edgecolors=TRUTH_COLOR,
        linewidths=1.9,
    )


def draw_scale_bar(ax: Axes, *, pixel_scale: float, width: int) -> None:
    """Draw a bar of a round angle, about a sixth of the panel, in its lower left corner.

    Parameters
    ----------
    ax : `matplotlib.axes.Axes`
        A panel in pixels.
    pixel_scale : `float`
        Arcsec per pixel.
    width : `int`
        Pixels that the panel is wide.
    """
    wanted = pixel_scale * width / 6
    steps = np.array([0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 300, 600, 1200])
    angle = float(steps[np.argmin(np.abs(np.log(steps / wanted)))])
    label = f"{angle:g}″" if angle < 60 else f"{angle / 60:g}′"
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    start, height = left + 0.05 * (right - left), bottom + 0.05 * (top - bottom)
    stop = start + angle / pixel_scale
    ax.plot(
        [start, stop], [height, height], color="white", lw=2.5, path_effects=_OUTLINE, solid_capstyle="butt"
    )
    ax.text(
        (start + stop) / 2,
        height + 0.015 * (top - bottom),
        label,
        color="white",
        ha="center",
        va="bottom",
        fontsize=10,
        path_effects=_OUTLINE,
    )


def draw_compass(ax: Axes, north: tuple[float, float], east: tuple[float, float]) -> None:
    """Draw arrows to north and east in the lower right corner.

    Parameters
    ----------
    ax : `matplotlib.axes.Axes`
        A panel in pixels.
    north, east : `tuple` [`float`, `float`]
        Unit vectors (x, y) in pixels.
    """
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    length = 0.08 * min(right - left, top - bottom)
    # Both arrows stay inside whatever their directions.
    reach = np.array([north, east])
    x = right - 0.06 * (right - left) - length * max(0.0, reach[:, 0].max())
    y = bottom + 0.06 * (top - bottom) - length * min(0.0, reach[:, 1].min())
    for name, (dx, dy) in (("N", north), ("E", east)):
        arrow = dict(arrowstyle="-|>", color="white", lw=1.6, shrinkA=0, shrinkB=0, path_effects=_OUTLINE)
        ax.annotate("", xy=(x + length * dx, y + length * dy), xytext=(x, y), arrowprops=arrow)
        ax.text(
            x + 1.35 * length * dx,
            y + 1.35 * length * dy,
            name,
            color="white",
            ha="center",
            va="center",
            fontsize=9,
            path_effects=_OUTLINE,
        )


def _good_pixels(exposure: MaskedImage) -> np.ndarray:
    """Return pixels that are worth showing, ``(Ny, Nx)``, bool."""
    good = np.isfinite(exposure.image.array)
    for plane in _HIDDEN_PLANES:
        if plane in exposure.mask.schema.names:
            good &= ~exposure.mask.get(plane)
    return good


def _binning(exposure: MaskedImage, largest: int) -> int:
    """Return the side of the bins that bring an exposure to a size."""
    return max(1, int(np.ceil(max(exposure.image.array.shape) / largest)))


def _extent(exposure: MaskedImage) -> tuple[float, float, float, float]:
    """Return the outer edges of an exposure's pixels: left, right, bottom, top."""
    box = exposure.bbox
    return box.x.start - 0.5, box.x.stop - 0.5, box.y.start - 0.5, box.y.stop - 0.5
