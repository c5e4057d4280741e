"""What the processes of the fleet have said of themselves."""

from __future__ import annotations

from dataclasses import replace

from django.db import DatabaseError

from ..conf import fleet_config
from ..core.logs import get_logger
from ..core.words import one_line
from .documents import Malformed, Process, parse
from .snapshot import LARGEST
from .stores import FleetUnavailable, Row, Store, overdue_after, store_of

logger = get_logger("django_dbpool.fleet")

MOST = 2000
"""Processes that are read."""


def processes(*, ended: bool = False, store: Store | None = None) -> tuple[Process, ...]:
    """
    Every process that has published lately, by host and pid. One query.

    Args:
        ended: with those that were shut down in order in the last half minute.
        store: to be read; that of the settings when None.

    Raises:
        FleetUnavailable: nothing is published, by the settings, or the store can't be read now.
        ImproperlyConfigured: the settings are wrong.

    Example:
        for process in processes():
            print(process.name, process.age, [pool.snapshot.in_use for pool in process.pools])
    """
    config = fleet_config()
    if store is None:
        store = store_of(config)
    if store is None:
        raise FleetUnavailable('Nothing is published: DBPOOL["FLEET"] is off, or no database uses the engine.')
    overdue = overdue_after(config)
    found = {}
    for row in reversed(_rows(store)):  # oldest first: of two with one name the younger stays
        process = understood(row, overdue)
        if process is not None and (ended or process.state != "ended"):
            found[process.identity.instance] = process
    return tuple(sorted(found.values(), key=lambda each: (each.identity.host, each.identity.pid)))


def _rows(store: Store) -> list[Row]:
    try:
        return store.read(LARGEST, MOST)
    except FleetUnavailable:
        raise
    except DatabaseError as error:
        raise FleetUnavailable(f"{store.description} can't be read: {first_line(error)}") from error
    except Exception as error:  # whatever a cache's client raises; its text may have a password in it
        raise FleetUnavailable(f"{store.description} can't be read: {type(error).__name__}") from error


def first_line(error: Exception) -> str:
    return one_line(next(iter(str(error).splitlines()), type(error).__name__))


def understood(row: Row, overdue: float) -> Process | None:
    """
    What a row says; None if that is nothing of ours.

    Args:
        overdue: seconds after which a process that is at work should have published again.
    """
    try:
        process = parse(row.document, age=row.age)
    except Malformed as error:
        logger.debug("a snapshot is left out: %s", error)
        return None
    if process.state == "active" and row.age > overdue:
        return replace(process, stale=True)
    return process
