"""Time limits of statements, and what it is called when one was exceeded."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import OperationalError

from ..cancellation import current_scope
from ..core import blocks, sqlstate
from ..core.errors import Expiry, Refusal
from ..errors import LeaseTimedOut
from ..pool import command as commands
from ..pool import watchdog

if TYPE_CHECKING:
    from ..pool.command import Cancellation
    from ..pool.entry import PoolEntry
    from ..pool.managed import ManagedPool
    from .typing import DjangosWrapper as Base
else:
    Base = object

_READING = re.compile(r"\s*(?:SELECT|VALUES|TABLE|SHOW|SET|FETCH)\b", re.IGNORECASE)


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
        return self._timed_out(
            Expiry("deadline", deadline.seconds, age=0.0, maybe_committed=False, answered=True, sent=False)
        )

    def _in_time(self, entry: PoolEntry, call: Callable[[], Any], what: str) -> None:
        """One round trip that is no cursor's ``execute``: within the limit, errors by name."""
        if watchdog.watching:
            self._begin_command(entry, what)
        began = entry.command
        try:
            call()
        except BaseException as error:
            self._raise_by_name(error, what, entry, commands.end(entry), began)
            raise
        if began is not None:
            commands.end(entry)

    def _raise_by_name(
        self,
        error: BaseException,
        what: Any,
        entry: PoolEntry,
        cancellation: Cancellation | None,
        command: commands.Command | None,
    ) -> None:
        """
        Raise the error of ours that says what happened, with the driver's as its cause; return if there is none.

        Args:
            error: what the statement raised, psycopg's own or Django's for it.
            what: its text.
            command: it, if it was announced.
        """
        driver = error if isinstance(error, psycopg.Error) else error.__cause__
        if not isinstance(driver, psycopg.Error):
            return
        code = driver.sqlstate
        stopped = (
            cancellation is not None and cancellation.timed_out and (code is None or code in sqlstate.QUERY_CANCELED)
        )
        setting = _limit_of(command, entry) if stopped else sqlstate.SERVER_TIMEOUT.get(code or "")
        if setting is None:
            return
        deadline = blocks.deadline() if setting == "deadline" else None
        began = entry.since if command is None else command.began
        raise self._timed_out(
            Expiry(
                setting=setting,
                limit=deadline.seconds if deadline else getattr(self._pool and self._pool.config, setting, None),
                age=monotonic() - began,
                maybe_committed=code is None and self._may_have_committed(what),
                answered=code is not None,
            )
        ) from driver

    def _may_have_committed(self, what: Any) -> bool:
        """Of a statement without an answer. Calling a function that writes inside of a SELECT is the caller's risk."""
        if what == "COMMIT":
            return True
        if self.in_atomic_block or not self.autocommit:
            return False
        return what is None or _READING.match(str(what)) is None

    def _timed_out(self, expiry: Expiry) -> LeaseTimedOut:
        pool = self._pool
        refusal = Refusal(
            alias=self.alias,
            waited=expiry.age,
            in_use=0 if pool is None else pool.in_use,
            max_size=0 if pool is None else pool.gate.max_size,
            waiting=0 if pool is None else pool.gate.waiting,
        )
        return LeaseTimedOut(refusal, expiry)


def _limit_of(command: commands.Command | None, entry: PoolEntry) -> str:
    """Which limit a statement was stopped for: a deadline counts only where it is the shorter one."""
    by_deadline = command is not None and (entry.limit is None or command.limit < entry.limit)
    return "deadline" if by_deadline else "command_timeout"
