"""
What must happen though nobody asks: idle and old connections retired, min_size filled, lost leases reclaimed,
long leases reported.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import psycopg

from . import background
from .entry import IDLE, PoolEntry

if TYPE_CHECKING:
    from .managed import ManagedPool

logger = logging.getLogger("django_dbpool.pool")

REOPEN_DELAY = 5.0
"""Seconds between attempts to fill up to min_size while the server is away."""


class Housekeeping:
    """The upkeep of one pool, called by the background thread and, for what is lost, by those who wait."""

    def __init__(self, pool: ManagedPool) -> None:
        self.pool = pool
        self._unowned: set[tuple[PoolEntry, int]] = set()
        # Held while the background thread opens a connection, so that close() can wait for it: DROP DATABASE right
        # after close_pool() must not find a session that was just being born.
        self._opening = threading.Lock()
        self._reclaiming = threading.Lock()
        # Two may notice the same lost lease; the one that changes its generation under this lock ends it.
        self._claiming = threading.Lock()
        self._started = False

    def ensure_running(self) -> None:
        """Start the process's background thread with the first lease; cheap afterwards."""
        if not self._started:
            self._started = True
            background.start()

    def tick(self) -> float:
        """
        One round of upkeep.

        Returns:
            Seconds until the next one is due.
        """
        self.reclaim_lost()
        due = self.retire()
        self._warn()
        if self._fill():
            return due
        return min(due, REOPEN_DELAY)

    def retire(self, *, check: bool = False) -> float:
        """Close free connections that are too old, idle for too long, too many or, on ``check``, dead."""
        pool = self.pool
        gate = pool.gate
        now = pool.clock()
        due = pool.config.max_idle
        for entry in tuple(gate.free):
            expired = now >= entry.expires_at
            idle = gate.size > pool.min_size and now - entry.since >= pool.config.max_idle
            if expired or idle or gate.size > gate.max_size or (check and entry.suspicious()):
                self._retire_one(entry)
            else:
                due = min(due, entry.expires_at - now)
                if gate.size > pool.min_size:
                    due = min(due, entry.since + pool.config.max_idle - now)
        return max(0.05, due)

    def _retire_one(self, entry: PoolEntry) -> None:
        try:
            self.pool.gate.free.remove(entry)
        except ValueError:
            return  # lent meanwhile; it is looked at again when it is free
        self.pool.discard(entry)

    def _fill(self) -> bool:
        with self._opening:
            try:
                while self.pool.open_idle():
                    pass
            except psycopg.Error as error:
                logger.info("database %r: can't fill the pool to min_size: %s", self.pool.alias, error)
                return False
        return True

    def wait_for_opening(self, timeout: float) -> None:
        if self._opening.acquire(timeout=timeout):
            self._opening.release()

    def reclaim_lost(self) -> None:
        """
        Take back the leases of threads that have ended, and connections that an exception has lost between two
        bytecodes of a lease: neither free nor owned, on two looks with the same generation.
        """
        if not self._reclaiming.acquire(blocking=False):
            return
        try:
            pool = self.pool
            free = set(pool.gate.free)
            unowned = set()
            for entry in tuple(pool.entries):
                owner = entry.owner
                if owner is not None:
                    if not owner.thread.is_alive():
                        self.reclaim(entry, entry.generation)
                elif entry not in free:
                    unowned.add((entry, entry.generation))
            for entry, generation in unowned & self._unowned:
                if entry.owner is None and entry.generation == generation and entry not in set(pool.gate.free):
                    logger.warning(
                        "database %r: backend %d was lost by an interrupted caller", pool.alias, entry.backend_pid
                    )
                    pool.discard(entry)
            self._unowned = unowned
        finally:
            self._reclaiming.release()

    def reclaim(self, entry: PoolEntry, generation: int) -> None:
        """End the lease of a thread or wrapper that is gone. A clean connection is lent on, any other is closed."""
        pool = self.pool
        with self._claiming:
            holder = entry.holder(pool.alias, pool.clock())
            if holder is None or entry.generation != generation or entry not in pool.entries:
                return
            entry.generation += 1
        logger.warning("database %r: reclaimed the lease of a holder that is gone: %s", pool.alias, holder)
        # Not rolled back here: that is a round trip in a dying thread. The server rolls back when the socket closes.
        clean = entry.pinned is None and not entry.streams and entry.pgconn.transaction_status == IDLE
        if clean:
            pool.release(entry)
        else:
            pool.discard(entry)

    def _warn(self) -> None:
        pool = self.pool
        now = pool.clock()
        for entry in tuple(pool.entries):
            if entry.owner is None or entry.reported:
                continue
            pinned_too_long = entry.pinned is not None and now - entry.pinned_at >= pool.config.pin_max
            if pinned_too_long or now - entry.since >= pool.config.leak_after:
                holder = entry.holder(pool.alias, now)
                if holder is not None:
                    entry.reported = True
                    what = "pin" if pinned_too_long else "lease"
                    logger.warning("database %r: a %s is held for long: %s", pool.alias, what, holder)
