"""Time limits of statements, and what it is called when one was exceeded or the connection was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import OperationalError

from ..cancellation import current_scope
from ..core import sqlstate
from ..core.errors import Expiry, Loss, Moment, Refusal
from ..errors import CommitUnknown, ConnectionLost, LeaseTimedOut, PoolError
from ..pool import command as commands
from ..pool import watchdog
from ..pool.refusals import words_of
from .losses import moment_of, was_lost

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
        before = entry.pgconn.transaction_status
        try:
            call()
        except BaseException as error:
            lost = was_lost(driver_error(error), entry)
            self._raise_by_name(error, Sent(what, before, lost, began, commands.end(entry)), entry)
            raise
        if began is not None:
            commands.end(entry)

    def _raise_by_name(self, error: BaseException, sent: Sent, entry: PoolEntry) -> None:
        """
        Raise the error of ours that says what happened, with the driver's as its cause; return if there is none.

        Args:
            error: what the statement raised, psycopg's own or Django's for it.
        """
        driver = driver_error(error)
        if driver is None:
            return
        named: PoolError | None = self._timed_out(driver, sent, entry)
        if named is None and sent.lost and sent.cancellation is None:
            named = self._lost(driver, sent.moment(self), entry)
        if named is not None:
            raise named from driver

    def _timed_out(self, driver: psycopg.Error, sent: Sent, entry: PoolEntry) -> LeaseTimedOut | None:
        code, cancellation = driver.sqlstate, sent.cancellation
        stopped = (
            cancellation is not None and cancellation.timed_out and (code is None or code in sqlstate.QUERY_CANCELED)
        )
        setting = "command_timeout" if stopped else sqlstate.SERVER_TIMEOUT.get(code or "")
        if setting is None:
            return None
        age = monotonic() - (entry.since if sent.command is None else sent.command.began)
        expiry = Expiry(
            setting=setting,
            limit=getattr(self._pool and self._pool.config, setting, None),
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
            in_use=0 if pool is None else pool.in_use,
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


def driver_error(error: BaseException) -> psycopg.Error | None:
    """Psycopg's error behind one of Django's; None behind one that has its name already."""
    if isinstance(error, PoolError):
        return None
    driver = error if isinstance(error, psycopg.Error) else error.__cause__
    return driver if isinstance(driver, psycopg.Error) else None
