"""
One statement that somebody may have to stop from outside: because its time is up, or because the task that it runs
for was cancelled.

A request to cancel names a connection, not a statement (https://www.postgresql.org/docs/current/protocol-flow.html
#PROTOCOL-FLOW-CANCELING-REQUESTS), so one that comes late would hit whatever runs there next. Therefore both sides
look twice, without a lock in the path of the statement. Who cancels first announces it in ``command.cancellation`` and
then makes sure that ``entry.command`` is still this one; the statement's end first takes itself out of
``entry.command`` and then looks for an announcement. If there is one it waits until the other side is done with the
connection, which is closed after its lease: not even a request that the network delays finds another borrower there.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg import capabilities

from ..core.logs import get_logger
from .entry import ACTIVE

if TYPE_CHECKING:
    from .entry import PoolEntry

logger = get_logger("django_dbpool.pool")

CONFIRMED_WITHIN = 0.4
"""Seconds for the server to accept a request to cancel."""

EFFECTIVE_WITHIN = 0.5
"""Seconds, counted together with the above, for the statement to end; then its socket is shut down."""

PATIENCE = 5.0
"""Seconds for which a statement's end waits for a cancellation that takes ten times as long as it may."""


class Command:
    """One statement on one connection, from before it is sent until its result is here."""

    __slots__ = ("began", "cancellation", "deadline", "entry", "generation", "limit", "scope", "thread")

    def __init__(self, entry: PoolEntry, limit: float | None, scope: object) -> None:
        self.entry = entry
        self.generation = entry.generation
        self.began = monotonic()
        self.limit = math.inf if limit is None else limit
        self.deadline = self.began + self.limit
        self.scope = scope
        """On whose behalf it runs, if that can be cancelled."""
        self.thread = threading.get_ident()
        self.cancellation: Cancellation | None = None

    def over(self) -> bool:
        """Whether its end has come, or was skipped by an exception between two bytecodes."""
        entry = self.entry
        return entry.command is not self or entry.generation != self.generation or entry.conn.closed

    def active(self) -> bool:
        """Whether the server works on it; else it is about to be sent or its result is being read."""
        return self.entry.pgconn.transaction_status == ACTIVE


running: set[Command] = set()
"""Of this process; add and discard are atomic."""

_announcing = threading.Lock()


def end(entry: PoolEntry) -> Cancellation | None:
    """The end of the entry's command, however it ended. Gives the cancellation that it met, if it did."""
    command = entry.command
    if command is None:
        return None
    entry.command = None
    running.discard(command)
    cancellation = command.cancellation
    if cancellation is None:
        return None
    entry.expires_at = -math.inf  # first of all: whatever interrupts this thread, the connection isn't lent on
    cancellation.statement_over.set()
    if not cancellation.done.wait(PATIENCE):
        logger.warning("a cancellation on backend %d takes too long, its connection is closed", entry.backend_pid)
        cancellation.cut = True
    if cancellation.cut:
        entry.close()
    if not cancellation.sent:
        return None
    entry.stopped = True
    return cancellation


def announce(command: Command, *, timed_out: bool) -> Cancellation | None:
    """
    From here on the end of this command waits; ``start()`` has to follow.

    Returns:
        None if it is over, or somebody else's to cancel.
    """
    with _announcing:  # a time limit and the end of a task may come together
        if command.cancellation is not None:
            return None
        cancellation = command.cancellation = Cancellation(command, timed_out)
    if command.over():
        cancellation.done.set()
        return None
    cancellation.sent = True
    return cancellation


class Cancellation:
    """The stopping of one command: ask the server and, where that does nothing, shut the socket down."""

    def __init__(self, command: Command, timed_out: bool) -> None:
        self.command = command
        self.timed_out = timed_out
        self.sent = False
        self.cut = False
        """The socket was shut down: what became of the statement is not known."""
        self.statement_over = threading.Event()
        self.done = threading.Event()

    def start(self) -> None:
        """Returns at once: there is a thread for each, because all statements of a frozen server are due together."""
        try:
            threading.Thread(target=self._carry_out, name="dbpool-cancel", daemon=True).start()
        except RuntimeError:  # no more threads: the interpreter ends, or the system's limit is reached
            self._carry_out()

    def _carry_out(self) -> None:
        """Called while the statement's end waits for us, so the connection stays open and is nobody else's."""
        began = monotonic()
        try:
            with duplicate_of(self.command.entry.pgconn.socket) as duplicate:
                confirmed = self._ask_server()
                ended = self.statement_over.wait(max(0.0, EFFECTIVE_WITHIN - (monotonic() - began)))
                if not (confirmed and ended):
                    self.cut = True
                    with suppress(OSError):
                        duplicate.shutdown(socket.SHUT_RDWR)
        except (psycopg.Error, OSError) as error:
            logger.info("backend %d is gone already: %s", self.command.entry.backend_pid, error)
        finally:
            self.done.set()

    def _ask_server(self) -> bool:
        """Whether the server has taken the request; from then on it can't hit a later statement."""
        if not capabilities.has_cancel_safe():
            return False  # before libpq 17 it may block for ever, and in psycopg's C implementation all threads with it
        try:
            self.command.entry.conn.cancel_safe(timeout=CONFIRMED_WITHIN)
        except (psycopg.Error, OSError):
            return False
        return True


@contextmanager
def duplicate_of(number: int) -> Iterator[socket.socket]:
    """Should the statement's end tire of waiting, the number itself might be another connection's by then."""
    try:
        duplicate = socket.socket(fileno=os.dup(number))
    except OSError:  # too many open files: better the number than a statement that never ends
        duplicate = socket.socket(fileno=number)
        try:
            yield duplicate
        finally:
            duplicate.detach()
    else:
        with duplicate:
            yield duplicate


def reset_after_fork() -> None:
    """What runs in the parent is none of the child's business."""
    global _announcing
    running.clear()
    _announcing = threading.Lock()
