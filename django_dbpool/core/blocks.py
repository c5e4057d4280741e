"""
What a block of code declares for everything that it calls: by when it must be done, and that it may be run twice.

Context variables, since ``sync_to_async`` and ``asyncio.to_thread`` carry them into their threads.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from time import monotonic
from typing import Any, Protocol

GRACE = 0.5
"""Seconds beyond a deadline for the ROLLBACK that follows from it, and for a COMMIT that was sent before it."""


class Declaration:
    """One block's, and the one around it."""

    __slots__ = ("outer",)

    def __init__(self, outer: Declaration | None) -> None:
        self.outer = outer


class Deadline(Declaration):
    """By when a block has to be done; never later than the block around it."""

    __slots__ = ("at", "seconds")

    def __init__(self, outer: Deadline | None, seconds: float) -> None:
        super().__init__(outer)
        self.at = monotonic() + seconds
        self.seconds = seconds
        """What the block asked for; of the block around it, if that ends earlier."""
        if outer is not None and outer.at < self.at:
            self.at, self.seconds = outer.at, outer.seconds

    def remaining(self) -> float:
        """Seconds; negative when it has passed."""
        return self.at - monotonic()


class Attempt(Protocol):
    """One run of a block that may be repeated, as long as it has done nothing for good."""

    outer: Any

    def note(self, connection: Any, sql: Any) -> None:
        """A statement is done, or about to be."""

    def note_elsewhere(self, connection: Any, sql: Any) -> None:
        """A statement is about to be sent on this connection, which may be another thread's."""

    def note_failed_commit(self, connection: Any, error: BaseException) -> None:
        """COMMIT has raised this."""


current_attempt: ContextVar[Attempt | None] = ContextVar("dbpool_attempt", default=None)
current_deadline: ContextVar[Deadline | None] = ContextVar("dbpool_deadline", default=None)
current_idempotence: ContextVar[Declaration | None] = ContextVar("dbpool_idempotent", default=None)

# Whether any block of the kind was ever entered in this process. What a statement asks first: a global is read in a
# quarter of a context variable's time.
deadlines_used = False
idempotence_used = False


def use_deadlines() -> None:
    global deadlines_used
    deadlines_used = True


def use_idempotence() -> None:
    global idempotence_used
    idempotence_used = True


def note_statement(connection: Any, sql: Any) -> None:
    """Of what passes by Django's ``execute_wrappers``, in which attempts see the others: COPY and ``stream()``."""
    attempt = current_attempt.get()
    while attempt is not None:
        attempt.note(connection, sql)
        attempt = attempt.outer


def note_elsewhere(connection: Any, sql: Any) -> None:
    """Of any connection, perhaps another thread's; called only where ``writes.watching``."""
    attempt = current_attempt.get()
    while attempt is not None:
        attempt.note_elsewhere(connection, sql)
        attempt = attempt.outer


def note_failed_commit(connection: Any, error: BaseException) -> None:
    attempt = current_attempt.get()
    while attempt is not None:
        attempt.note_failed_commit(connection, error)
        attempt = attempt.outer


def deadline() -> Deadline | None:
    """The one that holds for the calling code."""
    return current_deadline.get() if deadlines_used else None


def seconds_left() -> float:
    """Until that deadline; infinite without one."""
    mine = deadline()
    return math.inf if mine is None else mine.remaining()


def shortened(limit: float | None) -> float | None:
    """
    A time limit for what has to be tried in any case, to end in an orderly way: not beyond the deadline, but for a
    moment's grace.
    """
    left = seconds_left()
    if left == math.inf:
        return limit
    left = max(left, 0.0) + GRACE
    return left if limit is None else min(limit, left)


def is_idempotent() -> bool:
    """Whether the calling code has said that to run it twice is the same as to run it once."""
    return idempotence_used and current_idempotence.get() is not None
