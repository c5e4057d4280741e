"""What the server knows at the end: of each event, of sessions, of refused connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from django_dbpool.server_counts import LOCK
from testproject.databases import APPLICATION_NAME
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from testproject.webhooks.deliveries import Delivery
from testproject.webhooks.sender import Sent

TOO_MANY_CONNECTIONS = "53300"

_EVENTS = """
    SELECT event.key, event.state, event.error,
        (SELECT count(*) FROM webhooks_booking booking WHERE booking.event = event.key),
        (SELECT count(*) FROM webhooks_notice notice WHERE notice.event = event.key)
    FROM webhooks_event event
"""
_ORPHANS = """
    SELECT count(*) FROM webhooks_booking WHERE event NOT IN (
        SELECT event.key FROM webhooks_event event JOIN webhooks_order ON webhooks_order.number = event."order"
    )
"""
_PROGRESS = (
    "SELECT (SELECT count(*) FROM webhooks_notice), (SELECT count(*) FROM webhooks_event WHERE state = 'received')"
)
# Not the one by which our engine counts the server's connections: it is no pool's, and ends when the site is idle.
_SESSIONS = """
    SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%%') FROM pg_stat_activity activity
    WHERE application_name = %s AND datname = current_database() AND NOT EXISTS (
        SELECT FROM pg_locks WHERE pg_locks.pid = activity.pid AND locktype = 'advisory' AND classid = %s
    )
"""
_ASLEEP = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND state = 'active' AND query LIKE '%%pg_sleep%%'"
)


@dataclass(frozen=True)
class Events:
    """Each event that was sent is in exactly one of them."""

    done: int
    """Booked once, and its customer told once."""
    failed: int
    """Recorded as failed, with the error."""
    lost: int
    """Acknowledged, or there; neither done nor recorded as failed."""
    repeated: int
    """Booked more than once, or its customer was told more than once."""
    undelivered: int
    """Its sender has given up, and we know nothing of it."""
    orphans: int
    """Bookings for orders that there are not: half of the work of a handler that raised."""

    @property
    def settled(self) -> int:
        return self.done + self.failed


def count_events(server: Server, sent: Sent) -> Events:
    with server.connect() as connection:
        rows = {key: rest for key, *rest in connection.execute(_EVENTS)}
        orphans = _one(connection, _ORPHANS)[0]
    counted = dict.fromkeys(("done", "failed", "lost", "repeated", "undelivered"), 0)
    for delivery in sent.deliveries:
        counted[_fate(delivery, sent, rows.get(delivery.key))] += 1
    return Events(**counted, orphans=int(orphans))


def _fate(delivery: Delivery, sent: Sent, row: list[Any] | None) -> str:
    if row is None:
        return "lost" if delivery.key in sent.acknowledged else "undelivered"
    state, error, bookings, notices = row
    if bookings > 1 or notices > 1:
        return "repeated"
    if state == "done" and bookings == notices == 1:
        return "done"
    return "failed" if state == "failed" and error and not notices else "lost"


@dataclass(frozen=True)
class Sessions:
    """Of the site, as the server sees them while nobody works."""

    open: int
    in_transaction: int


def count_sessions(server: Server) -> Sessions:
    with server.connect() as connection:
        return Sessions(*map(int, _one(connection, _SESSIONS, APPLICATION_NAME, LOCK)))


def wait_settled(server: Server, still: float = 2.0, timeout: float = 60) -> None:
    """Until nothing is left to do for any event, or nothing has been done for any for so many seconds."""
    with server.connect() as connection:
        seen, since = None, time.monotonic()
        deadline = since + timeout
        while time.monotonic() < deadline:
            progress = _one(connection, _PROGRESS)
            if not progress[1]:
                return
            if progress != seen:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > still:
                return
            time.sleep(0.05)


def refused_connections(server: EmbeddedServer) -> int:
    """Where their SQLSTATE is: the log's prefix ends with it."""
    return sum(f" {TOO_MANY_CONNECTIONS} FATAL:" in line for line in server.log().splitlines())


def end_report(server: Server, end: Callable[[psycopg.Connection[Any], int], object]) -> None:
    """Wait for the report to run, and end its connection in the middle of its statement."""
    with server.connect() as connection:
        found: list[int] = []

        def runs() -> bool:
            found[:] = [pid for (pid,) in connection.execute(_ASLEEP, [APPLICATION_NAME])]
            return bool(found)

        if not wait_until(runs, timeout=40):
            raise RuntimeError("the report did not begin")
        end(connection, found[0])


def _one(connection: psycopg.Connection[Any], query: str, *parameters: object) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row
