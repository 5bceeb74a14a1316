"""How the planes of images are compressed in files."""

from __future__ import annotations

__all__ = ("COMPRESSIONS", "DEFAULT_COMPRESSION", "compress_mask")

from lsst.images import GeneralizedImage
from lsst.images.fits import FitsCompressionAlgorithm, FitsCompressionOptions

COMPRESSIONS: dict[str, dict[str, FitsCompressionOptions | None]] = {
    "fast": {"image": None, "variance": None},
    "lossless": {},
    "lossy": {"image": FitsCompressionOptions.LOSSY, "variance": FitsCompressionOptions.LOSSY},
}
"""Ways to compress image and variance: ``fast`` (not at all), ``lossless``
(GZIP_2: two thirds of the size, ten times the time to write, four times to
read), ``lossy`` (RICE with pixels quantised to 1/16 of the noise: a fifth of
the size). The mask is always compressed, without loss; that costs nothing."""

DEFAULT_COMPRESSION = "fast"

# Tiles of many rows are read several times faster than the usual single rows.
_MASK_TILE_ROWS = 64


def compress_mask(image: GeneralizedImage) -> FitsCompressionOptions:
    """Return how to compress the mask of an image: integers, mostly zero, which RICE does in no time."""
    rows, columns = image.bbox.shape
    return FitsCompressionOptions(
        algorithm=FitsCompressionAlgorithm.RICE_1, tile_shape=(min(rows, _MASK_TILE_ROWS), columns)
    )
