"""One physical connection and what the pool knows about it."""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from ..core import callers, events
from ..core.ledger import TRANSACTION_STATES, Holder, Owner, label_and_name, place_of, thread_units
from ..core.session import SessionState
from ..core.sqltext import without_literals
from ..core.tally import BOUNDS, Tally
from ..core.ticket import Ticket
from .stopping_statements import stop_statement

if TYPE_CHECKING:
    from .command import Command

IDLE = int(TransactionStatus.IDLE)
ACTIVE = int(TransactionStatus.ACTIVE)
INTRANS = int(TransactionStatus.INTRANS)
INERROR = int(TransactionStatus.INERROR)
UNKNOWN = int(TransactionStatus.UNKNOWN)

_NONE: Mapping[str, str] = {}

CANCEL_TIMEOUT = 2.0
"""Seconds given to the server to confirm a cancel request before the socket is closed all the same."""


def make_poll(fileno: int) -> Callable[[int], object]:
    """
    A function that, called with 0, is truthy when the socket has something to read, without waiting. It costs under
    a microsecond, a round trip a hundred. Where ``poll`` is missing ``select`` does the same.
    """
    make = _poll_of_the_system()
    if make is None:
        return lambda timeout: select.select([fileno], (), (), timeout)[0]
    poller = make()
    # POLLHUP and POLLERR need no registration; POLLIN covers an orderly close.
    poller.register(fileno, select.POLLIN)
    return poller.poll


def count_readable(filenos: Sequence[int]) -> int:
    """How many of these sockets have something to read, at one moment and without waiting."""
    make = _poll_of_the_system()
    if make is None:
        with suppress(OSError, ValueError):  # one was closed meanwhile
            return len(select.select(filenos, (), (), 0)[0])
        return 0
    poller = make()
    for fileno in filenos:
        poller.register(fileno, select.POLLIN)
    return sum(bool(event & select.POLLIN) for _, event in poller.poll(0))


def _poll_of_the_system() -> Callable[[], select.poll] | None:
    # gevent's poll lets other greenlets run though it needn't wait, in the middle of a lease, and works in one thread.
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("select"):
        with suppress(AttributeError):
            return cast("Callable[[], select.poll]", monkey.get_original("select", "poll"))
    return getattr(select, "poll", None)


# Not the entry itself: in a cycle it would outlive its last user, and with it a connection that an interrupt has lost.
_NOT_LOOKED_UP = object()


class Lease(NamedTuple):
    """What is known of a lease while it lasts."""

    generation: int
    owner: Owner
    unit: object
    since: float
    statements: int
    """Begun in it."""


