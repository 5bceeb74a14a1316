"""Bring a variance plane into agreement with the scatter of the pixels."""

from __future__ import annotations

__all__ = ("ScaleVarianceConfig", "ScaleVarianceTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..algorithms.blank_scatter import find_dark_pixels, measure_blank_scatter
from .errors import ImageDifferenceError

if TYPE_CHECKING:
    from lsst.images import MaskedImage

# Side of the squares in which sources are looked for, and rows of a band: a few of them.
_SQUARE, _BAND = 4, 16
# Width of the cells, a band high, whose darkest quarter tells the variance of the sky there.
_CELL = 64


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
        doc="Pixels to look at, at most; bands of rows all over the image are taken.",
        default=2_000_000,
        min=1000,
    )
    sourceThreshold = RangeField[float](
        doc="Squares of pixels whose mean is off by so many times their scatter show sources, and are left "
        "out with those around them.",
        default=3.5,
        min=1.0,
    )
    maxVarianceRatio = RangeField[float](
        doc="Pixels of more than so many times the variance of the darkest quarter of those around show the "
        "light of sources, whose noise is not white in a difference, and are left out.",
        default=1.25,
        min=1.0,
        inclusiveMin=False,
    )


class ScaleVarianceTask(Task):
    """Scale a variance plane to the scatter of the pixels."""

    ConfigClass = ScaleVarianceConfig
    _DefaultName = "scaleVariance"
    config: ScaleVarianceConfig

    def run(self, maskedImage: MaskedImage, inPlace: bool = False) -> Struct:
        """Return the image with its variance plane scaled.

        Parameters
        ----------
        maskedImage : `lsst.images.MaskedImage`
            Image; not modified, unless that is asked for.
        inPlace : `bool`, optional
            Scale the variance of the image itself, where nobody else needs it as it was?

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``scaled`` (as ``maskedImage``) and ``factor`` (`float`), the square of the
            scatter of ``image / sqrt(variance)`` on blank sky (from its interquartile range).

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
        scaled = maskedImage if inPlace else maskedImage.copy()
        scaled.variance.array *= np.float32(factor)
        self.log.info("Scaled the variance plane by %.4f.", factor)
        return Struct(scaled=scaled, factor=factor)

    def _measure(self, maskedImage: MaskedImage) -> float:
        ny, nx = maskedImage.bbox.shape
        rows = _choose_rows(ny, max(_BAND, self.config.maxSamples // nx))
        variance, pixels = maskedImage.variance.array[rows], maskedImage.image.array[rows]
        bad = bad_pixels(maskedImage.mask, self.config.maskPlanes)[rows]
        use = ~bad & (variance > 0) & np.isfinite(pixels) & np.isfinite(variance)
        if np.count_nonzero(use) < 100:
            raise ImageDifferenceError(
                f"Only {np.count_nonzero(use)} unmasked pixels, 100 are needed to scale the variance.",
                nPixels=int(np.count_nonzero(use)),
            )
        known = np.where(use, variance, np.float32(np.nan))
        dark = find_dark_pixels(known, cell=(_BAND, _CELL), ratio=self.config.maxVarianceRatio)
        use = dark if np.count_nonzero(dark) >= 100 else use
        noise = np.full(pixels.shape, np.nan, dtype=np.float32)
        noise[use] = pixels[use] / np.sqrt(variance[use])
        return measure_blank_scatter(noise, side=_SQUARE, clip=self.config.sourceThreshold) ** 2


def _choose_rows(ny: int, most: int) -> np.ndarray:
    """Return rows in bands that are spread evenly, about ``most`` of them."""
    n_bands = max(1, most // _BAND)
    if n_bands * _BAND >= ny:
        return np.arange(ny)
    starts = np.linspace(0, ny - _BAND, n_bands).astype(int)
    return np.unique(starts[:, None] + np.arange(_BAND))
