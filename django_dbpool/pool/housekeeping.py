"""
What must happen though nobody asks: idle and old connections retired, min_size filled, lost leases reclaimed,
long leases reported.
"""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from typing import TYPE_CHECKING

import psycopg

from ..core import sqlstate
from ..core.breaker import State
from ..core.ledger import Owner
from ..core.logs import get_logger
from . import background, tell
from .connecting import code_of
from .entry import IDLE, PoolEntry
from .filling import fill

if TYPE_CHECKING:
    from .managed import ManagedPool

logger = get_logger("django_dbpool.pool")

LOST_AFTER = 5.0
"""
Seconds for which a connection must be neither free nor in anybody's hands before it counts as lost. A thread that was
granted one may wait long for the processor before it says so; what it holds is never given to anybody else, at worst
closed.
"""

CEILING_DELAY = 1.0
"""Seconds after which one more connection is tried, when the server had refused one because it was full."""

RESERVE_LINGER = 5.0
"""Seconds for which a connection of the reserve stays open unused: a dashboard's next statement comes sooner."""

REOPEN_DELAY = 1.0
"""Most seconds between attempts to fill up to min_size while the server is away."""


class Housekeeping:
    """The upkeep of one pool, called by the background thread and, for what is lost, by those who wait."""

    def __init__(self, pool: ManagedPool) -> None:
        self.pool = pool
        self._unowned: dict[tuple[PoolEntry, int], float] = {}
        """Connections that were neither free nor in anybody's hands, by lease, and when that was first seen."""
        self._memberless: dict[object, float] = {}
        """Tickets that count against their group's limit though nobody has them; likewise."""
        # Held while the background thread opens a connection, so that close() can wait for it: DROP DATABASE right
        # after close_pool() must not find a session that was just being born.
        self._opening = threading.Lock()
        self._reclaiming = threading.Lock()
        # Two may notice the same lost lease; the one that makes it its own under this lock ends it.
        self._claiming = threading.Lock()
        self.claimer = Owner()
        self.claimer.thread = threading.main_thread()
        self._started = False
        self._try_more_at = 0.0
        self._fill_at = -math.inf
        """Not before this time."""
        self._refused_at = -1
        """How often connecting had succeeded when credentials were refused for want of better ones."""

    def ensure_running(self) -> None:
        """Start the process's background thread with the first lease; cheap afterwards."""
        if not self._started:
            self._started = True
            background.start()

    def wake(self) -> None:
        """Something is due earlier than the background thread knew."""
        background.start()

    def tick(self) -> float:
        """
        One round of upkeep.

        Returns:
            Seconds until the next one is due.
        """
        self.reclaim_lost()
        config = self.pool.config
        due = min(self.retire(), config.leak_after, config.pin_max)
        self._warn()
        due = min(due, self._look_for_room())
        return min(due, self._fill())

    def warm(self, deadline: float) -> bool:
        """
        Wait until the pool has its ``min_size``, filled in the background.

        Args:
            deadline: on the pool's clock.
        """
        self.ensure_running()
        pool = self.pool
        pause = threading.Event()
        while len(pool.entries) < pool.min_size:
            if pool.clock() >= deadline or pool.gate.closed:
                return False
            pause.wait(0.01)
        return True

    def server_is_full(self) -> None:
        self._try_more_at = self.pool.clock() + CEILING_DELAY

    def _look_for_room(self) -> float:
        """Try one more connection if it is time; seconds until the next."""
        now, gate = self.pool.clock(), self.pool.gate
        if not gate.below_its_size:
            return math.inf
        if now >= self._try_more_at:
            self._try_more_at = now + CEILING_DELAY
            gate.raise_ceiling()
        return max(0.05, self._try_more_at - now)

    def retire(self, *, check: bool = False) -> float:
        """Close free connections that are too old, idle for too long, too many or, on ``check``, dead."""
        pool = self.pool
        gate = pool.gate
        now = pool.clock()
        due = pool.config.max_idle
        for entry in tuple(gate.free):
            expired = now >= entry.expires_at
            idle = gate.size > pool.min_size and now - entry.since >= pool.config.max_idle
            if expired:
                self._retire_one(entry, gate.free, "expired" if entry.expires_at > -math.inf else "drained")
            elif idle or gate.size > gate.max_size:
                self._retire_one(entry, gate.free, "idle" if idle else "shrunk")
            elif check and entry.suspicious():
                self._retire_one(entry, gate.free, "lost")
            else:
                due = min(due, entry.expires_at - now)
                if gate.size > pool.min_size:
                    due = min(due, entry.since + pool.config.max_idle - now)
        for entry in tuple(gate.reserve_free):
            if now >= min(entry.expires_at, entry.since + RESERVE_LINGER):
                self._retire_one(entry, gate.reserve_free, "idle")
            elif check and entry.suspicious():
                self._retire_one(entry, gate.reserve_free, "lost")
            else:
                due = min(due, entry.since + RESERVE_LINGER - now)
        return max(0.05, due)

    def _retire_one(self, entry: PoolEntry, free: deque[PoolEntry], reason: str) -> None:
        try:
            free.remove(entry)
        except ValueError:
            return  # lent meanwhile; it is looked at again when it is free
        if reason == "lost":
            tell.lost_idle(self.pool.alias, entry)
        else:
            entry.ending = reason
        self.pool.discard(entry)

    def _fill(self) -> float:
        """Open connections up to min_size if it is time; seconds until the next attempt."""
        connector = self.pool.connector
        # Whoever closes the circuit has it done; until a caller was let in a refused password is not repeated, which
        # could lock the account.
        if connector.breaker.state is not State.CLOSED or self._refused_at == connector.successes:
            return math.inf
        now = self.pool.clock()
        if now >= self._fill_at and (self.fill() is None or self._refused_at == connector.successes):
            return math.inf
        return max(0.05, self._fill_at - now)

    def connecting_failed(self, error: psycopg.Error) -> None:
        """By whomever it was tried; there is no filling for a while, so that no caller's failure is doubled by it."""
        connector = self.pool.connector
        connector.turns.trouble()
        self._fill_at = self.pool.clock() + REOPEN_DELAY * random.uniform(0.7, 1.0)  # noqa: S311
        if sqlstate.is_credentials(code_of(error)):
            self._refused_at = connector.successes

    def server_answers(self) -> None:
        """After failures the pool is filled at once, also if nobody comes any more."""
        if self._fill_at > -math.inf:
            self._fill_at = -math.inf
            self.wake()

    def fill(self) -> Exception | None:
        """Open connections up to min_size; why that failed, if it did. One thread at a time does so."""
        pool = self.pool
        with self._opening:
            if pool.gate.size >= pool.min_size:
                return None
            error = fill(pool)
        if isinstance(error, psycopg.Error):
            self.connecting_failed(error)
            logger.info("database %r: can't fill the pool to min_size: %s", pool.alias, error)
        elif error is not None:
            self._fill_at = pool.clock() + REOPEN_DELAY
            # Code of an engine that derives from ours, or of a provider of credentials.
            logger.error("database %r: filling the pool to min_size failed", pool.alias, exc_info=error)
        return error

    def wait_for_opening(self, timeout: float) -> None:
        if self._opening.acquire(timeout=timeout):
            self._opening.release()

    def reclaim_lost(self) -> None:
        """
        Take back the leases of threads that have ended, and connections that an exception has lost between two
        bytecodes of a lease.
        """
        if not self._reclaiming.acquire(blocking=False):
            return
        try:
            self._reclaim_of_dead_threads()
            self._reclaim_unowned()
            self._reclaim_memberships()
            self._recount()
        finally:
            self._reclaiming.release()

    def _reclaim_of_dead_threads(self) -> None:
        for entry in tuple(self.pool.entries):
            owner, generation = entry.owner, entry.generation
            if owner is not None and owner is not self.claimer and _has_ended(owner, entry):
                self.reclaim(entry, generation)

    def _reclaim_unowned(self) -> None:
        pool = self.pool
        now = pool.clock()
        elsewhere = {*pool.gate.free, *pool.gate.reserve_free, *pool.in_transit()[1]}
        seen = {}
        for entry in tuple(pool.entries):
            owner = entry.owner
            if entry in elsewhere or (owner is not None and not _is_lost(owner, entry)):
                continue
            lease = (entry, entry.generation)
            seen[lease] = first = self._unowned.get(lease, now)
            if now - first >= LOST_AFTER:
                logger.warning(
                    "database %r: backend %d was lost by an interrupted caller, closed",
                    pool.alias,
                    entry.backend_pid,
                )
                pool.discard(entry)
        self._unowned = seen

    def _reclaim_memberships(self) -> None:
        """Of groups: an interrupt between the end of a lease and saying so would leave a group's place taken."""
        pool = self.pool
        if pool.gate.groups is None:
            return
        now = pool.clock()
        seen: dict[object, float] = {}
        accounted = {*pool.tickets(), *(entry.ticket for entry in tuple(pool.entries))}
        for ticket in pool.gate.members() - accounted:
            seen[ticket] = first = self._memberless.get(ticket, now)
            if now - first >= LOST_AFTER:
                pool.gate.leave(ticket)
        self._memberless = seen

    def _recount(self) -> None:
        """
        An interrupt between closing a connection and saying so leaves the gate's count too high for ever. While
        nothing is on its way and no new permit is given, the count has to be the number of open connections.
        """
        pool, gate = self.pool, self.pool.gate
        counted = gate.counted()
        if pool.in_transit()[0]:
            return
        entries = tuple(pool.entries)
        reserved = sum(1 for entry in entries if entry.reserved)
        actual = len(entries) - reserved, reserved
        # Looked at again: what finished between the first look and the count may be in neither.
        if counted[:2] == actual or pool.in_transit()[0]:
            return
        if gate.correct(counted, *actual):
            before = sum(counted[:2])
            logger.warning("database %r: counted %d connections, there are %d", pool.alias, before, len(entries))
            if gate.size > gate.max_size:
                self.retire()  # with one too many nothing is granted, and nobody would come to give one back

    def reclaim(self, entry: PoolEntry, generation: int) -> None:
        """End the lease of a thread or wrapper that is gone. A clean connection is lent on, any other is closed."""
        pool = self.pool
        with self._claiming:
            holder = entry.holder(pool.alias, pool.clock())
            if holder is None or entry.generation != generation or entry not in pool.entries:
                return
            entry.generation += 1
            entry.owner = self.claimer
        logger.warning("database %r: reclaimed the lease of a holder that is gone: %s", pool.alias, holder)
        # Not rolled back here: that is a round trip in a dying thread. The server rolls back when the socket closes.
        clean = entry.pinned is None and not entry.streams and entry.pgconn.transaction_status == IDLE
        # Who asked for it by getconn() may have passed it on to another thread.
        if clean and not pool.forget_lent(entry):
            pool.release(entry, self.claimer)
        else:
            pool.discard(entry)

    def give_up_place(self, entry: PoolEntry) -> None:
        """
        Of a lease whose session was ended: others get its place now. Its holder may wait for something else for hours
        before it notices; the connection, which serves nobody, stays its own until then.
        """
        pool = self.pool
        transit = object()
        try:
            pool._in_transit.add(transit)
            pool.entries.remove(entry)
            pool._note_end(entry, pool.clock() - entry.since)
            entry.settle()
            ticket, entry.ticket = entry.ticket, None
            pool.gate.forfeit(entry.reserved)
            if ticket is not None:
                pool.gate.leave(ticket)
            pool._make_up()
        except KeyError:
            pass  # the lease has ended
        finally:
            pool._in_transit.discard(transit)

    def _warn(self) -> None:
        pool = self.pool
        now = pool.clock()
        for entry in tuple(pool.entries):
            if entry.owner is None or entry.reported == entry.generation:
                continue
            pinned_too_long = entry.pinned is not None and now - entry.pinned_at >= pool.config.pin_max
            if pinned_too_long or now - entry.since >= pool.config.leak_after:
                holder = entry.holder(pool.alias, now)
                if holder is not None and self._is_first_to_report(entry, holder.generation):
                    entry.remarkable = True
                    tell.overdue(pool.alias, holder, "pin" if pinned_too_long else "lease")

    def _is_first_to_report(self, entry: PoolEntry, generation: int) -> bool:
        """Of two ticks at the same time one, and not for the lease that has begun meanwhile."""
        with self._claiming:
            before, entry.reported = entry.reported, generation
        return before != generation


def _has_ended(owner: Owner, entry: PoolEntry) -> bool:
    """Whether the thread behind a lease is gone, and no other thread shares the lease."""
    if owner.thread.is_alive():
        return False
    borrower = owner.borrower() if owner.borrower is not None else None
    return borrower is None or not (borrower.is_shared() and borrower.holds(entry))


def _is_lost(owner: Owner, entry: PoolEntry) -> bool:
    """Whether the wrapper that took a connection doesn't have it, though its thread lives."""
    if owner.borrower is None:
        return False
    borrower = owner.borrower()
    return borrower is None or not borrower.holds(entry)
