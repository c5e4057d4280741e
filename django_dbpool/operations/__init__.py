"""What runs in this process, how far it is, what it holds, and how to stop it."""

from ..core.operations import Running
from ..core.targets import Outcome, Target
from ..core.watching import Held, Operation, Progress
from ..pool.aiming import aim, cancel, terminate
from .looks import observe, recent, running
from .tracking import advance, track_operation

__all__ = [
    "Held",
    "Operation",
    "Outcome",
    "Progress",
    "Running",
    "Target",
    "advance",
    "aim",
    "cancel",
    "observe",
    "recent",
    "running",
    "terminate",
    "track_operation",
]
