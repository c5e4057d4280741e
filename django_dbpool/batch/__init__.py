"""Long work on many rows: in batches that hold a connection for one transaction each, and lose or repeat no row."""

from . import outbox
from .current import idempotency_key
from .errors import BatchRefused, BatchRunMismatch, BatchRunTaken
from .origin import Origin
from .outbox import Delivery, Message
from .progress import BatchProgress, BatchResult, FailedItem
from .running import arun_batches, run_batches
from .splitting import split

__all__ = [
    "BatchProgress",
    "BatchRefused",
    "BatchResult",
    "BatchRunMismatch",
    "BatchRunTaken",
    "Delivery",
    "FailedItem",
    "Message",
    "Origin",
    "arun_batches",
    "idempotency_key",
    "outbox",
    "run_batches",
    "split",
]
