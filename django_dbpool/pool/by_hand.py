"""Connections for code that has the pool in hand, as psycopg_pool lends them."""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from ..core.errors import GateClosed, LeaseRefused, QueueFull
from ..core.ledger import Owner
from .entry import PoolEntry


class LendingByHand(ConnectionPool[Connection[Any]]):
    """``getconn``, ``putconn`` and with them ``connection``, over leases."""

    _lent: dict[Connection[Any], PoolEntry]

    def lease(self, owner: Owner, *, timeout: float | None = None) -> PoolEntry:
        raise NotImplementedError

    def discard(self, entry: PoolEntry) -> None:
        raise NotImplementedError

    def getconn(self, timeout: float | None = None) -> Connection[Any]:
        """As psycopg_pool's, with its errors: for code that has the pool in hand. Pair it with ``putconn``."""
        try:
            entry = self.lease(Owner(), timeout=timeout)
        except QueueFull as error:
            raise TooManyRequests(
                f"the pool {self.name!r} has already {error.refusal.waiting} requests waiting"
            ) from error
        except LeaseRefused as error:
            message = f"couldn't get a connection after {error.refusal.waited:.2f} sec"
            raise PoolTimeout(message) from error.__cause__ or error
        except GateClosed:
            raise PoolClosed(f"the pool {self.name!r} is already closed") from None
        if not entry.autocommit:
            entry.set_autocommit(True)
        self._lent[entry.conn] = entry
        return entry.conn

    def forget_lent(self, entry: PoolEntry) -> bool:
        """Refuse a later ``putconn`` of this connection; whether ``getconn`` had lent it."""
        return self._lent.pop(entry.conn, None) is not None

    def putconn(self, conn: Connection[Any]) -> None:
        """Take back what ``getconn`` lent. What the borrower set in the session isn't known: it is closed."""
        entry = self._lent.pop(conn, None)
        if entry is None:
            raise ValueError(f"can't return connection to pool {self.name!r}, it was not lent by it: {conn}")
        self.discard(entry)
