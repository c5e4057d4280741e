"""
Which statements take long, and which are executed again and again in one unit of work: what is done about one once the
hot path has found it. It runs between a statement that has succeeded and its caller, so nothing here raises.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ..conf import project_config
from ..core import callers, events
from ..core.ledger import label_of, name_of, running_unit
from ..core.logs import get_logger
from ..core.sqltext import LONGEST, without_literals
from ..core.statements import (
    Occasion,
    RepeatedStatement,
    RepeatedStatements,
    SlowStatement,
    SlowStatements,
    Throttle,
)
from ..core.tally import tally_of
from ..core.words import one_line

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry

logger = get_logger("django_dbpool.statements")

MOST = 1000
"""Statements of one unit that are looked at: a loop of queries shows long before."""


class _Limits:
    """As settings say; looked at in every statement."""

    slow: float = math.inf
    """Seconds."""
    repeats: int = 0
    first: int = sys.maxsize
    """Statements of a unit that are not counted: most units have no more, and it costs them nothing."""
    last: int = 0
    known = False


limits = _Limits()


class Seen(dict[int, int]):
    """
    How often a unit has executed each statement, by the hash of its text: texts may be long, and this is kept to the
    end of the unit.
    """

    __slots__ = ("reported",)

    def __init__(self) -> None:
        self.reported: dict[int, tuple[Occasion, str]] | None = None


def begin() -> int:
    """At the first lease of a unit: after how many statements it is looked whether one is repeated."""
    if not limits.known:
        _read()
    return limits.first


def _read() -> None:
    config = project_config()
    limits.slow = math.inf if config.slow_statement is None else config.slow_statement
    limits.repeats = config.repeated_statements or 0
    limits.first = limits.repeats // 5 if limits.repeats else sys.maxsize
    limits.last = limits.first + max(MOST, 5 * limits.repeats) if limits.repeats else 0
    callers.recording = config.leak_stacks
    limits.known = True


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "DBPOOL" and limits.known:
        limits.known = False
        with suppress(ImproperlyConfigured):  # whoever leases next is told
            _read()


setting_changed.connect(_forget, dispatch_uid="django_dbpool.activity")


# -- what is kept -----------------------------------------------------------------------------------------------------


class _Kept:
    """Of this process."""

    def __init__(self) -> None:
        self.slow = SlowStatements()
        self.repeated = RepeatedStatements()
        self.complaints = Throttle()


kept = _Kept()


def reset() -> None:
    """Begin afresh: in a forked child, where another thread may have held a lock, and in tests."""
    global kept
    kept = _Kept()


def slow_statements() -> tuple[SlowStatement, ...]:
    """The statements of this process that took longer than ``DBPOOL["SLOW_STATEMENT"]``, by text, the worst first."""
    return kept.slow.read()


def repeated_statements() -> tuple[RepeatedStatement, ...]:
    """What one unit of work of this process repeated ``DBPOOL["REPEATED_STATEMENTS"]`` times, the worst first."""
    return kept.repeated.read()


def _words(name: Callable[[object], str | None], unit: object) -> str | None:
    """Of a unit's own making, and a visitor may have had a hand in them."""
    try:
        words = name(unit)
    except Exception:  # noqa: BLE001  # of a project's own kind of units; the rest is worth telling all the same
        return None
    return None if words is None else one_line(words)


def occasion(alias: str, backend_pid: int, sql: str, unit: object) -> Occasion:
    """In words that may be shown."""
    return Occasion(
        alias=alias,
        sql=one_line(sql, LONGEST),
        unit=_words(label_of, unit),
        name=None if unit is None else _words(name_of, unit),
        backend_pid=backend_pid,
    )


def log(level: int, left_out: int | None, message: str, *args: Any, **extra: Any) -> None:
    """One line, unless it is to be left out."""
    if left_out is None:
        return
    if left_out:
        message, args = f"{message} (and %d like it that were not logged)", (*args, left_out)
    logger.log(level, message, *args, extra=extra)


