"""
Noticing that the server has become a standby: after a failover the old primary's address may lead to one, which
accepts connections and refuses every write (SQLSTATE 25006).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from psycopg import Connection

if TYPE_CHECKING:
    from .entry import PoolEntry
    from .managed import ManagedPool

from ..core.logs import get_logger

logger = get_logger("django_dbpool.pool")

DRAIN_EVERY = 1.0
"""Seconds between two drains, as long as new connections reach a standby again and writes go on failing."""


def in_recovery(conn: Connection[object]) -> bool | None:
    """
    Whether the server is a standby, by what it reports of itself on each connection since PostgreSQL 14; no round
    trip. None: it does not say, or a pooler in front of it does not pass it on.
    """
    reported = conn.pgconn.parameter_status(b"in_hot_standby")
    return None if reported is None else reported == b"on"


class StandbyWatch:
    """
    Tells a failover from a transaction that was made read-only on purpose, and from an alias that is meant for
    reading: a pool whose connections have led to a primary before, and whose server now says that it is a standby.
    """

    def __init__(self, pool: ManagedPool) -> None:
        self.pool = pool
        self._had_primary = False
        self._failed_over = False
        self._next_drain = 0.0
        self._lock = threading.Lock()

    def connected(self, conn: Connection[object]) -> None:
        """A new physical connection."""
        if in_recovery(conn) is False:
            self._had_primary = True
            self._failed_over = False

    def write_refused(self, entry: PoolEntry) -> None:
        """A write on this connection met 25006. After a failover all connections are replaced, as they come back."""
        if not self._had_primary or not in_recovery(entry.conn):
            return
        now = self.pool.clock()
        with self._lock:
            # One after the other: writes that fail on many connections at once need one drain.
            if now < self._next_drain:
                return
            self._next_drain = now + DRAIN_EVERY
            first, self._failed_over = not self._failed_over, True
        logger.log(
            logging.WARNING if first else logging.INFO,
            "database %r: the server refuses writes because it is a standby now, though it was a primary: a failover. "
            "All connections are replaced; if the new ones lead there again, HOST has to name every server and OPTIONS "
            "target_session_attrs=read-write",
            self.pool.alias,
        )
        self.pool.drain()
