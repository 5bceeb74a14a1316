"""Forced PSF fluxes on the science image and the matched template."""

from __future__ import annotations

__all__ = ("ForcedFluxesPlugin",)

import numpy as np
from astropy.table import Column

from ...algorithms.measure.psf_fit import measure_forced_fluxes
from .base import MeasuredImage, MeasurementInputs, MeasurementPlugin, register_plugin

_TEXTS = {"science": "science image", "template": "matched template"}


@register_plugin("forcedFluxes")
class ForcedFluxesPlugin(MeasurementPlugin):
    """PSF fluxes of the two images that were subtracted, at the positions found on the difference."""

    order = 1.0
    uses_direct_images = True

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        columns: dict[str, Column] = {}
        for name, pixels in (("science", inputs.science), ("template", inputs.template)):
            assert pixels is not None, "uses_direct_images is set"
            columns |= self._measure_one(inputs, name, pixels)
        return columns

    @staticmethod
    def _measure_one(inputs: MeasurementInputs, name: str, pixels: MeasuredImage) -> dict[str, Column]:
        fits, scale = inputs.fits, inputs.flux_scale
        forced = measure_forced_fluxes(
            pixels.image, pixels.weight, pixels.psf, x=fits.x, y=fits.y, half=inputs.half
        )
        error = forced.error * pixels.noise_factor
        prefix = "forced_PsfFlux" if name == "science" else f"forced_{name}_PsfFlux"
        return {
            f"{name}Flux": Column(
                forced.flux * scale,
                unit=inputs.flux_unit,
                description=f"Forced PSF flux on the {_TEXTS[name]}",
            ),
            f"{name}FluxErr": Column(
                error * scale, unit=inputs.flux_unit, description=f"Standard error of {name}Flux"
            ),
            f"{prefix}_flag": Column(~np.isfinite(forced.flux), description=f"No {name}Flux"),
            f"{prefix}_flag_edge": Column(
                inputs.at_edge, description="The square of the fit reaches beyond the image"
            ),
            f"{prefix}_flag_noGoodPixels": Column(
                forced.n_pixels == 0, description="No pixel near the position has data"
            ),
        }
