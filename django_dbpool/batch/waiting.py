"""When a batch had better wait: pages come first, and a server that is away is not asked again and again."""

from __future__ import annotations

from typing import Any

from django.db import connections

from ..core.breaker import State
from ..errors import CircuitOpen, LeaseTimedOut, PoolError, PoolExhausted, ShuttingDown
from ..transaction.attempt import is_pooled
from ..transaction.verdict import is_transient

SHORTEST = 0.05
LONGEST = 2.0


def reason_to_wait(alias: str, busy_above: float | None) -> str | None:
    """Why no batch should begin now; in words, for the log. Asks nobody but this process."""
    connection: Any = connections[alias]
    if connection.in_atomic_block or not is_pooled(connection):
        return None
    pool = connection.pool
    if pool.breaker.state in (State.OPEN, State.ISOLATED):
        return "the circuit is open"
    if busy_above is None:
        return None
    now = pool.snapshot()
    if now.waiting:
        return f"{now.waiting} callers wait for a connection"
    if now.in_use >= busy_above * now.max_size:
        return f"{now.in_use} of {now.max_size} connections are in use"
    return None


def passes(error: Exception) -> bool:
    """Whether the same batch may succeed later, without anybody's doing anything about its items."""
    if isinstance(error, ShuttingDown):
        return False
    if isinstance(error, LeaseTimedOut):
        # A server that answers to being told to stop is well, and the statement too slow.
        return not error.expiry.answered
    return isinstance(error, PoolExhausted) or is_transient(error)


def blames_items(error: Exception) -> bool:
    """Whether one of the batch's items may be the reason."""
    return not isinstance(error, PoolError) or (isinstance(error, LeaseTimedOut) and error.expiry.answered)


def delay_after(error: Exception | None, waits: int) -> float:
    """
    Seconds to the next look.

    Args:
        waits: how often it was waited for this batch already.
    """
    delay = min(LONGEST, SHORTEST * 2.0 ** min(waits, 10))
    if isinstance(error, CircuitOpen):
        return max(delay, min(error.retry_after, LONGEST))
    return delay
