"""Time limits of statements, and what it is called when one was exceeded or the connection was lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import OperationalError

from ..cancellation import current_scope
from ..core import blocks, sqlstate
from ..core.errors import Expiry, Loss, Moment, Refusal
from ..errors import CommitUnknown, ConnectionLost, LeaseTimedOut, PoolError
from ..pool import command as commands
from ..pool import tell, watchdog
from ..pool.entry import UNKNOWN
from ..pool.refusals import words_of
from . import activity
from .losses import moment_of, unnamed, was_lost

if TYPE_CHECKING:
    from ..pool.command import Cancellation
    from ..pool.entry import PoolEntry
    from ..pool.managed import ManagedPool
    from .typing import DjangosWrapper as Base
else:
    Base = object


class TimeLimitsMixin(Base):
    """Announces statements to the watchdog, and names their errors."""

    _pool: ManagedPool | None
    _entry: PoolEntry | None

    def _begin_command(self, entry: PoolEntry | None, what: str = "") -> None:
        """
        Before a statement, where ``watchdog.watching``.

        Args:
            what: the statement, if it is none of the caller's.

        Raises:
            LeaseTimedOut: ``transaction.deadline()`` has passed.
            OperationalError: the task that it runs for was cancelled before.
        """
        # Not what ends a transaction or a cursor: it is cancelled with no task, and tried whatever the time is.
        scope = current_scope.get() if what in ("", "FETCH", "SET") else None
        limit = None if entry is None else entry.limit
        if blocks.deadlines_used:
            limit = self._before_deadline(limit, what)
        # Of the threads that share a wrapper (a test's and its live server's) one waits for the other's statement:
        # neither is late, and cancelling one could hit the other.
        if entry is None or (limit is None and scope is None) or self._thread_sharing_count:
            return
        watchdog.begin(entry, limit, scope)
        # After it was announced: else it could slip through between this question and the cancellation.
        if scope is not None and scope.refuses():
            commands.end(entry)
            raise OperationalError(
                f"Statement on database {self.alias!r} was not sent: the task that it runs for was cancelled."
            )

    def _before_deadline(self, limit: float | None, what: str) -> float | None:
        """
        The time limit of a statement that begins now.

        Raises:
            LeaseTimedOut: it is too late for it. Of a COMMIT that is not sent everybody knows what became of it.
        """
        if what in ("ROLLBACK", "CLOSE"):
            return blocks.shortened(limit)
        deadline = blocks.deadline()
        if deadline is None:
            return limit
        left = deadline.remaining()
        if left <= 0:
            raise self._too_late(deadline)
        if what == "COMMIT":
            return blocks.shortened(limit)
        return left if limit is None else min(limit, left)

    def _refuse_late(self) -> None:
        """
        Before a statement or COMMIT where the pool is switched off: nobody could stop it later.

        Raises:
            LeaseTimedOut: ``transaction.deadline()`` has passed.
        """
        deadline = blocks.deadline()
        if deadline is not None and deadline.remaining() <= 0:
            raise self._too_late(deadline)

    def _too_late(self, deadline: blocks.Deadline) -> LeaseTimedOut:
        expiry = Expiry("deadline", deadline.seconds, age=0.0, maybe_committed=False, answered=True, sent=False)
        return LeaseTimedOut(self._refusal(expiry.age), expiry)

    def _in_time(self, entry: PoolEntry, call: Callable[[], Any], what: str) -> None:
        """One round trip that is no cursor's ``execute``: within the limit, errors by name."""
        if watchdog.watching:
            self._begin_command(entry, what)
        began = entry.command
        before = entry.pgconn.transaction_status
        entry.began = monotonic()
        if what == "COMMIT":
            entry.sql = what
        try:
            call()
        except BaseException as error:
            lost = was_lost(unnamed(error), entry)
            self._end_round_trip(entry, what, failed=True)
            self._raise_by_name(error, Sent(what, before, lost, began, commands.end(entry)), entry)
            raise
        if monotonic() - entry.began >= activity.limits.slow:
            self._end_round_trip(entry, what, failed=False)
        entry.began = math.inf
        if began is not None:
            commands.end(entry)

    def _end_round_trip(self, entry: PoolEntry, what: str, *, failed: bool) -> None:
        seconds = monotonic() - entry.began
        if seconds >= activity.limits.slow:
            activity.note_slow(self, entry, what, seconds, failed=failed)
        entry.began = math.inf

    def _raise_by_name(self, error: BaseException, sent: Sent, entry: PoolEntry) -> None:
        """
        Raise the error of ours that says what happened, with the driver's as its cause; return if there is none.

        Args:
            error: what the statement raised, psycopg's own or Django's for it.
        """
        driver = unnamed(error)
        if driver is None:
            return
        named: PoolError | None = self._timed_out(driver, sent, entry)
        if named is None and sent.lost and sent.cancellation is None:
            named = self._lost(driver, sent.moment(self), entry)
            entry.ending = "lost"
            if sent.before != UNKNOWN:  # else it is told already: this is the ROLLBACK or whatever else comes after
                tell.lost(self.alias, sent.moment(self))
        if named is not None:
            raise named from driver

    def _timed_out(self, driver: psycopg.Error, sent: Sent, entry: PoolEntry) -> LeaseTimedOut | None:
        code, cancellation = driver.sqlstate, sent.cancellation
        stopped = (
            cancellation is not None and cancellation.timed_out and (code is None or code in sqlstate.QUERY_CANCELED)
        )
        setting = _limit_of(sent.command, entry) if stopped else sqlstate.SERVER_TIMEOUT.get(code or "")
        if setting is None:
            return None
        deadline = blocks.deadline() if setting == "deadline" else None
        age = monotonic() - (entry.since if sent.command is None else sent.command.began)
        expiry = Expiry(
            setting=setting,
            limit=deadline.seconds if deadline else getattr(self._pool and self._pool.config, setting, None),
            age=age,
            maybe_committed=code is None and Loss(sent.moment(self)).maybe_committed,
            answered=code is not None,
        )
        return LeaseTimedOut(self._refusal(age), expiry)

    def _lost(self, driver: psycopg.Error, moment: Moment, entry: PoolEntry) -> ConnectionLost:
        kind = CommitUnknown if moment == "commit" else ConnectionLost
        return kind(self._refusal(monotonic() - entry.since, words_of(driver)), Loss(moment))

    def _refusal(self, age: float, words: str = "") -> Refusal:
        pool = self._pool
        return Refusal(
            alias=self.alias,
            waited=age,
            in_use=0 if pool is None else pool.in_use_of_max,
            max_size=0 if pool is None else pool.gate.max_size,
            waiting=0 if pool is None else pool.gate.waiting,
            driver=words,
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """A statement that failed, as far as that tells what became of it."""

    what: Any
    """Its text; None if nothing was sent."""
    before: int
    """The transaction's state when it began."""
    lost: bool
    command: commands.Command | None = None
    """It, if it was announced."""
    cancellation: Cancellation | None = None

    def moment(self, db: Any) -> Moment:
        inside = db.in_atomic_block or not db.autocommit
        return moment_of(self.what, self.before, in_transaction=inside, read=self.what is db._read)


def _limit_of(command: commands.Command | None, entry: PoolEntry) -> str:
    """Which limit a statement was stopped for: a deadline counts only where it is the shorter one."""
    by_deadline = command is not None and (entry.limit is None or command.limit < entry.limit)
    return "deadline" if by_deadline else "command_timeout"