class PoolEntry:
    """
    A physical connection. ``owner`` is set while it is leased; ``generation`` counts leases, so that a cursor can
    tell its own lease from a later one on the same connection.
    """

    __slots__ = (
        "autocommit",
        "backend_pid",
        "began",
        "command",
        "conn",
        "created_at",
        "ending",
        "expires_at",
        "first",
        "generation",
        "history",
        "initialized_for",
        "leased_at",
        "limit",
        "owner",
        "pgconn",
        "pid",
        "pinned",
        "pinned_at",
        "poll",
        "remarkable",
        "reported",
        "request",
        "reserved",
        "session",
        "since",
        "sql",
        "statements",
        "stopped",
        "streams",
        "tally",
        "ticket",
        "timezone",
        "unit",
        "used",
        "uses",
        "variables",
        "waited",
    )

    def __init__(
        self,
        conn: Connection[Any],
        now: float,
        expires_at: float,
        *,
        limit: float | None = None,
        variables: Mapping[str, str] = _NONE,
        reserved: bool = False,
        tally: Tally | None = None,
    ) -> None:
        self.conn = conn
        self.pgconn = conn.pgconn
        self.backend_pid = conn.info.backend_pid
        self.pid = os.getpid()
        self.poll = make_poll(conn.fileno())
        self.created_at = now
        self.expires_at = expires_at
        self.since = now
        """Start of the lease, or end of the last one."""
        self.generation = 0
        self.autocommit = conn.autocommit
        """Mirror of conn.autocommit, whose setter takes a lock."""
        self.initialized_for = -1
        """How many connection_created receivers have seen this connection."""
        self.timezone: object = _NOT_LOOKED_UP
        """Time zone of the loader in conn.adapters; a value that equals none until it was looked up."""
        self.variables = variables
        """Session variables that it began with, and has again after a reset."""
        self.session = SessionState(variables)
        self.reserved = reserved
        """One of the reserve: it never becomes an ordinary one."""
        self.ticket: Ticket[PoolEntry] | None = None
        """Of the lease, if there is more to give back than the connection: a group's place, one of the reserve."""
        self.owner: Owner | None = None
        self.unit: object = None
        self.request: object = None
        """The asynchronous request for which a lease is held beyond its statement, if it was one."""
        self.pinned: str | None = None
        self.pinned_at = 0.0
        self.reported = -1
        """Generation of the last lease that was logged as too long."""
        self.limit = limit
        """Seconds that a statement may take; None: as long as it likes."""
        self.command: Command | None = None
        """The statement that runs, if it has a limit or can be cancelled with its task."""
        self.stopped = False
        """A statement was cancelled from outside: what it did must not be done again on another connection."""
        self.history: str | None = None
        """The server's, if it can be asked about a COMMIT whose answer is lost."""
        self.streams = 0
        """Server-side cursors, COPY and the like that still read from or write to this connection."""
        self.tally = tally
        self.uses = [0] * (len(BOUNDS) + 1)
        self.used = 0.0
        self.statements = 0
        self.first = 0
        """``statements`` at the beginning of the lease."""
        self.remarkable = False
        """There is more to do at the end of this lease than to count it."""
        self.waited: float | None = None
        """Seconds for which this lease was waited for, if it was."""
        self.sql: object = None
        """What was given to the last ``execute()``; it may have values in it and is shown to nobody as it is."""
        self.began = math.inf
        """When that was; infinity when nothing is executed."""
        self.leased_at: tuple[tuple[CodeType, int], ...] = ()
        """Where, outermost call last, if that is wanted. Not frames, which would keep local variables alive."""
        self.ending = "discarded"
        """Why the connection is closed, once it is."""

    def suspicious(self) -> bool:
        """
        True if the server has said something while nobody asked: mostly that it is gone.

        Asked also by those who don't hold it. So not by ``poll``, which its holder may be calling: a poll object
        serves one thread at a time, the other gets RuntimeError("concurrent poll() invocation").
        """
        try:
            return bool(make_poll(self.conn.fileno())(0))
        except (OSError, ValueError, psycopg.Error):
            return True

    def set_autocommit(self, value: bool) -> None:
        self.conn.autocommit = value
        self.autocommit = value

    def forget_session_state(self) -> None:
        """After a reset of the session: nothing is known to be set in it, and it is announced again."""
        self.initialized_for = -1
        self.session = SessionState(self.variables)

    def note_age(self) -> None:
        """It is to be closed because ``expires_at`` has passed."""
        self.ending = "expired" if self.expires_at > -math.inf else "drained"

    def lost(self) -> bool:
        return self.conn.closed or self.pgconn.transaction_status == UNKNOWN

    def abort(self) -> None:
        """Stop what the server may be doing for this connection and close it."""
        if self.pid != os.getpid():
            return  # inherited through fork(): the socket is the parent's
        try:
            if not self.conn.closed and self.pgconn.transaction_status == ACTIVE:
                stop_statement(self.conn, CANCEL_TIMEOUT)
        finally:
            self.close()

    def settle(self) -> None:
        """Count it as closed, once."""
        if self.tally is not None and self.tally.closed(self):
            self._tell()

    def close(self) -> None:
        self.settle()
        # _pool keeps psycopg from warning about a connection that is collected unclosed; closing ends that.
        self.conn._pool = None
        self.conn.close()

    def _tell(self) -> None:
        tally = self.tally
        assert tally is not None
        tally.event(f"closed {self.ending}")
        if events.subscribers:
            events.publish(
                events.ConnectionClosed(
                    alias=tally.alias,
                    reason=self.ending,
                    age=max(0.0, time.monotonic() - self.created_at),
                    backend_pid=self.backend_pid,
                )
            )

    def leased(self) -> Lease | None:
        """
        The lease of this moment, if there is one, all of the same lease: whoever aims at its number must not hit the
        one after it. At its end a lease first loses its owner and then its number.
        """
        generation = self.generation
        owner, unit, since, statements = self.owner, self.unit, self.since, self.statements - self.first
        if owner is None or self.generation != generation:
            return None
        return Lease(generation, owner, unit, since, statements)

    def holder(self, alias: str, now: float, stack: tuple[str, ...] = ()) -> Holder | None:
        """This entry's lease for a report, or None when it is not leased (any more)."""
        lease = self.leased()
        owner, unit, ticket = self.owner if lease is None else lease.owner, self.unit, self.ticket
        if owner is None:
            return None
        if unit is None:
            unit = thread_units.get(owner.ident)
        label, name = label_and_name(unit)
        begun = 0 if lease is None else lease.statements
        return Holder(
            alias=alias,
            backend_pid=self.backend_pid,
            thread=owner.thread.name,
            thread_ident=owner.ident,
            unit=label,
            since_seconds=max(0.0, now - self.since),
            pinned=self.pinned,
            state=TRANSACTION_STATES[self.pgconn.transaction_status],
            group=ticket.group if ticket is not None else None,
            reserved=self.reserved,
            stack=stack,
            name=None if unit is None else name,
            generation=-1 if lease is None else lease.generation,
            statements=begun,
            sql=without_literals(self.sql) if begun else None,
            leased_at=tuple(map(place_of, self.leased_at)) if callers.recording else (),
        )
