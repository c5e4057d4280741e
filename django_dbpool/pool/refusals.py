"""Why a caller got no connection: what happened, with the pool's numbers at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from ..core import sqlstate
from ..core.breaker import SHORTEST_WAIT, Rejected
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
from ..core.gate import DeadlinePassed, GroupIsFull, QueueIsFull, QueueStandsTooLong, QueueWasCleared
from ..core.ledger import Owner
from ..core.stopping import Stopping
from ..core.ticket import Ticket
from ..core.words import one_line
from . import reporting
from .connecting import code_of
from .credentials import NoPassword, origin

if TYPE_CHECKING:
    from .entry import PoolEntry
    from .managed import ManagedPool

AT_THE_GATE = (QueueIsFull, QueueStandsTooLong, QueueWasCleared, DeadlinePassed)


def refusal(
    pool: ManagedPool, error: BaseException, ticket: Ticket[PoolEntry], owner: Owner, waited: float
) -> LeaseRefused:
    """
    The error to raise; its ``__cause__`` is the driver's or the provider's.

    Args:
        error: of the gate, of the circuit or of the driver.
        ticket: the caller's, still in the queue if it was.
        waited: seconds.
    """
    cause = _cause(pool, error)
    kind: type[LeaseRefused] = Exhausted
    retry_after = None
    if isinstance(error, Stopping):
        kind = ProcessIsStopping
    elif isinstance(error, (Rejected, QueueWasCleared)):
        kind = CircuitIsOpen
        breaker = pool.connector.breaker
        # It may have closed meanwhile. "At once" would bring everybody back together whom it has refused.
        retry_after = breaker.snapshot().retry_after or min(SHORTEST_WAIT, breaker.policy.break_duration)
    elif cause is not None:
        kind = ServerIsFull if sqlstate.is_server_full(code_of(cause)) else Unreachable
    elif isinstance(error, (QueueIsFull, QueueStandsTooLong)):
        kind = QueueFull
    full = issubclass(kind, Exhausted)
    holders, age = pool.captured.get() if full else ((), 0.0)
    cycle: tuple[str, ...] = ()
    if kind is Exhausted:  # whoever is refused at once waits for nobody
        cycle = reporting.cycle(owner, pool.alias, ticket.group if isinstance(error, GroupIsFull) else None)
    refused = kind(
        Refusal(
            alias=pool.alias,
            waited=waited,
            in_use=pool.in_use_of_max,
            max_size=pool.gate.max_size,
            # Of those refused at the gate only who waited in vain is in the queue.
            waiting=pool.gate.waiting - (isinstance(error, DeadlinePassed) and not ticket.granted),
            limit=_limit(pool, error, ticket) if full else "",
            holders=holders,
            holders_age=age,
            cycle=cycle,
            retry_after=retry_after,
            driver=words_of(cause),
            reason=str(cause) if isinstance(cause, NoPassword) else "",
        )
    )
    refused.__cause__ = origin(cause)
    return refused


def _limit(pool: ManagedPool, error: BaseException, ticket: Ticket[PoolEntry]) -> str:
    config = pool.config
    if isinstance(error, QueueStandsTooLong):
        return (
            f'callers have been waiting longer than POOL["queue_target"] = {config.queue_target:g} s for at least '
            f'POOL["queue_interval"] = {config.queue_interval:g} s'
        )
    limit = f'as many callers wait as POOL["max_waiting"] = {config.max_waiting} allows'
    if ticket.group is None:
        return limit if isinstance(error, QueueIsFull) else ""
    most, members, waiting = pool.gate.group_numbers(ticket.group)
    group = f'group {ticket.group!r} may have {most} connection{"s" if most > 1 else ""} (POOL["groups"])'
    if isinstance(error, GroupIsFull):
        return f"{group} and has {members}, {waiting - 1} more of it waiting"
    if isinstance(error, QueueIsFull):
        return f"{limit} for their group: {group}" if members >= most else limit
    return ""


def words_of(cause: BaseException | None) -> str:
    """
    For the text: Django's warnings, log lines and reports print an error and not its cause. Only of the driver, whose
    messages have no password in them; a provider's may have anything.
    """
    if not isinstance(cause, psycopg.Error) or isinstance(cause, NoPassword):
        return ""
    return one_line(str(cause).strip().partition("\n")[0])


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
