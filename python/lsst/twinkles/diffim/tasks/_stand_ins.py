"""Places in the configuration of stages that are not built yet."""

from __future__ import annotations

__all__ = ("UnbuiltStageConfig", "UnbuiltStageTask")

from lsst.pex.config import Config
from lsst.pipe.base import Task


class UnbuiltStageConfig(Config):
    """Configuration of a stage that is not built yet: empty."""


class UnbuiltStageTask(Task):
    """Hold the place of a stage that is not built yet.

    The field can be retargeted; the switch that would run it cannot be set.
    """

    ConfigClass = UnbuiltStageConfig
    _DefaultName = "unbuiltStage"

    def run(self, *args: object, **kwargs: object) -> None:
        """Refuse to run."""
        raise NotImplementedError(f"The stage {self.getName()} is not built yet.")
