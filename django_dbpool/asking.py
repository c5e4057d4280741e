"""
What alerts need to know of servers, from the parts of this package that ask them: one process of all, and only while it
works. Where such a part is switched off, its rules keep silent. And what the others are told of this
process: its alerts and its load.
"""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import Any

from django.db import connections

from . import fleet, server_counts
from .advice import SECTION, load_section
from .alerts.providers import BatchTrouble, default
from .alerts.service import alerts_section
from .backends import sampler
from .conf import management_command, project_config
from .core.logs import get_logger
from .fleet.stores import Unusable
from .models import BatchCheckpoint, BatchFailure, BatchRun
from .transaction import deadline

logger = get_logger("django_dbpool.alerts")

INTERVAL = 60.0
"""Seconds between two questions. Longer than a process stays awake for its own questions' sake."""

FRESH = 3 * INTERVAL
PATIENCE = 5.0
"""Seconds that a database has to tell of its batches."""
UNUSABLE_PAUSE = 3600.0
"""Seconds after which it is tried again where the fleet has no table, or no right to read it."""

_pid = 0


def begin() -> None:
    """Once in a process, with the first look."""
    global _pid
    if _pid == os.getpid():
        return
    _pid = os.getpid()
    default("activity", sampler.activity)
    fleet.register_section("alerts", alerts_section)
    fleet.register_section(SECTION, load_section)
    rules = project_config().alerts
    own = ("server_connections", "strangers", "batch_stuck", "batch_failures")
    # Asking takes a connection of its own. Commands end soon, and a development server is to hold none.
    if rules is None or management_command() is not None:
        return
    if any(rules.get(name, {}) is not None for name in own):
        server_counts.watch("alerts", interval=INTERVAL)
        default("server_connections", _taken)
        default("strangers", Strangers())
    if any(rules.get(name, {}) is not None for name in own[2:]):
        default("batches", Batches())


def _taken(alias: str) -> tuple[int, int] | None:
    found = server_counts.latest(alias)
    return None if found is None else (found.all_roles, found.max_connections)


class Asked:
    """
    Something that is found out in a thread of its own, by the process that asks the server anyway.

    Args:
        what: can't be told, for the log.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._found: dict[str, tuple[float, Any]] = {}
        self._asked: dict[str, float] = {}

    def __call__(self, alias: str) -> Any:
        now = monotonic()
        if server_counts.latest(alias) is not None and now - self._asked.get(alias, -INTERVAL) >= INTERVAL:
            self._asked[alias] = now
            threading.Thread(target=self.ask, args=(alias,), name=f"dbpool-{self._what}", daemon=True).start()
        found = self._found.get(alias)
        return found[1] if found is not None and now - found[0] < FRESH else None

    def find(self, alias: str) -> Any:
        """
        Raises:
            Unusable: there is nothing to be asked, now or in a moment.
        """
        raise NotImplementedError

    def ask(self, alias: str) -> None:
        """Ask, and keep the answer."""
        try:
            self._found[alias] = monotonic(), self.find(alias)
        except Unusable as error:
            # Each question would be an error in the server's log.
            self._asked[alias] = monotonic() + UNUSABLE_PAUSE
            logger.debug("database %r: %s can't be counted: %s", alias, self._what, error)
        except Exception as error:  # noqa: BLE001  # nothing is published, or whatever a store or a server raises
            logger.debug("database %r: %s can't be counted: %s", alias, self._what, type(error).__name__)
        finally:
            connections.close_all()


class Strangers(Asked):
    """Connections that no process of the fleet knows of: it is asked who it is, and the server who else is there."""

    def __init__(self) -> None:
        super().__init__("strangers")

    def find(self, alias: str) -> int:
        known = fleet.processes()
        return len(fleet.server_of(alias, known).strangers)


class Batches(Asked):
    """Runs of batches that nobody gets on with, and what has failed in them."""

    def __init__(self) -> None:
        super().__init__("batches")

    def find(self, alias: str) -> BatchTrouble:
        with deadline(PATIENCE), connections[alias].cursor() as cursor:
            # Beforehand: without it the questions would be errors in the server's log.
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [BatchFailure._meta.db_table])
            if not cursor.fetchone()[0]:
                raise Unusable("it has no tables for batch runs")
            cursor.execute(_STUCK, [project_config().batch_restarts])
            stuck = tuple(name for (name,) in cursor.fetchall())
            cursor.execute(_FAILED)
            failing = tuple(cursor.fetchall())
        return BatchTrouble(stuck, sum(count for _, count in failing), tuple(name for name, _ in failing))


_RUNS, _CHECKPOINTS = BatchRun._meta.db_table, BatchCheckpoint._meta.db_table
# What batch.status calls dead, failed and given up.
_STUCK = (
    f"SELECT r.name FROM {_CHECKPOINTS} c JOIN {_RUNS} r ON r.id = c.run_id "  # noqa: S608
    "WHERE r.state = 'open' AND r.wanted <> 'pause' AND NOT c.finished AND ("
    "  c.token <> '' AND c.heartbeat <= clock_timestamp() - make_interval(secs => r.takeover_after)"
    f"  AND NOT {BatchCheckpoint.in_batch('c')}"
    "  OR c.token = '' AND (c.reason LIKE 'failed%%' OR c.restarts > %s AND c.batches <= c.restarted_with)"
    ") ORDER BY c.heartbeat LIMIT 1000"
)
_FAILED = (
    f"SELECT r.name, count(*) FROM {BatchFailure._meta.db_table} f JOIN {_RUNS} r ON r.id = f.run_id "  # noqa: S608
    "WHERE (r.state = 'open' OR r.ended >= now() - interval '1 hour') AND f.created >= now() - interval '1 hour' "
    "GROUP BY r.name ORDER BY count(*) DESC"
)
