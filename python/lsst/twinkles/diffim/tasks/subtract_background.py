"""Subtract what sky is left in a difference image."""

from __future__ import annotations

__all__ = ("SubtractBackgroundConfig", "SubtractBackgroundTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..algorithms.noise import NoiseMap, cell_statistics

if TYPE_CHECKING:
    from lsst.images import DifferenceImage


class SubtractBackgroundConfig(Config):
    """Configuration of `SubtractBackgroundTask`."""

    binSize = RangeField[int](
        doc="Side in pixels of the cells whose clipped medians make the background. Its own noise adds "
        "about 1.6 N / binSize^2 to the variance of a PSF flux, N being the area of the PSF in pixels.",
        default=128,
        min=8,
    )
    minFraction = RangeField[float](
        doc="Cells with a smaller share of good pixels take their value from others.",
        default=0.25,
        min=0.0,
        max=1.0,
    )
    ignoredPixelMask = ListField[str](
        doc="Pixels that are left out.",
        default=["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA", "SAT", "SAT_TEMPLATE", "STREAK"],
    )


class SubtractBackgroundTask(Task):
    """Subtract a background of clipped medians, bilinear between the centres of cells."""

    ConfigClass = SubtractBackgroundConfig
    _DefaultName = "subtractBackground"
    config: SubtractBackgroundConfig

    def run(self, difference: DifferenceImage) -> Struct:
        """Subtract the background.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``difference``: the same without background; ``background`` (`numpy.ndarray`, ``(Ny, Nx)``):
            what was subtracted.
        """
        image = difference.image.array
        bad = bad_pixels(difference.mask, self.config.ignoredPixelMask) | ~np.isfinite(image)
        median, _, _, x, y = cell_statistics(
            image, bad, size=self.config.binSize, min_fraction=self.config.minFraction
        )
        if not np.isfinite(median).any():
            self.log.warning("No cell has enough sky for a background of the difference; none is taken.")
            return Struct(difference=difference, background=np.zeros_like(image))
        filled = np.where(np.isfinite(median), median, np.nanmedian(median))
        background = NoiseMap(values=filled, x=x, y=y).image(image.shape)
        result = difference.copy()
        no_data = bad_pixels(difference.mask, ["NO_DATA"])
        result.image.array[...] = np.where(no_data, image, image - background)
        self.metadata["differenceBackgroundMean"] = float(background.mean())
        self.metadata["differenceBackgroundStdev"] = float(background.std())
        return Struct(difference=result, background=background)
