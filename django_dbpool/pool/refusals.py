"""Why a caller got no connection: what happened, with the pool's numbers at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from ..core import sqlstate
from ..core.breaker import Rejected
from ..core.errors import (
    CircuitIsOpen,
    Exhausted,
    LeaseRefused,
    ProcessIsStopping,
    QueueFull,
    Refusal,
    ServerIsFull,
    Unreachable,
)
from ..core.gate import QueueIsFull, QueueWasCleared
from ..core.ledger import Owner
from ..core.stopping import Stopping
from . import reporting
from .connecting import code_of
from .credentials import NoPassword, origin

if TYPE_CHECKING:
    from .managed import ManagedPool


def refusal(pool: ManagedPool, error: BaseException, owner: Owner, waited: float) -> LeaseRefused:
    """
    The error to raise; its ``__cause__`` is the driver's or the provider's.

    Args:
        error: of the gate, of the circuit or of the driver.
        waited: seconds.
    """
    cause = _cause(pool, error)
    kind: type[LeaseRefused] = Exhausted
    retry_after = None
    if isinstance(error, Stopping):
        kind = ProcessIsStopping
    elif isinstance(error, (Rejected, QueueWasCleared)):
        kind = CircuitIsOpen
        retry_after = pool.connector.breaker.snapshot().retry_after
    elif cause is not None:
        kind = ServerIsFull if sqlstate.is_server_full(code_of(cause)) else Unreachable
    elif isinstance(error, QueueIsFull):
        kind = QueueFull
    full = issubclass(kind, Exhausted)
    refused = kind(
        Refusal(
            alias=pool.alias,
            waited=waited,
            in_use=pool.in_use,
            max_size=pool.gate.max_size,
            waiting=sum(1 for waiter in pool.gate.waiters() if waiter is not owner),
            holders=pool.holders(stacks=True) if full else (),
            cycle=reporting.cycle(owner, pool.alias) if full else (),
            retry_after=retry_after,
            driver=words_of(cause),
            reason=str(cause) if isinstance(cause, NoPassword) else "",
        )
    )
    refused.__cause__ = origin(cause)
    return refused


def words_of(cause: BaseException | None) -> str:
    """
    For the text: Django's warnings, log lines and reports print an error and not its cause. Only of the driver, whose
    messages have no password in them; a provider's may have anything.
    """
    if not isinstance(cause, psycopg.Error) or isinstance(cause, NoPassword):
        return ""
    return str(cause).strip().partition("\n")[0]


def _cause(pool: ManagedPool, error: BaseException) -> BaseException | None:
    """The driver's error behind a refusal, if it was not a full pool."""
    if isinstance(error, Stopping):
        return None
    if isinstance(error, psycopg.Error):
        return error
    if isinstance(error, Rejected):
        return error.error
    if isinstance(error, QueueWasCleared):
        return pool.connector.breaker.snapshot().error
    # Whoever waited in vain, though nobody holds anything, waited for a server that doesn't answer.
    return None if pool.in_use else pool.connector.last_error
