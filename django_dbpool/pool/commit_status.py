"""
Asking the server what became of a COMMIT whose answer was lost (``POOL["commit_status"]``).

``pg_xact_status`` (https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT) knows it by the
transaction's id, which has to be known before COMMIT is sent. Its answer holds only on the server that gave the id, and
only if that has not crashed since: ids whose log had not reached the disk are given again after a crash, and a standby
that was promoted may not have received them. System identifier and timeline don't show a crash. The time at which the
server's statistics began does: they survive a clean restart and nothing else
(https://www.postgresql.org/docs/current/monitoring-stats.html).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import Connection, Cursor
from psycopg.rows import tuple_row

from ..core import blocks
from ..core.errors import GateClosed, LeaseRefused
from ..core.ledger import Owner
from ..core.logs import get_logger
from . import watchdog
from .entry import IDLE

if TYPE_CHECKING:
    from .entry import PoolEntry
    from .managed import ManagedPool

logger = get_logger("django_dbpool.pool")

Outcome = Literal["committed", "aborted", "unknown"]

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds between two questions, as long as the transaction is in progress: its server process may not have noticed."""

_HISTORY = (
    "(SELECT system_identifier FROM pg_control_system()) || ' ' || "
    "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || ' ' || "
    "extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time())"
)
_STATUS = f"SELECT {_HISTORY}, pg_xact_status(%s::text::xid8)"


def history_of(conn: Connection[Any], alias: str) -> str | None:
    """Which server this is, and which of its lives; None if it can't be told, and then no answer is to be trusted."""
    try:
        row = _cursor(conn).execute(f"SELECT {_HISTORY}", prepare=False).fetchone()
    except psycopg.Error as error:
        if conn.closed:
            raise
        logger.info("database %r: the server can't be asked about a lost COMMIT: %s", alias, error)
        return None
    return None if row is None else row[0]


def transaction_id(entry: PoolEntry) -> str | None:
    """Of the transaction that is open; None if it has changed nothing."""
    row = _cursor(entry.conn).execute("SELECT pg_current_xact_id_if_assigned()::text", prepare=False).fetchone()
    return None if row is None else row[0]


def outcome(pool: ManagedPool, history: str, xid: str) -> Outcome:
    """
    What became of a transaction. Waits while it is in progress, as long as this caller may wait for a connection.

    Args:
        history: of the server that gave the id.
    """
    deadline = pool.clock() + (blocks.shortened(pool.config.timeout) or 0.0)
    pause, nothing = FIRST_PAUSE, threading.Event()
    while (remaining := deadline - pool.clock()) > 0:
        try:
            found, status = _ask(pool, xid, remaining)
        except (LeaseRefused, GateClosed) as error:
            logger.warning("database %r: no connection to ask what became of a COMMIT: %r", pool.alias, error)
            break
        except psycopg.OperationalError as error:
            logger.info("database %r: lost again while asking what became of a COMMIT: %s", pool.alias, error)
        except psycopg.Error as error:
            logger.warning("database %r: the server can't tell what became of a COMMIT: %s", pool.alias, error)
            break
        else:
            if found != history:
                logger.warning("database %r: the server has crashed, or is another, since a COMMIT", pool.alias)
                break
            if status != "in progress":
                return status if status in ("committed", "aborted") else "unknown"
        nothing.wait(min(pause, remaining))
        pause = min(2 * pause, LONGEST_PAUSE)
    return "unknown"


def _ask(pool: ManagedPool, xid: str, timeout: float) -> tuple[Any, Any]:
    owner = Owner()
    entry = pool.lease(owner, timeout=timeout, priority=True)
    try:
        if not entry.autocommit:
            entry.set_autocommit(True)
        with watchdog.limited(entry, entry.limit):
            row = _cursor(entry.conn).execute(_STATUS, [xid], prepare=False).fetchone()
    finally:
        if entry.pgconn.transaction_status == IDLE:
            pool.release(entry, owner)
        else:
            pool.discard(entry)
    return (None, None) if row is None else (row[0], row[1])


def _cursor(conn: Connection[Any]) -> Cursor[Any]:
    # Not conn.cursor(): an engine or a user may have set factories.
    return Cursor(conn, row_factory=tuple_row)
