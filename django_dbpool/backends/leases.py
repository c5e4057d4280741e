"""
The life of a lease on one database wrapper: resolve the pool, take a connection, hold it, give it back.

The rules are these. A lease ends with the statement when autocommit is on, no ``atomic()`` is open and nothing holds
it; ``_hold`` counts what does. Whatever ends a lease first clears ``_entry`` and then gives the connection away, so an
interrupt in between loses a connection for a moment (``Housekeeping.reclaim_lost`` finds it) and never shares one.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from _thread import get_ident
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from asgiref.sync import SyncToAsync
from django.apps import apps
from django.db import InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ..core.errors import GateClosed, LeaseRefused
from ..core.ledger import Owner, current_unit
from ..core.session import declared
from ..errors import PoolError, from_refusal
from ..pool import background
from ..pool import command as commands
from ..pool.entry import ACTIVE, IDLE, INERROR, INTRANS, UNKNOWN, PoolEntry
from ..pool.managed import ManagedPool
from ..pool.session_state import known_neutral, reason_to_pin
from .cursors import warn_if_apps_not_ready
from .guard import watch
from .limits import TimeLimitsMixin
from .patched import djangos_own
from .prepare import is_stale_plan
from .session import SessionMixin

if TYPE_CHECKING:
    from .raw import RawConnection

logger = logging.getLogger("django_dbpool.backends")


def current_request() -> object:
    """What asgiref tells the threads of one asynchronous request from those of another by; None elsewhere."""
    return SyncToAsync.thread_sensitive_context.get(None)


_DJANGOS_DOOR = djangos_own(BaseDatabaseWrapper, "ensure_connection")

POOL_CLOSED_RETRIES = 3
"""How often a lease looks its pool up again after finding it closed (test databases, changed settings)."""


class LeaseMixin(TimeLimitsMixin, SessionMixin):
    """Acquiring and releasing; see ``PooledDatabaseMixin`` for Django's interface to it."""

    _entry: PoolEntry | None
    _pool: ManagedPool | None

    def _init_lease(self) -> None:
        self._init_session()
        self._entry = None
        self._pool = None
        self._owner: Owner | None = None
        self._hold = 0
        self._base_hold = 0
        self._abandoned_streams = 0
        self._losses = 0  # connections that were lost and given up
        self._read: object = None  # text of the ORM's last read
        self._read_attempts = 1
        self._undone = 0  # transactions and savepoints that ended: cursors declared in them may have gone
        self._initializing = False
        self._in_commit_hooks = False
        self._guard_token: object = None
        self._raw: RawConnection | None = None
        self._pid = os.getpid()

    # -- begin --------------------------------------------------------------------------------------------------

    def _lease(self) -> PoolEntry | None:
        """Take a connection; None if this alias is not pooled. Called only when none is held."""
        self.validate_thread_sharing()
        if self._thread_sharing_count:
            with self._sharing_lock:
                # Another of the sharing threads may have been first; then there is nothing to take.
                return self._entry or self._lease_now()
        return self._lease_now()

    def _lease_now(self) -> PoolEntry | None:
        pool = self._pool
        if pool is not None:
            return self._take(pool)
        pool = self._resolve_pool()
        # The first lease of a unit of work goes through Django's door, ensure_connection() and connect(), wherever
        # somebody may stand in it: subclasses, Django's test cases, instrumentation. Else straight in.
        if (
            pool is None
            or self.closed_in_transaction
            or not self._plain_door
            or BaseDatabaseWrapper.ensure_connection is not _DJANGOS_DOOR
            or "connect" in self.__dict__
            or "ensure_connection" in self.__dict__
        ):
            self.ensure_connection()
        else:
            self._begin_unit(pool)
        return self._entry

    def _take(self, pool: ManagedPool, check: bool = False) -> PoolEntry:
        """The hot path: no lock, no queue, no round trip while a fit connection is free and nobody waits."""
        gate = pool.gate
        owner = self._owner
        if not (gate.attention or check) and owner is not None and owner.ident == get_ident():
            try:
                entry = gate.free.pop()
            except IndexError:
                return self._take_slowly(pool, check)
            now = monotonic()
            if now < entry.expires_at and now - entry.since < pool.config.check_idle and not entry.poll(0):
                entry.unit = current_unit.get()
                entry.since = now
                entry.owner = owner
                return self._use(entry)
            gate.give(entry)
        return self._take_slowly(pool, check)

    def _take_slowly(self, pool: ManagedPool, check: bool) -> PoolEntry:
        owner = self._owner
        if owner is None or owner.ident != get_ident():
            owner = self._owner = Owner(weakref.ref(self))
        for _ in range(POOL_CLOSED_RETRIES):
            try:
                return self._use(pool.lease(owner, priority=self._in_commit_hooks, check=check))
            except LeaseRefused as refused:
                raise from_refusal(refused) from refused.__cause__
            except GateClosed:
                fresh = self._resolve_pool()
                if fresh is None:
                    break
                self._attach(fresh)
                pool = fresh
        raise InterfaceError(f"The pool of database {self.alias!r} was closed while a connection was asked for.")

    def _end_lease_of_past_request(self, entry: PoolEntry) -> None:
        """
        A thread of an executor (``sync_to_async(thread_sensitive=False)``, ``asyncio.to_thread``) isn't told when a
        request ends. What it still holds for one, session state included, must not meet the next one's code.
        """
        if entry.request is not current_request() and not self.in_atomic_block:
            self._end_lease()
            self._reset_transaction_state()
            self._pool = None

    def _use(self, entry: PoolEntry) -> PoolEntry:
        self._hold = self._base_hold
        self._entry = entry
        entry.request = current_request() if self._hold else None
        try:
            if entry.initialized_for != len(connection_created.receivers):
                self._initialize(entry)
            if entry.autocommit is not self.autocommit:
                with self.wrap_database_errors:
                    entry.set_autocommit(self.autocommit)
        except BaseException:
            self._end_lease(discard=True)
            raise
        return entry

    def _initialize(self, entry: PoolEntry) -> None:
        """
        Announce a physical connection: once, and again when receivers were added since. Receivers set up the session
        (search_path, adapters), so what they execute neither pins nor ends the lease, and runs outside the
        transaction that may be about to begin: its rollback would undo a SET.
        """
        receivers = len(connection_created.receivers)
        state = (
            self.autocommit,
            self.in_atomic_block,
            self.savepoint_ids,
            self.atomic_blocks,
            self.run_on_commit,
        )
        self.autocommit, self.in_atomic_block, self.savepoint_ids, self.atomic_blocks = True, False, [], []
        self._initializing = True
        self._hold += 1
        try:
            if not entry.autocommit:
                with self.wrap_database_errors:
                    entry.set_autocommit(True)
            self.init_connection_state()
            connection_created.send(sender=self.__class__, connection=self)
        finally:
            self._hold -= 1
            self._initializing = False
            (
                self.autocommit,
                self.in_atomic_block,
                self.savepoint_ids,
                self.atomic_blocks,
                self.run_on_commit,
            ) = state
        entry.autocommit = entry.conn.autocommit
        entry.initialized_for = receivers

    # -- statements ---------------------------------------------------------------------------------------------

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
        if not (type(sql) is str and sql in known_neutral) and entry.pinned is None:
            self._note_session_state(sql)
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

    def _note_session_state(self, sql: Any) -> None:
        reason = reason_to_pin(sql)
        if reason is not None and not self._initializing:
            self._pin(reason)

    def _end_statement(self) -> None:
        """End the lease unless something still needs it."""
        entry = self._entry
        if entry is not None and entry.command is not None:
            commands.end(entry)
        if self._hold or self.in_atomic_block or not self.autocommit:
            if self._abandoned_streams and not (self.in_atomic_block or self._initializing) and self.autocommit:
                self._end_after_abandoned_streams()
            return
        if entry is None:
            return
        status = entry.pgconn.transaction_status
        if status == IDLE:
            self._entry = None
            self._pool.release(entry, self._owner)  # type: ignore[union-attr]
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

    def _statement_failed(self, error: BaseException | None, sql: Any = None) -> None:
        """
        After an error: stop a query that still runs, drop a connection that is lost, else end the statement.

        Raises:
            LeaseTimedOut: instead of the error where that has a name of ours.
        """
        entry = self._entry
        if entry is None:
            return
        command, cancellation = entry.command, commands.end(entry)
        losses = self._losses
        self._clean_up_after(error, entry)
        if cancellation is not None:
            self._losses = losses  # nothing was lost: somebody has ended it, and it must not run again
        if error is not None:
            self._raise_by_name(error, sql, entry, cancellation, command)

    def _clean_up_after(self, error: BaseException | None, entry: PoolEntry) -> None:
        if is_stale_plan(error) and self._pool is not None:
            self._pool.drain()  # the other connections have the same plans
        shared = self._thread_sharing_count > 0  # what runs may be another thread's statement
        if entry.pgconn.transaction_status == ACTIVE and not shared:
            # Not psycopg's doing, which cancels for KeyboardInterrupt alone: a soft time limit or a greenlet's exit
            # came in the middle. The result can't be read any more.
            entry.abort()
        lost = entry.lost()
        cause = error.__cause__ if error is not None else None
        if not lost and isinstance(cause, psycopg.OperationalError) and not cause.sqlstate:
            # psycopg reports a closed socket while libpq still calls the connection good.
            lost = entry.suspicious()
        if (
            lost
            and self.autocommit
            and not (shared or self.in_atomic_block or self._initializing or entry.pinned or entry.streams)
        ):
            # Nothing was promised on this connection that another couldn't keep.
            self._losses += 1
            pool = self._pool
            self._end_lease(discard=True)
            if pool is not None:
                # Seldom alone: a failover or a restart takes all of them.
                pool.check()
        else:
            self._end_statement()

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
    def _streaming(self) -> Iterator[None]:
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
                self._statement_failed(error)
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
        if entry.streams <= self._abandoned_streams:
            self._end_lease(discard=True)

    # -- end ----------------------------------------------------------------------------------------------------

    def _end_lease(self, discard: bool = False) -> None:
        """End the lease whatever holds it. A connection in a doubtful state is closed."""
        entry = self._entry
        if entry is None:
            return
        self._entry = None
        discard = discard or entry.pinned is not None or entry.streams > 0
        self._hold = self._base_hold
        self._abandoned_streams = 0
        pool = self._pool
        assert pool is not None
        status = entry.pgconn.transaction_status
        if status in (INTRANS, INERROR):
            logger.warning(
                "database %r: a transaction was still open when its connection was released, rolled back: %s",
                self.alias,
                entry.holder(self.alias, monotonic()),
            )
        if not discard and status != IDLE:
            try:
                self._in_time(entry, entry.conn.rollback, "ROLLBACK")
            except (psycopg.Error, PoolError):
                discard = True
        if discard or entry.pgconn.transaction_status != IDLE:
            pool.discard(entry)
        else:
            pool.release(entry, self._owner)

    def _attach(self, pool: ManagedPool) -> None:
        """Bind this wrapper to a pool until the end of the unit of work."""
        self._pool = pool
        session = pool.config.mode == "session"
        self._alias_variables = pool.config.session
        self._read_attempts = pool.config.retry.attempts if pool.config.retry.enabled else 1
        self._base_hold = self._hold = int(session) + int(self._thread_sharing_count > 0)
        self._guard_token = watch(self, self._guard_token)

    def holds(self, entry: object) -> bool:
        return self._entry is entry

    def is_shared(self) -> bool:
        return self._thread_sharing_count > 0

    # Defined by PooledDatabaseMixin.
    _sharing_lock: AbstractContextManager[object]
    _plain_door: bool

    def _resolve_pool(self) -> ManagedPool | None:
        raise NotImplementedError

    def _begin_unit(self, pool: ManagedPool) -> None:
        raise NotImplementedError

    def forget_lease(self) -> None:
        """In a forked child: the connection and its transaction are the parent's."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        if self._entry is not None and (self.in_atomic_block or not self.autocommit):
            logger.warning(
                "database %r: forked inside a transaction; the child is outside of it, on a connection of its own",
                self.alias,
            )
        self._entry = None
        self._pool = None
        self._hold = self._base_hold = self._abandoned_streams = 0
        self._reset_transaction_state()

    def _reset_transaction_state(self) -> None:
        self.in_atomic_block = False
        self.savepoint_ids = []
        self.atomic_blocks = []
        self.needs_rollback = False
        self.closed_in_transaction = False
        self.run_on_commit = []
        self.autocommit = self.settings_dict.get("AUTOCOMMIT", True)

    def __del__(self) -> None:
        # A wrapper dropped without close(): copies, threads of foreign origin. No lock and no I/O here, the
        # collector may have interrupted anything.
        entry, pool = self.__dict__.get("_entry"), self.__dict__.get("_pool")
        if entry is not None and pool is not None and self._pid == os.getpid() and not sys.is_finalizing():
            background.abandon(pool, entry, entry.generation)
