"""Counts the site's connections from the server's side."""

from __future__ import annotations

import contextlib
import threading
from typing import Self

import psycopg

from testproject.databases import APPLICATION_NAME
from testproject.postgres import Server

_COUNT = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = %s AND pid <> pg_backend_pid()
"""
_SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"


class Observer:
    """Asks pg_stat_activity every few milliseconds, over a connection that it opens before the load begins.

    `peak` is the most connections seen at once; `opened()` how many the server has counted since the start.
    """

    def __init__(self, server: Server, interval: float = 0.02) -> None:
        self._server = server
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._observe, name="observer", daemon=True)
        self.peak = 0
        self.samples = 0

    def __enter__(self) -> Self:
        self._connection = self._server.connect()
        self._sessions_before = self._sessions()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def opened(self) -> int:
        """Connections opened since the start; exact once they are closed again."""
        return self._sessions() - self._sessions_before

    def _sessions(self) -> int:
        row = self._connection.execute(_SESSIONS).fetchone()
        assert row is not None
        return int(row[0])

    def _observe(self) -> None:
        # The server going away ends the observation, not the program that started it.
        with contextlib.suppress(psycopg.OperationalError):
            while not self._stop.wait(self._interval):
                row = self._connection.execute(_COUNT, [APPLICATION_NAME]).fetchone()
                assert row is not None
                self.peak = max(self.peak, row[0])
                self.samples += 1
