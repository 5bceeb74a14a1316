"""Mask the trails of satellites and aircraft on a difference image."""

from __future__ import annotations

__all__ = ("MaskStreaksConfig", "MaskStreaksTask")

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels, resolve_plane_name
from ..algorithms.detect.streaks import Streak, find_streaks, streak_mask

if TYPE_CHECKING:
    from lsst.images import Box, DifferenceImage


class MaskStreaksConfig(Config):
    """Configuration of `MaskStreaksTask`; where a field of meas_algorithms means the same it has its name."""

    streakBinFactor = RangeField[int](
        doc="Pixels on a side of the squares whose sums along all lines are looked at.", default=4, min=1
    )
    threshold = RangeField[float](doc="Least significance of a trail.", default=7.0, min=1.0)
    minLength = RangeField[int](doc="Least length of a trail in pixels.", default=128, min=16)
    maxStreakWidth = RangeField[float](doc="Most pixels across that are masked.", default=100.0, min=1.0)
    maxIter = RangeField[int](doc="Most trails (and most candidates) of an image.", default=10, min=1)
    badMaskPlanes = ListField[str](
        doc="Pixels that are not used.", default=["NO_DATA", "INTRP", "BAD", "SAT", "SAT_TEMPLATE", "EDGE"]
    )
    detectedMaskPlanes = ListField[str](
        doc="Planes of detections.", default=["DETECTED", "DETECTED_NEGATIVE"]
    )
    onlyMaskDetected = Field[bool](
        doc="Mask only the part of a trail that was detected? Between detections there is light, too.",
        default=False,
    )
    streaksMaskPlane = Field[str](doc="Plane that is set.", default="STREAK")


class MaskStreaksTask(Task):
    """Find straight trails, bright or faint, of either sign, and mask them."""

    ConfigClass = MaskStreaksConfig
    _DefaultName = "maskStreaks"
    config: MaskStreaksConfig

    @timeMethod
    def run(self, difference: DifferenceImage) -> Struct:
        """Mask streaks.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference with white noise and its variance; its mask gets the plane ``STREAK``.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``lines`` (`astropy.table.Table`): ends ``x0``, ``y0``, ``x1``, ``y1`` and ``width`` in pixels,
            ``significance`` and ``mean`` (median significance of a pixel on the middle of the trail).
        """
        config = self.config
        bad = bad_pixels(difference.mask, config.badMaskPlanes)
        with np.errstate(invalid="ignore"):
            bad |= ~(difference.variance.array > 0) | ~np.isfinite(difference.image.array)
        streaks = find_streaks(
            difference.image.array,
            difference.variance.array,
            bad,
            bin_factor=config.streakBinFactor,
            threshold=config.threshold,
            min_length=config.minLength,
            max_width=config.maxStreakWidth,
            max_number=config.maxIter,
        )
        self.metadata["nStreaks"] = len(streaks)
        if streaks:
            self._mark(difference, streaks)
        return Struct(lines=_make_table(streaks, difference.bbox))

    def _mark(self, difference: DifferenceImage, streaks: list[Streak]) -> None:
        mask = difference.mask
        covered = streak_mask(streaks, difference.image.array.shape)
        if self.config.onlyMaskDetected:
            covered &= bad_pixels(mask, self.config.detectedMaskPlanes)
        plane = resolve_plane_name(self.config.streaksMaskPlane, mask.schema)
        mask.set(plane, mask.get(plane) | covered)
        self.log.info(
            "%d trail%s found, %.2f percent of the pixels masked: %s.",
            len(streaks),
            "" if len(streaks) == 1 else "s",
            100.0 * covered.mean(),
            "; ".join(f"{s.length:.0f} pixels long, {s.width:.0f} wide" for s in streaks),
        )


def _make_table(streaks: list[Streak], bbox: Box) -> Table:
    """Return the streaks as a table in the pixel frame of a box."""
    table = Table()
    for name in ("x0", "y0", "x1", "y1"):
        start = bbox.x.start if name[0] == "x" else bbox.y.start
        table[name] = np.array([getattr(s, name) + start for s in streaks], dtype=float)
        table[name].unit = "pix"
    for name in ("width", "significance", "mean"):
        table[name] = np.array([getattr(s, name) for s in streaks], dtype=float)
    table["width"].unit = "pix"
    return table
