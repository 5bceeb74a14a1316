"""Subtract what sky is left in a difference image."""

from __future__ import annotations

__all__ = ("SubtractBackgroundConfig", "SubtractBackgroundTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..algorithms.detect.residual_sky import average_blocks, is_dark, sky_of_cells
from ..algorithms.noise import NoiseMap, fit_cells
from ..algorithms.robust import robust_scatter
from ..algorithms.spatial import chebyshev_image

if TYPE_CHECKING:
    from lsst.images import DifferenceImage

# Side in pixels of the squares whose means are taken: few have light of stars, and their noise is Gaussian.
_BLOCK = 8

# A polynomial is fitted to so many cells along each axis, if they have so many pixels.
_CELLS_OF_POLYNOMIAL, _LEAST_SIDE = 5, 32


class SubtractBackgroundConfig(Config):
    """Configuration of `SubtractBackgroundTask`."""

    binSize = RangeField[int](
        doc="Side in pixels of the cells whose clipped sky makes the background. Its own noise adds "
        "about 1.6 N / binSize^2 to the variance of a PSF flux, N being the area of the PSF in pixels; that "
        "of a polynomial less, so that its cells are smaller on images that are less than five wide.",
        default=128,
        min=8,
    )
    minFraction = RangeField[float](
        doc="Cells with a smaller share of good pixels take their value from others.",
        default=0.25,
        min=0.0,
        max=1.0,
    )
    order = RangeField[int](
        doc="Order of a polynomial through the cells; if not given, the background is bilinear between them.",
        default=None,
        optional=True,
        min=0,
    )
    maxLight = RangeField[float](
        doc="Most light of the template, in standard deviations of the mean of a square of the difference. "
        "Wings of stars and galaxies do not subtract fully and are no sky.",
        default=4.0,
        min=0.0,
    )
    ignoredPixelMask = ListField[str](
        doc="Pixels that are left out.",
        default=["BAD", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "NO_DATA", "SAT", "SAT_TEMPLATE", "STREAK"],
    )


class SubtractBackgroundTask(Task):
    """Subtract the sky of dark places: a polynomial, or bilinear between the centres of cells."""

    ConfigClass = SubtractBackgroundConfig
    _DefaultName = "subtractBackground"
    config: SubtractBackgroundConfig

    def run(
        self, difference: DifferenceImage, light: np.ndarray | None = None, inPlace: bool = False
    ) -> Struct:
        """Subtract the background.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference; not modified, unless that is asked for.
        light : `numpy.ndarray`, ``(Ny, Nx)``, optional
            What was subtracted; where it is bright there is no sky (see ``maxLight``).
        inPlace : `bool`, optional
            Change the pixels of the difference itself, where nobody else needs it as it was?

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``difference``: the same without background; ``background`` (`numpy.ndarray`, ``(Ny, Nx)``):
            what was subtracted.
        """
        image = difference.image.array
        bad = bad_pixels(difference.mask, self.config.ignoredPixelMask) | ~np.isfinite(image)
        background = self._fit(image, bad, light)
        if background is None:
            self.log.warning("No cell has enough sky for a background of the difference; none is taken.")
            return Struct(difference=difference, background=np.zeros_like(image))
        result = difference if inPlace else difference.copy()
        no_data = bad_pixels(difference.mask, ["NO_DATA"])
        np.subtract(image, background, out=result.image.array, where=~no_data)
        self.metadata["differenceBackgroundMean"] = float(background.mean())
        self.metadata["differenceBackgroundStdev"] = float(background.std())
        return Struct(difference=result, background=background)

    def _fit(self, image: np.ndarray, bad: np.ndarray, light: np.ndarray | None) -> np.ndarray | None:
        """Return the background of every pixel, `None` if there is too little sky."""
        config, side = self.config, self.config.binSize
        if config.order is not None and min(image.shape) >= side:
            side = min(side, max(_LEAST_SIDE, min(image.shape) // _CELLS_OF_POLYNOMIAL))
        block = max(1, min(_BLOCK, side // 8))
        size = side // block
        means = average_blocks(image, bad, size=block)
        if light is not None and np.isfinite(means).any():
            spread = robust_scatter(means)
            dark = is_dark(average_blocks(light, bad, size=block), config.maxLight * spread)
            means = np.where(dark, means, np.nan)
        sky, number = sky_of_cells(means, size=size, min_fraction=config.minFraction)
        if not np.isfinite(sky).any():
            return None
        y, x = (_middles(extent, size, block) for extent in means.shape)
        if config.order is not None:
            terms = fit_cells(sky, number, x, y, shape=image.shape, order=config.order)
            return chebyshev_image(terms, shape=image.shape, order=config.order)
        filled = np.where(np.isfinite(sky), sky, np.nanmedian(sky))
        return NoiseMap(values=filled, x=x, y=y).image(image.shape)


def _middles(n_blocks: int, size: int, block: int) -> np.ndarray:
    """Return the middles, in pixels, of cells of ``size`` blocks of ``block`` pixels."""
    first = np.arange(0, n_blocks, size)
    return 0.5 * block * (first + np.minimum(first + size, n_blocks)) - 0.5
