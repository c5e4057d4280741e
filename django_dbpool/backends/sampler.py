"""
Once a second, in a thread of its own: who holds connections and who waits for them, and whether a statement that has
taken long is running still. Nothing is asked of those who work; what they have written down is read.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..core import reporter
from ..core.activity import Activity, ActivityMeter, Key
from ..core.ledger import Owner, name_of, thread_units
from ..core.sqltext import without_literals
from ..core.words import one_line
from ..pool.entry import ACTIVE, PoolEntry
from ..pool.managed import ManagedPool
from ..pool.registry import pools
from . import activity as noted
from .raw_policy import RAW_ACCESS_REASON

INTERVAL = 1.0
"""Seconds between two looks."""

JOB = "activity"

meter = ActivityMeter()


@dataclass(slots=True)
class _Statement:
    """What a connection was executing when it was looked at."""

    key: tuple[int, int, float]
    """Number of the lease, number of the statement, its beginning: infinity once it has ended."""
    reported: bool = False


_running: dict[PoolEntry, _Statement] = {}


def activity() -> tuple[Activity, ...]:
    """Who held connections in this process and who waited for them, by route or task, the busiest first."""
    return meter.read()


def start() -> None:
    """Look once a second, from the first lease on; not in Django's test environment."""
    reporter.register(JOB, _job, interval=INTERVAL)


def _job() -> None:
    if hasattr(sys.modules.get("django.core.mail"), "outbox"):  # all of that environment that can be seen
        reporter.unregister(JOB)
    else:
        look()


def reset() -> None:
    """Begin afresh: in a forked child, where another thread may have held a lock, and in tests."""
    global meter
    meter = ActivityMeter()
    _running.clear()
    noted.reset()


def look() -> None:
    """One look. By one thread at a time."""
    held: Counter[Key] = Counter()
    waiting: Counter[Key] = Counter()
    slow: Counter[tuple[str, str]] = Counter()
    seen: dict[PoolEntry, _Statement] = {}
    for pool in pools():
        for entry in tuple(pool.entries):
            owner = entry.owner
            if owner is None:
                continue
            unit = entry.unit if entry.unit is not None else thread_units.get(owner.ident)
            held[pool.alias, _name_of(unit)] += 1
            statement = seen[entry] = _statement(entry)
            if text := _slow_text(pool, entry, statement, unit):
                slow[pool.alias, text] += 1
        for owner in _waiting(pool):
            waiting[pool.alias, _name_of(thread_units.get(owner.ident))] += 1
    _running.clear()
    _running.update(seen)
    noted.kept.slow.set_running(slow)
    meter.look(held, waiting)


def _name_of(unit: object) -> str | None:
    if unit is None:
        return None
    with suppress(Exception):  # of a project's own units: nobody's work depends on it
        name = name_of(unit)
        return None if name is None else one_line(name)
    return None


def _waiting(pool: ManagedPool) -> Iterator[Owner]:
    """In the queue, or while a connection is opened for them."""
    for ticket in pool.tickets():
        if isinstance(ticket.holder, Owner):
            yield ticket.holder


def _statement(entry: PoolEntry) -> _Statement:
    key = entry.generation, entry.statements, entry.began
    before = _running.get(entry)
    return _Statement(key) if before is None or before.key != key else before


def _slow_text(pool: ManagedPool, entry: PoolEntry, statement: _Statement, unit: object) -> str | None:
    """The statement's text if it has been running for long; said in the log when that is found out."""
    seconds = pool.clock() - statement.key[2]
    if seconds < noted.limits.slow or entry.pgconn.transaction_status != ACTIVE:
        return None
    if entry.streams or entry.pinned == RAW_ACCESS_REASON:
        return None  # a stream is as fast as the code that reads it, and what runs on a raw connection is not known
    sql = entry.sql
    if (entry.generation, entry.statements, entry.began) != statement.key:
        return None  # it has ended just now
    what = noted.occasion(pool.alias, entry.backend_pid, without_literals(sql), unit)
    if not statement.reported:
        statement.reported = True
        noted.log_slow("has been running for", what, seconds, noted.kept.slow.note_running(what, seconds))
    return what.sql


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset)
