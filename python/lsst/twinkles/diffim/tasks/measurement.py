"""Placeholder until the stage lands."""

from __future__ import annotations

from typing import Any

from lsst.pex.config import Config
from lsst.pipe.base import Struct, Task


class MeasurementConfig(Config):
    """Placeholder."""


class MeasurementTask(Task):
    """Placeholder."""

    ConfigClass = MeasurementConfig
    _DefaultName = "measurement"

    def run(self, *args: Any, **kwargs: Any) -> Struct:
        """Refuse."""
        raise NotImplementedError
