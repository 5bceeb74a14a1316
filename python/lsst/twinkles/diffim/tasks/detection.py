"""Placeholder until the stage lands."""

from __future__ import annotations

from typing import Any

from lsst.pex.config import Config
from lsst.pipe.base import Struct, Task


class DetectionConfig(Config):
    """Placeholder."""


class DetectionTask(Task):
    """Placeholder."""

    ConfigClass = DetectionConfig
    _DefaultName = "detection"

    def run(self, *args: Any, **kwargs: Any) -> Struct:
        """Refuse."""
        raise NotImplementedError
