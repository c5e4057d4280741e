"""
When a lease ends: with the statement, if autocommit is on, no ``atomic()`` is open and nothing holds it; ``_hold``
counts what does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

from django.apps import apps
from django.db import DatabaseError, InterfaceError

from ..core import blocks, writes
from ..core.logs import get_logger
from ..core.session import declared
from ..core.sqlstate import READ_ONLY
from ..errors import remember
from ..pool import command as commands
from ..pool.entry import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN, PoolEntry
from ..pool.session_state import known_neutral, reason_to_pin
from . import activity
from .acquiring import AcquiringMixin, current_request
from .activity import limits
from .cursors import warn_if_apps_not_ready
from .limits import Sent
from .losses import unnamed, was_lost
from .prepare import is_stale_plan

logger = get_logger("django_dbpool.backends")


class LeaseMixin(AcquiringMixin):
    """Statements, and what holds a lease beyond one; see ``PooledDatabaseMixin`` for Django's interface to it."""

    def _begin_statement(self, cursor: Any, sql: Any) -> Any:
        """Lease if nothing is held, bind the cursor to the lease, note session state; the raw cursor to use."""
        if not apps.ready:
            warn_if_apps_not_ready()
        if self.needs_rollback:
            self.validate_no_broken_transaction()
        entry = self._entry
        if entry is None:
            entry = self._lease()
            if entry is None:
                raise InterfaceError("connection not open")
        if cursor.entry is not entry:
            self._rebind(cursor, entry)
        cursor.generation = entry.generation
        session = entry.session
        context = declared.get()
        if context is not session.context or self._engine_declares:
            self._sync_session_of(entry, sql, context)
        entry.sql = sql
        entry.statements += 1
        entry.began = self._pool.clock()  # type: ignore[union-attr]  # not with its lease, which a cursor may begin
        if not (type(sql) is str and sql in known_neutral) and entry.pinned is None:
            self._note_session_state(sql)
        self._executed = executed = self._executed + 1
        if executed > self._count_after:
            activity.count(self, entry, sql)
        if writes.watching:
            self._note_write(sql)
        return cursor.cursor

    def _rebind(self, cursor: Any, entry: PoolEntry) -> None:
        """The cursor was made on another physical connection than the one leased now."""
        old = cursor.cursor
        if old.closed:
            self._end_statement()
            raise InterfaceError("the cursor is closed")
        try:
            with self.wrap_database_errors:
                new = self.create_cursor()
        except BaseException as error:
            self._statement_failed(error)
            raise
        new.arraysize = old.arraysize
        new.row_factory = old.row_factory
        cursor.cursor = new
        cursor.entry = entry

    def _sync_session_of(self, entry: PoolEntry, sql: Any, context: Any) -> None:
        try:
            self._in_time(entry, partial(self._sync_session, entry.session, entry.conn, sql, context), "SET")
        except BaseException as error:
            self._statement_failed(error)
            raise
        if entry.session.spoiled:
            entry.expires_at = -math.inf

    def _note_session_state(self, sql: Any) -> None:
        reason = reason_to_pin(sql)
        if reason is not None and not self._initializing:
            self._pin(reason)

    def _note_slow(self, sql: Any, *, failed: bool = False) -> None:
        entry = self._entry
        if entry is not None:
            seconds = self._pool.clock() - entry.began  # type: ignore[union-attr]
            activity.note_slow(self, entry, sql, seconds, failed=failed)

    def _note_write(self, sql: Any) -> None:
        if sql is self._read or self._initializing:
            return
        blocks.note_elsewhere(self, sql)
        if not blocks.is_idempotent():
            writes.note_statement(in_transaction=self.in_atomic_block or not self.autocommit)

    def _end_statement(self) -> None:
        """End the lease unless something still needs it."""
        entry = self._entry
        if entry is None:
            return
        if entry.command is not None:
            commands.end(entry)
        now = self._pool.clock()  # type: ignore[union-attr]
        if now - entry.began >= limits.slow:
            self._note_slow(entry.sql)
        if self._hold or self.in_atomic_block or not self.autocommit:
            if self._abandoned_streams and not (self.in_atomic_block or self._initializing) and self.autocommit:
                self._end_after_abandoned_streams()
            entry.began = math.inf  # idle: what ends next is none of this statement
            return
        status = entry.pgconn.transaction_status
        if status == IDLE:
            self._entry = None
            self._pool.release(entry, self._owner, now)  # type: ignore[union-attr]
        elif status == UNKNOWN:
            self._end_lease(discard=True)

    def _end_transaction(self) -> None:
        """After COMMIT or ROLLBACK, before the hooks: the same, whatever autocommit is going to be."""
        self._undone += 1
        entry = self._entry
        if entry is None or self.in_atomic_block or entry.pgconn.transaction_status != IDLE:
            return
        if self._abandoned_streams:
            self._end_after_abandoned_streams()
        elif not self._hold:
            self._entry = None
            self._pool.release(entry, self._owner)  # type: ignore[union-attr]

    def _state(self) -> int:
        """Of the transaction, as the server told it last: before a statement, should that get no answer."""
        entry = self._entry
        return IDLE if entry is None else entry.pgconn.transaction_status

    def _statement_failed(self, error: BaseException | None, sql: Any = None, before: int = IDLE) -> None:
        """
        After an error: stop a query that still runs, drop a connection that is lost, else end the statement.

        Args:
            sql: the statement; None if nothing was sent.
            before: the transaction's state before it.

        Raises:
            LeaseTimedOut, ConnectionLost: instead of the error where that has a name of ours.
        """
        if isinstance(error, DatabaseError):
            remember(error)
        entry = self._entry
        if entry is None:
            return
        if sql is not None:
            if self._pool.clock() - entry.began >= limits.slow:  # type: ignore[union-attr]
                self._note_slow(sql, failed=True)
            entry.began = math.inf  # it has ended, though its lease may not have
        driver = None if error is None else unnamed(error)
        lost = was_lost(driver, entry)  # asked first: what follows may close it
        if driver is not None and driver.sqlstate in READ_ONLY and self._pool is not None:
            self._pool.standby.write_refused(entry)
        command, cancellation = entry.command, commands.end(entry)
        if lost and cancellation is None:
            entry.ending = "lost"  # said when it is closed, which comes first
        self._clean_up_after(error, entry, lost)
        if error is not None:
            self._raise_by_name(error, Sent(sql, before, lost, command, cancellation), entry)

    def _clean_up_after(self, error: BaseException | None, entry: PoolEntry, lost: bool) -> None:
        if is_stale_plan(error) and self._pool is not None:
            self._pool.drain()  # the other connections have the same plans
        shared = self._thread_sharing_count > 0  # what runs may be another thread's statement
        if entry.pgconn.transaction_status == ACTIVE and not shared:
            # Not psycopg's doing, which cancels for KeyboardInterrupt alone: a soft time limit or a greenlet's exit
            # came in the middle. The result can't be read any more.
            entry.abort()
        if lost or entry.lost():
            self._lose(entry, over=self.autocommit and not self.in_atomic_block)
        else:
            self._end_statement()

    def _lose(self, entry: PoolEntry, *, over: bool) -> None:
        """
        Give up a connection that is lost, unless it stands for something that another couldn't: whoever goes on as if
        nothing had happened must meet the error again.

        Args:
            over: no transaction of Django's is open.
        """
        pool = self._pool
        shared = self._thread_sharing_count > 0
        if over and not (shared or self._initializing or entry.pinned or entry.streams):
            if not entry.stopped:  # else somebody has ended it, and it must not run again
                self._losses += 1
            self._end_lease(discard=True)
        else:
            self._end_statement()
        if pool is not None:
            # Seldom alone: a failover or a restart takes all of them.
            pool.check()

    # -- what holds a lease -------------------------------------------------------------------------------------

    def _pin(self, reason: str) -> None:
        """Keep this connection to the end of the unit and close it then: the session is no longer neutral."""
        entry = self._entry
        if entry is not None and entry.pinned is None:
            entry.pinned_at = monotonic()
            entry.pinned = reason
            entry.request = current_request()
            self._hold += 1
            logger.debug("database %r: connection pinned: %s", self.alias, reason)

    def _hold_stream(self, entry: PoolEntry) -> None:
        entry.streams += 1
        self._hold += 1

    def _drop_stream(self, entry: PoolEntry) -> None:
        if self._entry is entry:
            entry.streams -= 1
            self._hold -= 1

    @contextmanager
    def _streaming(self, statement: Any, before: int) -> Iterator[None]:
        """Hold the lease for COPY or ``stream()``."""
        entry = self._entry
        assert entry is not None
        generation = entry.generation
        self._hold_stream(entry)
        try:
            yield
        except BaseException as error:
            if self._entry is entry and entry.generation == generation:
                self._drop_stream(entry)
                self._statement_failed(error, statement, before)
            raise
        if self._entry is entry and entry.generation == generation:
            self._drop_stream(entry)
            # psycopg leaves a COPY TO that wasn't read to its end running, and the connection unusable.
            self._statement_failed(None)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the lease, or take one, around a statement that somebody watches."""
        entry = self._entry or self._lease()
        if entry is None:
            yield
            return
        generation = entry.generation
        self._hold += 1
        try:
            yield
        finally:
            if self._entry is entry and entry.generation == generation:
                self._hold -= 1
                self._end_statement()

    def _abandon_stream(self) -> None:
        """A server-side cursor was collected or closed by another thread: plain assignments only, see its caller."""
        self._abandoned_streams += 1

    def _end_after_abandoned_streams(self) -> None:
        entry = self._entry
        if entry is None or entry.pinned is not None or self._base_hold:
            return
        if entry.pgconn.transaction_status in (INTRANS, INERROR):
            return  # begun by a BEGIN in raw SQL
        if entry.streams <= self._abandoned_streams:
            self._end_lease(discard=True)

    def may_end_lease(self) -> bool:
        """Whether nothing that somebody began is unfinished: a transaction of whatever kind, an iterator."""
        entry = self._entry
        return (
            entry is not None
            and not (self.in_atomic_block or entry.streams)
            and self.autocommit is self.settings_dict["AUTOCOMMIT"]
            and entry.pgconn.transaction_status not in (INTRANS, INERROR)
        )
