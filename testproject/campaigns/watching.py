"""What the server sees of worker and site while they work: sessions, transactions, and how long they stand still."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Self

import psycopg

from testproject.postgres import Server

STILL = 1.2
"""Seconds: shorter than a pause, and far longer than what is between two statements, on a busy machine too."""

_SESSIONS = """
    SELECT application_name, count(*), count(*) FILTER (WHERE xact_start IS NOT NULL),
        array_agg(pid) FILTER (
            WHERE state LIKE 'idle in transaction%' AND clock_timestamp() - state_change > %s * interval '1 s'
        ),
        coalesce(max(extract(epoch FROM clock_timestamp() - state_change))
            FILTER (WHERE state LIKE 'idle in transaction%'), 0)
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1
""".replace("%'", "%%'")


@dataclass
class Seen:
    """Of the sessions of one kind of process."""

    peak: int = 0
    """At once."""
    standing: set[int] = field(default_factory=set)
    """Those that stood still, by the process ids of their backends."""
    longest: float = 0.0
    """Seconds for which one was idle in a transaction."""
    in_transaction: float = 0.0
    """Seconds in transactions, of all sessions together."""


class Watch:
    """
    Asks pg_stat_activity every few milliseconds, as a superuser, for whom slots are reserved.

    Args:
        still: seconds; sessions that are idle in a transaction for longer stand still.
        interval: seconds between two looks.
    """

    def __init__(self, server: Server, still: float = STILL, interval: float = 0.02) -> None:
        self._still = still
        self._server = server
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self.seen: dict[str, Seen] = {}
        self.samples = 0

    def __enter__(self) -> Self:
        self._connection = self._server.connect(application_name="watch")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def of(self, process: str) -> Seen:
        return self.seen.get(process, Seen())

    def _look(self) -> None:
        before = time.monotonic()
        # The server going away ends it, not the program that started it.
        with contextlib.suppress(psycopg.OperationalError):
            while not self._stop.wait(self._interval):
                rows = self._connection.execute(_SESSIONS, [self._still]).fetchall()
                now = time.monotonic()
                self.samples += 1
                for name, sessions, in_transaction, standing, longest in rows:
                    seen = self.seen.setdefault(name, Seen())
                    seen.peak = max(seen.peak, sessions)
                    seen.standing.update(standing or ())
                    seen.longest = max(seen.longest, float(longest))
                    seen.in_transaction += in_transaction * (now - before)
                before = now
