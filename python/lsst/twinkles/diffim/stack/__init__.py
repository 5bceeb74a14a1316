"""Inside the Rubin stack: tasks with the interfaces of ip_diffim's, and the stack's tasks within those of this package.

Nothing of the stack is imported before a task runs.
"""

from .subtract_config import AlardLuptonSubtractConfig, AlardLuptonSubtractConnections
from .subtract_images import AlardLuptonSubtractTask

__all__ = (
    "AlardLuptonSubtractConfig",
    "AlardLuptonSubtractConnections",
    "AlardLuptonSubtractTask",
)
