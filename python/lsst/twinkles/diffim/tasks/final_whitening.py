"""Whiten what correlation is left in the noise of a difference image."""

from __future__ import annotations

__all__ = ("FinalWhiteningConfig", "FinalWhiteningTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_from_grid, sample_psf
from ..algorithms.decorrelate.final_whitening import (
    FinalWhitening,
    find_blank_noise,
    solve_final_whitening,
    take_stripes,
    whiten_psf,
)

if TYPE_CHECKING:
    from lsst.images import DifferenceImage


class FinalWhiteningConfig(Config):
    """Configuration of `FinalWhiteningTask`."""

    minCorrelation = RangeField[float](
        doc="Noise whose pixels correlate by less than this, or than significance allows, is left alone.",
        default=0.02,
        min=0.0,
        max=1.0,
    )
    minSignificance = RangeField[float](
        doc="... or by less than so many times the error of a correlation.", default=6.0, min=0.0
    )
    minPixels = RangeField[int](
        doc="... or that can be measured on fewer pixels of blank sky than this.", default=5000, min=100
    )
    largestLag = RangeField[int](doc="Largest lag in pixels of the correlations.", default=5, min=1, max=15)
    halfWidth = RangeField[int](doc="Half side in pixels of the filter.", default=7, min=1, max=25)
    maxVarianceRatio = RangeField[float](
        doc="Pixels with this many times the median variance show the light of sources.", default=1.5, min=1.0
    )
    sourceSigma = RangeField[float](
        doc="Width in pixels of the smoothing in which sources stand out of the noise.", default=1.5, min=0.5
    )
    sourceThreshold = RangeField[float](
        doc="... by so many times its scatter, either way.", default=4.0, min=1.0
    )
    grow = RangeField[int](doc="Pixels by which masks and light are grown.", default=6, min=0)
    levelSize = RangeField[int](
        doc="Side in pixels of squares in which the sky of a difference may be at another level without that "
        "being noise.",
        default=65,
        min=33,
    )
    holeMaskPlanes = ListField[str](
        doc="Planes whose pixels are taken as 0 for the others and keep their value.",
        default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"],
    )
    maskPlanes = ListField[str](
        doc="Planes whose pixels are no blank sky.",
        default=[
            "NO_DATA",
            "BAD",
            "SAT",
            "SAT_TEMPLATE",
            "EDGE",
            "INTRP",
            "CR",
            "DETECTED",
            "DETECTED_NEGATIVE",
        ],
    )
    psfNodes = RangeField[int](doc="Grid points of the PSF along each axis.", default=5, min=1)
    maxPixels = RangeField[int](
        doc="The noise is measured in stripes all over the image that have about so many pixels in all.",
        default=2_000_000,
        min=10_000,
    )


class FinalWhiteningTask(Task):
    """Measure the correlation of the noise on blank sky, and undo it.

    Notes
    -----
    The filters of a subtraction know the noise of its inputs by their variance planes, and so take it for
    white. Where the inputs were resampled or smoothed before, the difference is not; here one small filter
    for the whole image makes it so, and its PSF and variance follow.
    """

    ConfigClass = FinalWhiteningConfig
    _DefaultName = "finalWhitening"
    config: FinalWhiteningConfig

    @timeMethod
    def run(self, difference: DifferenceImage) -> Struct:
        """Whiten.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``whitened`` (`lsst.images.DifferenceImage`), the difference itself if there is nothing to
            whiten, and ``kernel`` (`numpy.ndarray` or `None`), the filter.
        """
        whitening = self._measure(difference)
        if whitening is None:
            return Struct(whitened=difference, kernel=None)
        holes = ~np.isfinite(difference.image.array)
        holes |= bad_pixels(difference.mask, self.config.holeMaskPlanes)
        result = difference.copy()
        result.image.array[...] = whitening.apply(difference.image.array, holes)
        result.variance.array *= np.float32(whitening.variance_factor)
        grid = sample_psf(difference.psf, difference.bbox, grid=self.config.psfNodes)
        order = min(3, self.config.psfNodes - 1)
        result.psf = psf_from_grid(whiten_psf(grid, whitening.kernel), difference.bbox, order=order)
        self.log.info(
            "The noise is correlated by up to %.3f: whitened, its variance times %.3f.",
            whitening.largest,
            whitening.variance_factor,
        )
        return Struct(whitened=result, kernel=whitening.kernel)

    def _measure(self, difference: DifferenceImage) -> FinalWhitening | None:
        """Return the filter, `None` if the noise is white as far as can be told."""
        image, variance, masked = take_stripes(
            difference.image.array,
            difference.variance.array,
            bad_pixels(difference.mask, self.config.maskPlanes),
            max_pixels=self.config.maxPixels,
            seam=max(self.config.largestLag, self.config.grow),
        )
        noise, blank = find_blank_noise(
            image,
            variance,
            masked,
            largest_ratio=self.config.maxVarianceRatio,
            sigma=self.config.sourceSigma,
            threshold=self.config.sourceThreshold,
            grow=self.config.grow,
        )
        count = int(np.count_nonzero(blank))
        self.metadata["nBlankPixels"] = count
        if count < self.config.minPixels:
            return None
        whitening = self._solve(noise, blank, None)
        return whitening if whitening is None else self._solve(noise, blank, self.config.levelSize)

    def _solve(self, noise: np.ndarray, blank: np.ndarray, level_size: int | None) -> FinalWhitening | None:
        """Return the filter that noise asks for, if any."""
        config = self.config
        whitening = solve_final_whitening(
            noise, blank, largest_lag=config.largestLag, half=config.halfWidth, level_size=level_size
        )
        self.metadata["noiseCorrelation"] = whitening.largest
        least = max(config.minCorrelation, config.minSignificance * whitening.error)
        return whitening if whitening.largest > least else None
