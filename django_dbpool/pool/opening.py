"""A pool's physical connections: making them, keeping those that nobody has asked for, ending them all."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection

from ..core.logs import get_logger
from ..core.tally import Tally
from . import tell, watchdog
from .by_hand import LendingByHand
from .commit_status import history_of
from .entry import PoolEntry

if TYPE_CHECKING:
    from ..core.config import PoolConfig
    from ..core.gate import Gate
    from .connecting import Connector
    from .housekeeping import Housekeeping
    from .standby import StandbyWatch

logger = get_logger("django_dbpool.pool")

Prepare = Callable[[Connection[Any], watchdog.InTime], None]


class OpeningConnections(LendingByHand):
    """What a pool does before a connection is lent for the first time, and when nobody will have it any more."""

    alias: str
    config: PoolConfig
    clock: Callable[[], float]
    gate: Gate[PoolEntry]
    tally: Tally
    entries: set[PoolEntry]
    connector: Connector
    housekeeping: Housekeeping
    standby: StandbyWatch
    _in_transit: set[object]
    _prepare: Prepare | None
    _histories: MutableMapping[Connection[Any], str | None]

    def _open_entry(self, deadline: float, *, reserved: bool) -> PoolEntry:
        """Open a connection in the caller's thread; the caller holds a permit."""
        return self._make_entry(self.connector.open(deadline), reserved=reserved)

    def prepare(self, conn: Connection[Any], limit: float) -> None:
        """
        Make of a new connection what a borrower expects. A part of connecting: repeated with it if it is lost.

        Args:
            limit: seconds. A pooler accepts clients also while its server is away, and a server may freeze now.
        """
        try:
            in_time = partial(watchdog.connecting, conn, limit)
            if not conn.autocommit:
                conn.autocommit = True
            if self._prepare is not None:
                self._prepare(conn, in_time)
            if self.config.commit_status:
                with in_time():
                    self._histories[conn] = history_of(conn, self.alias)
        except BaseException:
            conn._pool = None
            conn.close()
            raise
        self.standby.connected(conn)

    def _make_entry(self, conn: Connection[Any], *, reserved: bool = False) -> PoolEntry:
        entry: PoolEntry | None = None
        try:
            now = self.clock()
            expires_at = now + self._jitter(self.config.max_lifetime, -0.05, 0.0)
            config = self.config
            entry = PoolEntry(
                conn,
                now,
                expires_at,
                limit=config.command_timeout,
                variables=config.session,
                reserved=reserved,
                tally=self.tally,
            )
            entry.history = self._histories.pop(conn, None)
            self.entries.add(entry)
            tell.opened(self.alias, self.connector.seconds.pop(conn, 0.0), entry)
        except BaseException:
            if entry is not None:
                self.entries.discard(entry)
                self.tally.closed(entry)
            conn._pool = None
            conn.close()
            raise
        return entry

    def _close_entry(self, entry: PoolEntry) -> None:
        self.entries.discard(entry)
        entry.abort()

    def open_idle(self) -> bool:
        """Open one more connection into the free stack if fewer than min_size exist. For the background thread."""
        deadline = self.clock() + self.config.connect_timeout
        # One attempt, which no caller waits for: there will be another round.
        return self._add_idle(self.min_size, lambda: self._make_entry(self.connector.attempt(deadline)))

    def adopt(self, conn: Connection[Any]) -> None:
        """Keep a connection that a probe has opened, or close it if there is no place for it."""
        try:
            kept = self._add_idle(self.gate.max_size, lambda: self._make_entry(conn))
        except psycopg.Error as error:
            logger.info("database %r: the connection of a probe was lost again: %s", self.alias, error)
        else:
            if not kept:
                conn._pool = None
                conn.close()

    def _add_idle(self, limit: int, make: Callable[[], PoolEntry]) -> bool:
        transit = object()
        try:
            self._in_transit.add(transit)
            if not self.gate.grow(limit):
                return False
            try:
                entry = make()
            except BaseException:
                self.gate.forfeit()
                raise
            self.gate.give(entry)
        finally:
            self._in_transit.discard(transit)
        if self.gate.closed:
            self._close_free()
        return True

    def _close_free(self) -> None:
        for free in (self.gate.free, self.gate.reserve_free):
            while free:
                try:
                    entry = free.pop()
                except IndexError:
                    break
                entry.ending = "closed"
                self._close_entry(entry)
                self.gate.forfeit(entry.reserved)

    # -- all of them: psycopg_pool's public interface -----------------------------------------------------------

    def drain(self) -> None:
        """Replace every connection: free ones now, leased ones when they come back."""
        for entry in tuple(self.entries):
            entry.expires_at = -math.inf
        self.housekeeping.retire()

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the limits. A smaller pool is reached at once by closing free ones, else as leased ones come back."""
        super().resize(min_size, max_size)
        self.gate.resize(self.max_size)
        self.housekeeping.retire()

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new leases, close what is free; what is leased is closed when it comes back."""
        self.gate.close()
        self.housekeeping.wait_for_opening(timeout)
        self._close_free()
        super().close(timeout)

    def check(self) -> None:
        """Close the free connections that the server has dropped."""
        self.housekeeping.retire(check=True)

    def wait(self, timeout: float = 30.0) -> None:
        """Open connections up to min_size. Unlike psycopg_pool's, it doesn't close the pool when it fails."""
        while self.open_idle():
            pass

    def _start_workers(self) -> None:
        """No thread per pool: connections are opened by those who need them, kept by the process's one thread."""
        self._sched_runner = None

    def _start_initial_tasks(self) -> None:
        """min_size is filled by the background thread once somebody has leased."""

    def forget(self) -> None:
        """In a forked child: the sockets are the parent's. Nothing is closed, and no destructor may try."""
        self._closed = True
        self.gate.closed = True
        self.gate.attention = 1
