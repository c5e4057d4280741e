"""What readiness says of one database, and what is seen of its probe."""

from __future__ import annotations

import threading
from collections.abc import Callable

from django_dbpool import health
from django_dbpool.pool import probing
from tests.faults.helpers import Database

MakeDatabase = Callable[..., Database]

HAND = {"probe_interval": None, "break_duration": 60}
"""A circuit that nobody but a caller closes."""


def probe_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dbpool-health")]


def of(database: Database, *, fresh: bool = True) -> health.DatabaseReady:
    return row(health.ready(fresh=fresh), database)


def row(found: health.Ready, database: Database) -> health.DatabaseReady:
    return next(each for each in found.databases if each.alias == database.alias)


def backends(database: Database) -> set[int]:
    """The probe's sessions on the server, in whatever process of ours."""
    sql = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    name = f"{database.application} django_dbpool-health"
    return {pid for (pid,) in database.observer.execute(sql, [name])}


def asked(database: Database) -> int:
    probe = probing._probes.get(database.alias)
    return 0 if probe is None else probe.question.asked
