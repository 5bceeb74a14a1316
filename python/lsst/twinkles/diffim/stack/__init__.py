"""Inside the Rubin stack: our tasks in the place of ip_diffim's, and the stack's tasks in the place of ours.

Nothing of the stack is imported before a task runs.
"""

from typing import Any

from .bridges import (
    StackDetectAndMeasureConfig,
    StackDetectAndMeasureTask,
    StackSubtractConfig,
    StackSubtractTask,
)
from .detect_and_measure import DetectAndMeasureScoreTask, DetectAndMeasureTask
from .detect_config import (
    DetectAndMeasureConfig,
    DetectAndMeasureConnections,
    DetectAndMeasureScoreConfig,
    DetectAndMeasureScoreConnections,
)
from .preconvolve import AlardLuptonPreconvolveSubtractTask
from .simplified import SimplifiedSubtractTask
from .subtract_config import (
    AlardLuptonPreconvolveSubtractConfig,
    AlardLuptonPreconvolveSubtractConnections,
    AlardLuptonSubtractConfig,
    AlardLuptonSubtractConnections,
    SimplifiedSubtractConfig,
    SimplifiedSubtractConnections,
)
from .subtract_images import AlardLuptonSubtractTask

__all__ = (
    "AlardLuptonPreconvolveSubtractConfig",
    "AlardLuptonPreconvolveSubtractConnections",
    "AlardLuptonPreconvolveSubtractTask",
    "AlardLuptonSubtractConfig",
    "AlardLuptonSubtractConnections",
    "AlardLuptonSubtractTask",
    "DetectAndMeasureConfig",
    "DetectAndMeasureConnections",
    "DetectAndMeasureScoreConfig",
    "DetectAndMeasureScoreConnections",
    "DetectAndMeasureScoreTask",
    "DetectAndMeasureTask",
    "SimplifiedSubtractConfig",
    "SimplifiedSubtractConnections",
    "SimplifiedSubtractTask",
    "StackDetectAndMeasureConfig",
    "StackDetectAndMeasureTask",
    "StackSubtractConfig",
    "StackSubtractTask",
)

# Derived from a task that only releases up to v25 have: made when they are asked for (`.release_25`).
_OF_RELEASE_25 = ("TwinklesImageDifferenceConfig", "TwinklesImageDifferenceTask")


def __getattr__(name: str) -> Any:
    if name in _OF_RELEASE_25:
        from . import release_25

        return getattr(release_25, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
