"""
Taking a connection from the pool for one database wrapper, and giving it back.

Whatever ends a lease first clears ``_entry`` and then gives the connection away, so an interrupt in between loses a
connection for a moment (``Housekeeping.reclaim_lost`` finds it) and never shares one.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import weakref
from _thread import get_ident
from contextlib import AbstractContextManager
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from asgiref.sync import SyncToAsync
from django.db import InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ..core import blocks, callers
from ..core.errors import Exhausted, GateClosed, LeaseRefused
from ..core.ledger import Owner, current_unit
from ..core.logs import get_logger
from ..errors import PoolError, from_refusal
from ..pool import background, tell
from ..pool.entry import IDLE, INERROR, INTRANS, PoolEntry
from ..pool.managed import ManagedPool
from . import activity
from .guard import watch
from .limits import TimeLimitsMixin
from .patched import djangos_own
from .session import SessionMixin

if TYPE_CHECKING:
    from .raw import RawConnection

logger = get_logger("django_dbpool.backends")


def current_request() -> object:
    """What asgiref tells the threads of one asynchronous request from those of another by; None elsewhere."""
    return SyncToAsync.thread_sensitive_context.get(None)


_DJANGOS_DOOR = djangos_own(BaseDatabaseWrapper, "ensure_connection")

POOL_CLOSED_RETRIES = 3
"""How often a lease looks its pool up again after finding it closed (test databases, changed settings)."""


class AcquiringMixin(TimeLimitsMixin, SessionMixin):
    """Taking a connection for this wrapper, and giving it back."""

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
        self._executed = 0  # statements of this unit
        self._count_after = sys.maxsize  # of them those that follow are looked at, see activity.py
        self._seen: activity.Seen | None = None  # how often it has executed each of these
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
                entry.began = inf  # nothing is executed yet
                entry.first = entry.statements
                entry.owner = owner
                if callers.recording:
                    entry.leased_at = callers.calls_now()
                return self._use(entry)
            gate.give(entry)
        return self._take_slowly(pool, check)

    def _take_slowly(self, pool: ManagedPool, check: bool) -> PoolEntry:
        owner = self._owner
        if owner is None or owner.ident != get_ident():
            owner = self._owner = Owner(weakref.ref(self))
        for _ in range(POOL_CLOSED_RETRIES):
            try:
                timeout = self._patience(pool) if blocks.deadlines_used else None
                return self._use(pool.lease(owner, timeout=timeout, priority=self._in_commit_hooks, check=check))
            except LeaseRefused as refused:
                error = from_refusal(self._blamed_on_deadline(refused))
                tell.refused(self.alias, type(error).__name__, refused.refusal.waited)
                raise error from refused.__cause__
            except GateClosed:
                fresh = self._resolve_pool()
                if fresh is None:
                    break
                self._attach(fresh)
                pool = fresh
        raise InterfaceError(f"The pool of database {self.alias!r} was closed while a connection was asked for.")

    def _patience(self, pool: ManagedPool) -> float | None:
        """
        Seconds to wait for a connection at most; None: the pool's own.

        Raises:
            LeaseTimedOut: ``transaction.deadline()`` has passed; not even connecting is tried.
        """
        deadline = blocks.deadline()
        if deadline is None:
            return None
        left = deadline.remaining()
        if left <= 0:
            raise self._too_late(deadline)
        return min(left, pool.config.timeout)

    def _blamed_on_deadline(self, refused: LeaseRefused) -> LeaseRefused:
        """Who waited in vain to the end is told that the end was their own."""
        deadline = blocks.deadline()
        if deadline is not None and type(refused) is Exhausted and deadline.remaining() <= 0:
            reason = f"transaction.deadline({deadline.seconds:g}) has ended the wait."
            refused.refusal = dataclasses.replace(refused.refusal, reason=reason)
        return refused

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

    # -- end ----------------------------------------------------------------------------------------------------

    def _end_lease(self, discard: bool = False) -> None:
        """End the lease whatever holds it. A connection in a doubtful state is closed."""
        entry = self._entry
        if entry is None:
            return
        self._entry = None
        if entry.pinned is not None and entry.ending != "lost":
            entry.ending = "pinned"
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
        self._count_after = activity.begin()  # first: settings that are wrong are said here
        self._pool = pool
        session = pool.config.mode == "session"
        self._alias_variables = pool.config.session
        self._declared_names = pool.declared_names
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

    @property
    def _pooled(self) -> bool:
        raise NotImplementedError

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