def behalf(what: Occasion) -> str:
    """For the middle of a line."""
    return f"{what.unit or 'no request or task'}, backend {what.backend_pid}"


def _complain(what: str, error: Exception) -> None:
    """About an error of our own, a project's name for its units, or a filter of its log."""
    with suppress(Exception):
        if kept.complaints.admit(what) is not None:
            logger.error("%s could not be noted", what, exc_info=error)


# -- called by the hot path -------------------------------------------------------------------------------------------


def note_slow(db: Any, entry: PoolEntry, sql: Any, seconds: float, *, failed: bool) -> None:
    """
    A statement has ended, and has taken long.

    Args:
        sql: what was executed; FETCH stands for the query of the cursor that it reads.
    """
    try:
        tally_of(db.alias).event("slow")
        text = f"FETCH: {without_literals(entry.sql)}" if sql == "FETCH" else without_literals(sql)
        what = occasion(db.alias, entry.backend_pid, text, running_unit())
        if events.subscribers:
            events.publish(
                events.StatementSlow(
                    alias=what.alias,
                    seconds=seconds,
                    sql=what.sql,
                    unit=what.unit,
                    name=what.name,
                    backend_pid=what.backend_pid,
                    failed=failed,
                )
            )
        log_slow("failed after" if failed else "took", what, seconds, kept.slow.note(what, seconds, failed=failed))
    except Exception as error:  # noqa: BLE001  # the statement has succeeded, whatever goes wrong here
        _complain("a slow statement", error)


def log_slow(how: str, what: Occasion, seconds: float, left_out: int | None) -> None:
    log(
        logging.WARNING,
        left_out,
        "database %r: a statement %s %.2f s (%s): %s",
        what.alias,
        how,
        seconds,
        behalf(what),
        what.sql,
        alias=what.alias,
        seconds=seconds,
        sql=what.sql,
        unit=what.unit,
        route=what.name,
        backend_pid=what.backend_pid,
        failed=how.startswith("failed"),
    )


def count(db: Any, entry: PoolEntry, sql: Any) -> None:
    """A statement that is about to be executed, by a unit that has executed some."""
    seen = db._seen
    if seen is None:
        seen = db._seen = Seen()
    if db._executed > limits.last:
        db._count_after = sys.maxsize  # until the unit ends
    elif type(sql) is str:
        key = hash(sql)
        seen[key] = number = seen.get(key, 0) + 1
        if number == limits.repeats:
            note_repeated(db, entry, sql, number)


def note_repeated(db: Any, entry: PoolEntry, sql: str, count: int) -> None:
    """A statement is about to be executed for the ``count``-th time in this unit."""
    try:
        tally_of(db.alias).event("repeated")
        where = one_line(callers.line_now())
        what = occasion(db.alias, entry.backend_pid, without_literals(sql), running_unit())
        if events.subscribers:
            events.publish(
                events.StatementRepeated(
                    alias=what.alias, count=count, sql=what.sql, unit=what.unit, name=what.name, where=where
                )
            )
        seen = db._seen
        if seen is not None:
            if seen.reported is None:
                seen.reported = {}
            seen.reported[hash(sql)] = what, where
        log(
            # Commands and scripts work through rows by design.
            logging.INFO if what.unit is None else logging.WARNING,
            kept.repeated.note(what, where, count),
            "database %r: the same statement %d times in %s, from %s: %s",
            what.alias,
            count,
            what.unit or "no request or task",
            where,
            what.sql,
            alias=what.alias,
            count=count,
            sql=what.sql,
            unit=what.unit,
            route=what.name,
            where=where,
        )
    except Exception as error:  # noqa: BLE001  # likewise
        _complain("a repeated statement", error)


def note_ends(seen: Seen) -> None:
    """The unit has ended."""
    try:
        for key, (what, where) in (seen.reported or {}).items():
            kept.repeated.note_end(what, where, seen.get(key, 0))
    except Exception as error:  # noqa: BLE001  # likewise
        _complain("a repeated statement", error)
