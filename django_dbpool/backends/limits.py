"""Time limits of statements, and what it is called when one was exceeded."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import OperationalError

from ..cancellation import current_scope
from ..core import sqlstate
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

    def _begin_command(self, entry: PoolEntry | None, *, with_task: bool = True) -> None:
        """
        Before a statement, where ``watchdog.watching``.

        Args:
            with_task: cancel it with the task that it runs for; not what ends a transaction.

        Raises:
            OperationalError: that task was cancelled before.
        """
        scope = current_scope.get() if with_task else None
        # Of the threads that share a wrapper (a test's and its live server's) one waits for the other's statement:
        # neither is late, and cancelling one could hit the other.
        if entry is None or (entry.limit is None and scope is None) or self._thread_sharing_count:
            return
        watchdog.begin(entry, entry.limit, scope)
        # After it was announced: else it could slip through between this question and the cancellation.
        if scope is not None and scope.refuses():
            commands.end(entry)
            raise OperationalError(
                f"Statement on database {self.alias!r} was not sent: the task that it runs for was cancelled."
            )

    def _in_time(self, entry: PoolEntry, call: Callable[[], Any], what: str) -> None:
        """One round trip that is no cursor's ``execute``: within the limit, errors by name."""
        if watchdog.watching:
            self._begin_command(entry, with_task=what in ("FETCH", "SET"))
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
        setting = "command_timeout" if stopped else sqlstate.SERVER_TIMEOUT.get(code or "")
        if setting is None:
            return
        began = entry.since if command is None else command.began
        raise self._timed_out(
            Expiry(
                setting=setting,
                limit=getattr(self._pool and self._pool.config, setting, None),
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
