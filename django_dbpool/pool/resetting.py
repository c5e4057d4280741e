"""``reset = "always"``: what a borrower may have left in the session is undone after every lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import psycopg

from ..core.gate import Ticket
from ..core.ledger import Owner
from ..core.logs import get_logger
from . import watchdog
from .entry import IDLE, PoolEntry
from .managed import ManagedPool

logger = get_logger("django_dbpool.pool")

# What DISCARD ALL does, in one round trip: that may not be sent together with anything else and forgets the
# statements that psycopg has prepared without telling it. https://www.postgresql.org/docs/current/sql-discard.html
RESET = (
    "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); "
    "DISCARD TEMP; DISCARD SEQUENCES; "
)
DEALLOCATE_ALL = "DEALLOCATE ALL"
# With server-side prepared statements on: psycopg goes on using its own, which it names so.
DEALLOCATE_OTHERS = """
DO $$ DECLARE statement text; BEGIN
  FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE left(name, 5) <> '_pg3_' LOOP
    EXECUTE pg_catalog.format('DEALLOCATE %I', statement);
  END LOOP;
END $$
"""


class ResettingPool(ManagedPool):
    """A pool whose connections are reset before anybody else gets them, or closed where that fails."""

    def release(self, entry: PoolEntry, owner: Owner | None, now: float | None = None) -> None:
        # Without an owner it was granted and never used. The housekeeper, who ends the lease of a thread that is
        # gone, must not wait for the server.
        if owner is None or entry.owner is not owner or self.clock() >= entry.expires_at:
            super().release(entry, owner, now)
        elif owner is self.housekeeping.claimer or not self._reset_session(entry):
            self.discard(entry)
        else:
            super().release(entry, owner)

    def _reset_session(self, entry: PoolEntry) -> bool:
        """While this runs the connection is still counted as its borrower's. False if it is of no more use."""
        conn = entry.conn
        try:
            with self._in_hand(entry), watchdog.limited(entry, entry.limit):
                if not entry.autocommit:
                    entry.set_autocommit(True)
                prepares = conn.prepare_threshold is not None
                conn.execute(RESET + (DEALLOCATE_OTHERS if prepares else DEALLOCATE_ALL), prepare=False)
                self._forget_notifications(entry)
                if self._prepare is not None:
                    self._prepare(conn, nullcontext)
                entry.forget_session_state()
        except psycopg.Error as error:
            logger.info(
                "database %r: backend %d could not be reset after its lease, closed: %s",
                self.alias,
                entry.backend_pid,
                error,
            )
            return False
        except BaseException:
            self.discard(entry)
            raise
        return entry.pgconn.transaction_status == IDLE

    @contextmanager
    def _in_hand(self, entry: PoolEntry) -> Iterator[None]:
        """The wrapper has let go of it already: housekeeping is not to take it for lost, however long this takes."""
        ticket: Ticket[PoolEntry] = Ticket(entry.owner)
        ticket.entry, ticket.granted = entry, True
        self._in_transit.add(ticket)
        try:
            yield
        finally:
            self._in_transit.discard(ticket)

    @staticmethod
    def _forget_notifications(entry: PoolEntry) -> None:
        """What arrived on a channel that a function listened to."""
        with suppress(AttributeError):  # private, and None while notifies() runs
            entry.conn._notifies_backlog.clear()  # type: ignore[union-attr]


__all__ = ["ResettingPool"]
