"""Flux of the difference in a circle."""

from __future__ import annotations

__all__ = ("ApertureFluxConfig", "ApertureFluxPlugin")

import numpy as np
from astropy.table import Column

from lsst.pex.config import Field, RangeField

from ...algorithms.measure.shapes import measure_aperture_fluxes
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin


class ApertureFluxConfig(MeasurementPluginConfig):
    """Configuration of `ApertureFluxPlugin`."""

    radius = RangeField[float](doc="Radius of the circle, pixels.", default=12.0, min=1.0)
    doApCorr = Field[bool](
        doc="Divide by the share of the PSF that is within the circle (aperture correction)?", default=True
    )


@register_plugin("apertureFlux")
class ApertureFluxPlugin(MeasurementPlugin):
    """Sum of the pixels of the difference in a circle, with the neighbours subtracted."""

    ConfigClass = ApertureFluxConfig
    order = 1.0

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        pixels, radius = inputs.difference, self.config.radius
        fluxes = measure_aperture_fluxes(
            pixels.image, pixels.weight, pixels.psf, inputs.fits, radius=radius, residual=inputs.residual
        )
        scale = inputs.flux_scale
        text = f"Flux of the difference within {radius:g} pixels"
        if self.config.doApCorr:
            with np.errstate(divide="ignore", invalid="ignore"):
                scale = scale / np.where(fluxes.psf_share > 0.1, fluxes.psf_share, np.nan)
            text += ", corrected for what a point source has beyond"
        flux = fluxes.flux * scale
        error = fluxes.error * scale * inputs.error_scale
        return {
            "apFlux": Column(flux, unit=inputs.flux_unit, description=text),
            "apFluxErr": Column(error, unit=inputs.flux_unit, description="Standard error of apFlux"),
            "apFlux_flag": Column(
                ~np.isfinite(flux) | (fluxes.n_missing > 0),
                description="No apFlux, or one from a part of the circle",
            ),
            "apFlux_flag_apertureTruncated": Column(
                fluxes.n_missing > 0, description="Pixels of the circle are masked or off the image"
            ),
        }
