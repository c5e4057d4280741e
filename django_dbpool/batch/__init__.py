"""Long work on many rows: in batches that hold a connection for one transaction each, and lose or repeat no row."""

from . import outbox
from .control import cancel, pause, resume
from .current import idempotency_key
from .deleting import delete_old
from .errors import BatchRefused, BatchRunEnded, BatchRunMismatch, BatchRunMissing, BatchRunTaken
from .origin import Origin
from .outbox import Delivery, Message
from .progress import BatchProgress, BatchResult, FailedItem
from .reaping import dead_runs, reap
from .running import arun_batches, run_batches
from .splitting import split
from .starting import Start, register_starter, unregister_starter
from .status import PartStatus, RunStatus, databases, runs, status

__all__ = [
    "BatchProgress",
    "BatchRefused",
    "BatchResult",
    "BatchRunEnded",
    "BatchRunMismatch",
    "BatchRunMissing",
    "BatchRunTaken",
    "Delivery",
    "FailedItem",
    "Message",
    "Origin",
    "PartStatus",
    "RunStatus",
    "Start",
    "arun_batches",
    "cancel",
    "databases",
    "dead_runs",
    "delete_old",
    "idempotency_key",
    "outbox",
    "pause",
    "reap",
    "register_starter",
    "resume",
    "run_batches",
    "runs",
    "split",
    "status",
    "unregister_starter",
]
