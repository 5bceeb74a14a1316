"""Inside the Rubin stack: our tasks in the place of ip_diffim's, and the stack's tasks in the place of ours.

Nothing of the stack is imported before a task runs.
"""

from .bridges import (
    StackDetectAndMeasureConfig,
    StackDetectAndMeasureTask,
    StackSubtractConfig,
    StackSubtractTask,
)
from .detect_and_measure import DetectAndMeasureTask
from .detect_config import DetectAndMeasureConfig, DetectAndMeasureConnections
from .subtract_config import AlardLuptonSubtractConfig, AlardLuptonSubtractConnections
from .subtract_images import AlardLuptonSubtractTask

__all__ = (
    "AlardLuptonSubtractConfig",
    "AlardLuptonSubtractConnections",
    "AlardLuptonSubtractTask",
    "DetectAndMeasureConfig",
    "DetectAndMeasureConnections",
    "DetectAndMeasureTask",
    "StackDetectAndMeasureConfig",
    "StackDetectAndMeasureTask",
    "StackSubtractConfig",
    "StackSubtractTask",
)
