"""Placeholder until the stage lands."""

from __future__ import annotations

from typing import Any

from lsst.pex.config import Config
from lsst.pipe.base import Struct, Task


class DecorrelateConfig(Config):
    """Placeholder."""


class DecorrelateTask(Task):
    """Placeholder."""

    ConfigClass = DecorrelateConfig
    _DefaultName = "decorrelate"

    def run(self, *args: Any, **kwargs: Any) -> Struct:
        """Refuse."""
        raise NotImplementedError
