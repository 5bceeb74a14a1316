"""Measurement plug-ins: importing this package fills the registry.

A new plug-in is a module of this folder that is imported here; its numerics are in ``algorithms/measure``.
"""

from __future__ import annotations

__all__ = (
    "MeasurementInputs",
    "MeasurementPlugin",
    "MeasurementPluginConfig",
    "forced_fluxes",
    "measurementPlugins",
    "pixel_flags",
)

from . import forced_fluxes, pixel_flags
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, measurementPlugins
