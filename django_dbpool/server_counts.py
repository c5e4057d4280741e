"""
How many connections the server has for this role, asked by one process of all that use it.

Who asks holds an advisory lock on a connection of its own, outside of the pool: asking never takes a connection from a
request, works while the server is full, and ends with the process, however that ends. Nobody asks while the process
is idle, so that a database that scales to zero may do so.
"""

from __future__ import annotations

import os
import random
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import psycopg
from django.db import DatabaseError, connections

from .conf import pool_config
from .conf.engines import is_ours
from .conf.process import in_test_environment
from .core import reporter
from .core.logs import get_logger
from .core.tally import tallies, tally_of
from .transaction import dedicated

logger = get_logger("django_dbpool.server_counts")

INTERVAL = 60.0
JOB = "server-counts"
LOCK = 0x64627063
"""Of advisory locks; the second key is of role and alias: of two aliases of one database each has its counts."""
BACK_OFF = 5
"""A process that finds another asking looks again after about this many intervals."""
STATEMENT_TIMEOUT = 1000
"""Milliseconds."""

_LEAD = "SELECT pg_try_advisory_lock(%s, hashtext(session_user || ' ' || %s::text))"
# Of others' sessions an ordinary role sees no more than whose they are; those without a user are the server's own. The
# workers of a parallel query have their leader's user, and take none of max_connections.
_COUNT = """
SELECT count(*) FILTER (WHERE state = 'active'),
       count(*) FILTER (WHERE state = 'idle'),
       count(*) FILTER (WHERE state LIKE 'idle in transaction%%'),
       count(*),
       (SELECT count(*) FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' OR (backend_type IS NULL AND usesysid IS NOT NULL)),
       current_setting('max_connections')::int
  FROM pg_catalog.pg_stat_activity
 WHERE usename = session_user AND datname = current_database() AND pid <> pg_backend_pid()
   AND backend_type = 'client backend'
"""


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Connections at one moment."""

    alias: str
    active: int
    """Of this role to this database, without the one that asks, as are the next three."""
    idle: int
    idle_in_transaction: int
    total: int
    all_roles: int
    """Everybody's, to all databases."""
    max_connections: int
    """The server's limit; a few are reserved for superusers."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Watch:
    """One alias in one process."""

    def __init__(self, alias: str, interval: float) -> None:
        self.alias = alias
        self.interval = interval
        self._found: tuple[float, ServerCounts] | None = None
        self._thread: threading.Thread | None = None
        self._not_before = 0.0
        self._end = threading.Event()

    def latest(self) -> ServerCounts | None:
        found = self._found
        return found[1] if found is not None and monotonic() - found[0] < 2 * self.interval else None

    def asking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> None:
        """Begin to ask, unless this process does, or another one did when it was last looked at."""
        if not self.asking() and monotonic() >= self._not_before:
            self._not_before = monotonic() + self.interval * BACK_OFF * random.uniform(0.6, 1.4)  # noqa: S311
            thread = threading.Thread(target=self._run, name=f"dbpool-{JOB}", daemon=True)
            thread.start()
            self._thread = thread  # not before: close() joins it

    def close(self, timeout: float) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        # A frozen process must not lead for ever: the server ends the session of one that is silent for long.
        limits = f"-c statement_timeout={STATEMENT_TIMEOUT} -c idle_session_timeout={int(1000 * self._silence())}"
        try:
            with closing(connections[self.alias]), dedicated(self.alias, options=limits) as connection:
                self._ask(connection)
        except (DatabaseError, psycopg.Error) as error:
            logger.debug("database %r: the server can't be asked for its connections: %s", self.alias, error)
        except Exception:
            logger.exception("database %r: asking the server for its connections failed", self.alias)
        finally:
            self._found = None

    def _silence(self) -> float:
        return max(3 * self.interval, 60.0)  # a busy machine may keep a thread waiting for long

    def _ask(self, connection: psycopg.Connection[Any]) -> None:
        if not _row(connection, _LEAD, [LOCK, self.alias])[0]:
            return
        self._not_before = 0.0
        leases = -1
        while True:
            before, (leases, lent) = leases, tally_of(self.alias).leases()
            if leases == before and not lent:
                return  # idle for a whole interval
            self._found = monotonic(), ServerCounts(self.alias, *_row(connection, _COUNT, []))
            if self._end.wait(self.interval):
                return


def _row(connection: psycopg.Connection[Any], sql: str, params: list[Any]) -> tuple[Any, ...]:
    row = connection.execute(sql, params).fetchone()
    assert row is not None
    return tuple(row)


_wanted: dict[str, float] = {}
"""By whom, and how often."""
_watches: dict[str, _Watch] = {}
_changing = threading.Lock()


def watch(who: str, *, interval: float = INTERVAL) -> None:
    """
    Have the server asked for every alias that this process uses; in Django's test environment nothing is.

    Args:
        who: wants it, until ``unwatch()`` with the same name.
        interval: seconds. Of several the shortest counts.
    """
    with _changing:
        _wanted[who] = interval
        reporter.register(JOB, _job, interval=min(_wanted.values()))


def unwatch(who: str, timeout: float = 2.0) -> None:
    """The opposite. The last one waits, at most so many seconds, until the connections are closed."""
    with _changing:
        if _wanted.pop(who, None) is None or _wanted:
            return
        reporter.unregister(JOB)
        ending = tuple(_watches.values())
        _watches.clear()
    for each in ending:
        each.close(timeout)


def latest(alias: str) -> ServerCounts | None:
    """What the server has answered lately; None where another process asks, or nobody could."""
    watch = _watches.get(alias)
    return None if watch is None else watch.latest()


def _job() -> None:
    if not in_test_environment():  # a test database with a session of ours could not be dropped
        look()


def look() -> None:
    """For every alias that this process uses: begin to ask, if it is time."""
    for alias in tallies():
        if not _may_be_asked(alias):
            continue
        with _changing:
            if not _wanted:
                return
            watch = _watches.setdefault(alias, _Watch(alias, min(_wanted.values())))
        watch.look()


def _may_be_asked(alias: str) -> bool:
    """Not through a pooler that gives each transaction another session: the lock would stay with one of those."""
    settings = connections.settings.get(alias)
    return settings is not None and is_ours(settings["ENGINE"]) and pool_config(settings, alias).pooler != "transaction"


def _forget_inherited() -> None:
    """In the child of a fork: threads and connections are the parent's."""
    global _changing
    _changing = threading.Lock()
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
