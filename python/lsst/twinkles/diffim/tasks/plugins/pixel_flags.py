"""Flags of masked pixels at and near a source."""

from __future__ import annotations

__all__ = ("PixelFlagsConfig", "PixelFlagsPlugin")

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.match.prefilter import cut_stamps
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin

if TYPE_CHECKING:
    from lsst.images import Mask

_FLAGS = {
    "bad": ("BAD",),
    "clipped": ("CLIPPED",),
    "cr": ("COSMIC_RAY",),
    "crosstalk": ("CROSSTALK",),
    "edge": ("DETECTION_EDGE", "NO_DATA"),
    "high_variance": ("HIGH_VARIANCE",),
    "inexact_psf": ("INEXACT_PSF",),
    "injected": ("INJECTED",),
    "injected_core": ("INJECTED_CORE",),
    "injected_core_template": ("INJECTED_CORE_TEMPLATE",),
    "injected_template": ("INJECTED_TEMPLATE",),
    "interpolated": ("INTERPOLATED",),
    "itl_dip": ("ITL_DIP",),
    "nodata": ("NO_DATA",),
    "partly_vignetted": ("PARTLY_VIGNETTED",),
    "rejected": ("REJECTED",),
    "saturated": ("SATURATED",),
    "saturated_template": ("SAT_TEMPLATE",),
    "sensor_edge": ("SENSOR_EDGE",),
    "spike": ("SPIKE",),
    "streak": ("STREAK",),
    "suspect": ("SUSPECT",),
    "unmasked_nan": ("UNMASKED_NAN",),
    "vignetted": ("VIGNETTED",),
}
# What was injected on purpose is no fault, nor is what coadds note of their inputs.
_HARMLESS = {
    "clipped", "inexact_psf", "injected", "injected_core", "injected_core_template", "injected_template",
    "partly_vignetted", "rejected", "sensor_edge",
}  # fmt: skip


class PixelFlagsConfig(MeasurementPluginConfig):
    """Configuration of `PixelFlagsPlugin`."""

    coreFwhm = RangeField[float](
        doc="Half side, over the FWHM, of the square in which flags that end in Center look for pixels.",
        default=1.0 / 3.0,
        min=0.0,
    )


@register_plugin("pixelFlags")
class PixelFlagsPlugin(MeasurementPlugin):
    """Says which mask planes are set within the fitted square, and at the centre."""

    ConfigClass = PixelFlagsConfig
    order = 0.0

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        mask, half = inputs.exposure.mask, inputs.half
        core = max(1, round(self.config.coreFwhm * inputs.fwhm))
        ny, nx = mask.bbox.shape
        ix = np.clip(np.round(inputs.fits.x), 0, nx - 1).astype(int)
        iy = np.clip(np.round(inputs.fits.y), 0, ny - 1).astype(int)
        outside = ~(
            (inputs.fits.x >= -0.5) & (inputs.fits.x <= nx - 0.5)
            & (inputs.fits.y >= -0.5) & (inputs.fits.y <= ny - 0.5)
        )  # fmt: skip
        any_flag = outside.copy()
        near_bits, centre_bits = _bits_within(mask, ix, iy, half), _bits_within(mask, ix, iy, core)
        columns = {"pixelFlags_offimage": Column(outside, description="The position is off the image")}
        for name, planes in _FLAGS.items():
            bits = mask.schema.bitmask(*(p for p in planes if p in mask.schema.names))
            near, centre = ((found & bits).any(axis=1) for found in (near_bits, centre_bits))
            text = ", ".join(planes)
            columns[f"pixelFlags_{name}"] = Column(near, description=f"{text} within {half} pixels")
            columns[f"pixelFlags_{name}Center"] = Column(centre, description=f"{text} within {core} pixels")
            if name not in _HARMLESS:
                any_flag |= centre
        columns["pixelFlags"] = Column(
            any_flag, description="Any of the flags that end in Center and are faults, or off the image"
        )
        return columns


def _bits_within(mask: Mask, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Return the bits that any pixel of the squares around some pixels has, ``(N, bytes)``."""
    bits = np.zeros((len(x), mask.array.shape[-1]), mask.array.dtype)
    for k in range(bits.shape[1] if len(x) else 0):
        bits[:, k] = np.bitwise_or.reduce(cut_stamps(mask.array[..., k], x, y, half), axis=(1, 2))
    return bits
