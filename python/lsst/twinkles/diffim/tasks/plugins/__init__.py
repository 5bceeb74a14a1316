"""Measurement plug-ins: importing this package fills the registry.

A new plug-in is a module of this folder that is imported here; its numerics are in ``algorithms/measure``.
"""

from __future__ import annotations

__all__ = (
    "MeasurementInputs",
    "MeasurementPlugin",
    "MeasurementPluginConfig",
    "aperture_flux",
    "dipole",
    "forced_fluxes",
    "glint",
    "measurementPlugins",
    "pixel_flags",
    "shape",
    "trail",
)

from . import aperture_flux, dipole, forced_fluxes, glint, pixel_flags, shape, trail
from .base import MeasurementInputs, MeasurementPlugin, MeasurementPluginConfig, measurementPlugins
