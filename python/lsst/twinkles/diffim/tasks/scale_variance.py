"""Bring a variance plane into agreement with the scatter of the pixels."""

from __future__ import annotations

__all__ = ("ScaleVarianceConfig", "ScaleVarianceTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from .errors import ImageDifferenceError

if TYPE_CHECKING:
    from lsst.images import MaskedImage

# Standard deviation of a normal distribution over its interquartile range.
_SIGMA_PER_IQR = 0.741301109252801


class ScaleVarianceConfig(Config):
    """Configuration of `ScaleVarianceTask`."""

    maskPlanes = ListField[str](
        doc="Pixels with one of these planes are left out.",
        default=["DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA", "INTRP", "EDGE"],
    )
    limit = RangeField[float](
        doc="Largest factor (and inverse of the smallest) that is believed.",
        default=10.0,
        min=1.0,
        inclusiveMin=False,
    )
    maxSamples = RangeField[int](
        doc="Pixels to look at, at most; a regular subset of the image is taken.",
        default=2_000_000,
        min=1000,
    )


class ScaleVarianceTask(Task):
    """Scale a variance plane to the scatter of the pixels."""

    ConfigClass = ScaleVarianceConfig
    _DefaultName = "scaleVariance"
    config: ScaleVarianceConfig

    def run(self, maskedImage: MaskedImage) -> Struct:
        """Return the image with its variance plane scaled.

        Parameters
        ----------
        maskedImage : `lsst.images.MaskedImage`
            Image without sky sources that matter; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``scaled`` (as ``maskedImage``) and ``factor`` (`float`), the square of the
            scatter of ``image / sqrt(variance)`` (from its interquartile range).

        Raises
        ------
        ImageDifferenceError
            If no pixel can be used, or the factor is beyond ``limit``.
        """
        factor = self._measure(maskedImage)
        limit = self.config.limit
        if not 1 / limit <= factor <= limit:
            raise ImageDifferenceError(
                f"The pixels scatter with {factor:.3g} times the variance that the variance plane claims, "
                f"beyond the limit {limit:g}; mend the variance plane or the gain it was made with, "
                "or switch the variance scaling off.",
                varianceFactor=factor,
                limit=limit,
            )
        scaled = maskedImage.copy()
        scaled.variance.array *= np.float32(factor)
        self.log.info("Scaled the variance plane by %.4f.", factor)
        return Struct(scaled=scaled, factor=factor)

    def _measure(self, maskedImage: MaskedImage) -> float:
        stride = max(1, int(np.ceil(maskedImage.bbox.area / self.config.maxSamples)))
        variance = maskedImage.variance.array.ravel()[::stride]
        pixels = maskedImage.image.array.ravel()[::stride]
        bad = bad_pixels(maskedImage.mask, self.config.maskPlanes).ravel()[::stride]
        use = ~bad & (variance > 0) & np.isfinite(pixels) & np.isfinite(variance)
        if np.count_nonzero(use) < 100:
            raise ImageDifferenceError(
                f"Only {np.count_nonzero(use)} unmasked pixels, 100 are needed to scale the variance.",
                nPixels=int(np.count_nonzero(use)),
            )
        lower, upper = np.percentile(pixels[use] / np.sqrt(variance[use]), (25.0, 75.0))
        return float((_SIGMA_PER_IQR * (upper - lower)) ** 2)
