"""Flags of masked pixels at and near a source."""

from __future__ import annotations

__all__ = ("PixelFlagsConfig", "PixelFlagsPlugin")

import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.match.prefilter import cut_stamps
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin

_FLAGS = {
    "bad": ("BAD",),
    "cr": ("COSMIC_RAY",),
    "edge": ("DETECTION_EDGE", "NO_DATA"),
    "high_variance": ("HIGH_VARIANCE",),
    "injected": ("INJECTED",),
    "injected_template": ("INJECTED_TEMPLATE",),
    "interpolated": ("INTERPOLATED",),
    "nodata": ("NO_DATA",),
    "saturated": ("SATURATED",),
    "saturated_template": ("SAT_TEMPLATE",),
    "streak": ("STREAK",),
    "suspect": ("SUSPECT",),
}
# What was injected on purpose is no fault.
_HARMLESS = {"injected", "injected_template"}


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
        columns = {"pixelFlags_offimage": Column(outside, description="The position is off the image")}
        for name, planes in _FLAGS.items():
            present = [p for p in planes if p in mask.schema.names]
            plane = np.any([mask.get(p) for p in present], axis=0) if present else np.zeros((1, 1), bool)
            near, centre = np.zeros(len(ix), bool), np.zeros(len(ix), bool)
            if plane.any() and len(ix):
                near = cut_stamps(plane, ix, iy, half).any(axis=(1, 2))
                centre = cut_stamps(plane, ix, iy, core).any(axis=(1, 2))
            text = ", ".join(planes)
            columns[f"pixelFlags_{name}"] = Column(near, description=f"{text} within {half} pixels")
            if name != "edge":
                columns[f"pixelFlags_{name}Center"] = Column(
                    centre, description=f"{text} within {core} pixels"
                )
            if name not in _HARMLESS:
                any_flag |= centre
        columns["pixelFlags"] = Column(any_flag, description="Any of the faults that end in Center")
        return columns
