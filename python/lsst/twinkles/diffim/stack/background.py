"""Subtraction of a residual background from a difference, as a stage of the stack's."""

from __future__ import annotations

__all__ = ("CellBackgroundConfig", "CellBackgroundTask")

from typing import Any

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..algorithms.noise import cell_statistics
from .exposures import plane_pixels
from .unused_fields import UnusedField, add_unused_fields

_BINS = "the background is an Akima spline through the clipped medians of cells"
_AKIMA_NODES = 5


@add_unused_fields(
    UnusedField("useApprox", False, _BINS),
    UnusedField("statisticsProperty", "MEDIAN", _BINS),
    UnusedField("algorithm", "AKIMA_SPLINE", _BINS),
    UnusedField("doFilterSuperPixels", True, "medians of neighbours replace cells with too few pixels"),
)
class CellBackgroundConfig(Config):
    """Configuration of `CellBackgroundTask`; the names are those of the stack's task."""

    binSize = RangeField[int](doc="Side of the cells in pixels.", default=40, min=8)
    ignoredPixelMask = ListField[str](
        doc="Planes whose pixels are left out.",
        default=["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA"],
    )


class CellBackgroundTask(Task):
    """Subtract an Akima spline through clipped medians of cells."""

    ConfigClass = CellBackgroundConfig
    _DefaultName = "subtractBackground"
    config: CellBackgroundConfig

    def run(self, exposure: Any, background: Any = None) -> Struct:
        """Subtract the background in place.

        Parameters
        ----------
        exposure : `lsst.afw.image.ExposureF`
            Exposure; its image is changed.
        background : optional
            Not used; there for the signature of the stack's task.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``background`` (`lsst.afw.math.BackgroundList`): what was subtracted.
        """
        image = exposure.image.array
        bad = np.any([plane_pixels(exposure.mask, p) for p in self.config.ignoredPixelMask], axis=0)
        bad |= ~np.isfinite(image)
        values, _, number, x, y = cell_statistics(image, bad, size=self.config.binSize, min_fraction=0.1)
        values = _fill(values, number > 0)
        rows = _interpolate(y, values, image.shape[0])
        image -= _interpolate(x, rows.T, image.shape[1]).T.astype(image.dtype)
        return Struct(background=_to_afw(exposure.getBBox(), values))


def _fill(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return a map whose unknown cells have the median of the known ones around them."""
    filled = np.where(known, values, np.nan)
    if not known.any():
        return np.zeros_like(values)
    while np.isnan(filled).any():
        padded = np.pad(filled, 1, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*filled.shape, 9)
        reachable = np.isnan(filled) & np.isfinite(windows).any(axis=2)
        filled[reachable] = np.nanmedian(windows[reachable], axis=1)
    return filled


def _interpolate(nodes: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Interpolate along the first axis as afw does: Akima splines, straight lines beyond the outer nodes."""
    from scipy.interpolate import Akima1DInterpolator

    positions = np.arange(size, dtype=float)
    if len(nodes) == 1:
        return np.repeat(values, size, axis=0)
    if len(nodes) < _AKIMA_NODES:
        return np.stack([_line(nodes, column, positions) for column in values.T], axis=1)
    spline = Akima1DInterpolator(nodes, values, axis=0)
    inner = np.clip(positions, nodes[0], nodes[-1])
    slope = spline(inner, 1)
    return spline(inner) + slope * (positions - inner)[:, None]


def _line(nodes: np.ndarray, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate linearly, and extrapolate so."""
    left = np.clip(np.searchsorted(nodes, positions) - 1, 0, len(nodes) - 2)
    slope = np.diff(values) / np.diff(nodes)
    return values[left] + slope[left] * (positions - nodes[left])


def _to_afw(bbox: Any, values: np.ndarray) -> Any:
    """Return the background as a list of the one model that the stack can evaluate and persist."""
    from lsst.afw.image import MaskedImageF
    from lsst.afw.math import ApproximateControl, BackgroundList, BackgroundMI, Interpolate, UndersampleStyle
    from lsst.geom import Extent2I

    stats = MaskedImageF(Extent2I(values.shape[1], values.shape[0]))
    stats.image.array[...] = values
    result = BackgroundList()
    result.append(
        (
            BackgroundMI(bbox, stats),
            Interpolate.AKIMA_SPLINE if min(values.shape) >= _AKIMA_NODES else Interpolate.LINEAR,
            UndersampleStyle.REDUCE_INTERP_ORDER,
            ApproximateControl.UNKNOWN,
            0,
            0,
            False,
        )
    )
    return result
