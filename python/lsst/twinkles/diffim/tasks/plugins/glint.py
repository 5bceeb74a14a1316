"""Glints: flashes of a tumbling satellite, which are detected as a row of sources."""

from __future__ import annotations

__all__ = ("GlintConfig", "GlintPlugin")

import numpy as np
from astropy.table import Column

from lsst.pex.config import RangeField

from ...algorithms.measure.rows import find_rows
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, register_plugin


class GlintConfig(MeasurementPluginConfig):
    """Configuration of `GlintPlugin`."""

    radius = RangeField[float](
        doc="Farthest that the others of a row may lie from one of it, pixels.", default=500.0, min=1.0
    )
    minPoints = RangeField[int](doc="Least number of sources of a row.", default=5, min=3)
    maxDeviation = RangeField[float](
        doc="Farthest that a source may lie from the straight line, pixels.", default=2.0, min=0.1
    )
    maxChance = RangeField[float](
        doc="Rows that chance would make in an image with as many sources, at most.",
        default=1e-3,
        min=0.0,
    )


@register_plugin("glint")
class GlintPlugin(MeasurementPlugin):
    """Tells which sources are on a straight line with others: ``glint_trail``. None is removed.

    Positive point sources count; dipoles do not, where they have been measured.
    """

    ConfigClass = GlintConfig
    order = 3.0

    def measure(self, inputs: MeasurementInputs) -> dict[str, Column]:
        """Measure (see `MeasurementPlugin`)."""
        config, fits = self.config, inputs.fits
        taken = fits.flux > 0
        if "isDipole" in inputs.columns:
            taken &= ~np.asarray(inputs.columns["isDipole"])
        row = find_rows(
            np.where(taken, fits.x, np.nan),
            np.where(taken, fits.y, np.nan),
            radius=config.radius,
            min_points=config.minPoints,
            width=config.maxDeviation,
            max_chance=config.maxChance,
        )
        return {"glint_trail": Column(row > 0, description="On a straight line with others: glints")}
