"""Shapes of sources on the difference."""

from __future__ import annotations

__all__ = ("ShapeConfig", "ShapePlugin", "measure_shapes")

import astropy.units as u
import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.measure.shapes import Moments, measure_adaptive_moments
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin

_FWHM_PER_SIGMA = 2.3548


class ShapeConfig(MeasurementPluginConfig):
    """Configuration of `ShapePlugin`."""

    maxShiftFwhm = RangeField[float](
        doc="Farthest that the centre of the moments may lie from the centroid, in FWHM.",
        default=1.0,
        min=0.1,
    )
    nIterations = RangeField[int](doc="Most rounds.", default=100, min=1)
    exponent = RangeField[float](
        doc="The extendedness is 1 minus the ratio of the widths of PSF and source to this power.",
        default=4.0,
        min=0.1,
    )


@register_plugin("shape")
class ShapePlugin(MeasurementPlugin):
    """Adaptive moments of source and PSF, and extendedness."""

    ConfigClass = ShapeConfig
    order = 1.0

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        moments = measure_shapes(inputs, self.config)
        area = np.abs(np.linalg.det(inputs.sky_jacobian))
        columns = {}
        for suffix, whose, prefix in (("", "source", ""), ("PSF", "PSF", "psf_")):
            for name in ("xx", "yy", "xy"):
                columns[f"i{name}{suffix}"] = Column(
                    getattr(moments, prefix + name) * area,
                    unit=u.arcsec**2,
                    description=f"Adaptive second moment {name} of the {whose}, along the pixel axes",
                )
        columns["shape_flag"] = Column(~np.isfinite(moments.xx), description="No moments of the source")
        columns["shape_flag_no_pixels"] = Column(
            inputs.fits.n_pixels == 0, description="No pixel could be used for the moments"
        )
        columns["shape_flag_not_contained"] = Column(
            inputs.fits.failed, description="No centroid: the moments may be those of something else"
        )
        columns["shape_flag_parent_source"] = Column(
            np.zeros(len(inputs), bool), description="Never: blends are taken apart before"
        )
        columns["extendedness"] = Column(
            self._extendedness(moments),
            description="0: as wide as the PSF; towards 1: wider (1 - (width of PSF / width)^4)",
        )
        return columns

    def _extendedness(self, moments: Moments) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (moments.psf_xx + moments.psf_yy) / (moments.xx + moments.yy)
            return np.clip(1.0 - ratio ** (0.5 * self.config.exponent), 0.0, 1.0)


def measure_shapes(inputs: MeasurementInputs, config: ShapeConfig) -> Moments:
    """Return the adaptive moments of all sources and of the PSF, in pixels."""
    pixels = inputs.difference
    return measure_adaptive_moments(
        pixels.image, pixels.weight, pixels.psf, inputs.fits,
        half=inputs.half,
        sigma=inputs.fwhm / _FWHM_PER_SIGMA,
        max_shift=config.maxShiftFwhm * inputs.fwhm,
        iterations=config.nIterations,
        residual=inputs.residual,
    )  # fmt: skip
