"""
Statements that took long, and statements that one unit of work repeats: kept by text, the text without its literals,
so that what is kept is as much as the program's source has, not as much as its traffic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic, time
from typing import Any

MOST_TEXTS = 200
"""Rows that are kept; the one that was noted the longest time ago goes first."""

LOG_INTERVAL = 60.0
"""Seconds in which the same is logged once."""

MOST_LINES = 60
"""Lines in that time, whatever they say: a slow system must not be made slower by its log."""


class Throttle:
    """
    How often the same may be said. Not thread-safe: its owner has a lock.

    Args:
        interval: seconds in which one thing is said once.
        most: things that are said in that time altogether.
        keys: things that are remembered.
    """

    def __init__(
        self,
        interval: float = LOG_INTERVAL,
        most: int = MOST_LINES,
        keys: int = 1000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._interval = interval
        self._most = most
        self._most_keys = keys
        self._clock = clock
        self._said: dict[Hashable, tuple[float | None, int]] = {}
        """When it was said last, and how often it was not said since."""
        self._window = clock()
        self._lines = 0

    def admit(self, key: Hashable) -> int | None:
        """How often this was left out since it was said last; None: it is left out now."""
        now = self._clock()
        if now - self._window >= self._interval:
            self._window, self._lines = now, 0
        last, left_out = self._said.pop(key, (None, 0))
        if (last is not None and now - last < self._interval) or self._lines >= self._most:
            self._said[key] = last, left_out + 1
            said = None
        else:
            self._lines += 1
            self._said[key] = now, 0
            said = left_out
        if len(self._said) > self._most_keys:
            del self._said[next(iter(self._said))]
        return said


@dataclass(frozen=True, slots=True)
class Occasion:
    """One statement that was noted, and on whose behalf it ran. Every text is fit to be shown."""

    alias: str
    sql: str
    unit: str | None
    name: str | None
    backend_pid: int


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """A statement that took longer than ``DBPOOL["SLOW_STATEMENT"]``, all its times together."""

    alias: str
    sql: str
    """Placeholders only."""
    count: int
    """How often it was too slow."""
    failed: int
    """How many of them ended with an error: were cancelled, mostly."""
    running: int
    """How many more were running when this process looked last."""
    total: float
    """Seconds, of those that have ended."""
    longest: float
    """Seconds, of those that still run too."""
    unit: str | None
    """On whose behalf the last one ran: ``GET /reports/7/ (reports/<int:pk>/)``."""
    name: str | None
    """What such units have in common: the route, the name of the task."""
    backend_pid: int
    """The server process of the last one."""
    at: float
    """When that was; unix time."""

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.total / self.count if self.count else self.longest

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {**asdict(self), "mean": self.mean}


@dataclass(frozen=True, slots=True)
class RepeatedStatement:
    """
    A statement that one unit of work executed ``DBPOOL["REPEATED_STATEMENTS"]`` times or more from one line of code,
    all such units together.
    """

    alias: str
    sql: str
    """Placeholders only."""
    name: str | None
    """The route or the name of the task; None: work of no unit, or whose unit has no name."""
    where: str
    """The line of the project that asked: ``file:line in function``."""
    units: int
    """How many units did so."""
    count: int
    """How often the last of them did."""
    most: int
    """How often one of them did at most."""
    unit: str | None
    """The last of them."""
    at: float
    """When that was; unix time."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


class _Slow:
    __slots__ = ("at", "count", "failed", "last", "longest", "running", "total")

    def __init__(self) -> None:
        self.last: Occasion | None = None
        self.count = self.failed = self.running = 0
        self.total = self.longest = self.at = 0.0


def _make_room(rows: dict[Any, Any], most: int) -> None:
    while len(rows) > most:
        del rows[next(iter(rows))]


class SlowStatements:
    """
    The slow statements of one process.

    Args:
        most: rows that are kept.
        clock: seconds; ``now``: unix time.
    """

    def __init__(
        self,
        most: int = MOST_TEXTS,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        self._most = most
        self._now = now
        self._rows: dict[tuple[str, str], _Slow] = {}
        self._ended = Throttle(clock=clock)
        self._running = Throttle(clock=clock)
        # Only for statements that have taken seconds already, and for a few assignments.
        self._lock = threading.Lock()

    def note(self, what: Occasion, seconds: float, *, failed: bool) -> int | None:
        """
        One has ended.

        Returns:
            How many such lines were left out of the log since the last one; None: this one is to be left out.
        """
        with self._lock:
            row = self._row(what, seconds)
            row.count += 1
            row.failed += failed
            row.total += seconds
            return self._ended.admit((what.alias, what.sql))

    def note_running(self, what: Occasion, seconds: float) -> int | None:
        """One has not ended yet. Returns the same."""
        with self._lock:
            self._row(what, seconds)
            return self._running.admit((what.alias, what.sql))

    def set_running(self, running: Mapping[tuple[str, str], int]) -> None:
        """How many run too long now, by alias and text."""
        with self._lock:
            for key, row in self._rows.items():
                row.running = running.get(key, 0)

    def read(self) -> tuple[SlowStatement, ...]:
        """Those that took the most time first."""
        with self._lock:
            found = [_slow_statement(row) for row in self._rows.values()]
        return tuple(sorted(found, key=lambda row: -max(row.total, row.longest)))

    def _row(self, what: Occasion, seconds: float) -> _Slow:
        key = what.alias, what.sql
        row = self._rows.pop(key, None) or _Slow()
        self._rows[key] = row  # the last is the youngest
        row.last = what
        row.longest = max(row.longest, seconds)
        row.at = self._now()
        _make_room(self._rows, self._most)
        return row


def _slow_statement(row: _Slow) -> SlowStatement:
    last = row.last
    assert last is not None
    return SlowStatement(
        alias=last.alias,
        sql=last.sql,
        count=row.count,
        failed=row.failed,
        running=row.running,
        total=row.total,
        longest=row.longest,
        unit=last.unit,
        name=last.name,
        backend_pid=last.backend_pid,
        at=row.at,
    )


class _Repeated:
    __slots__ = ("at", "count", "last", "most", "units", "where")

    def __init__(self, where: str) -> None:
        self.where = where
        self.last: Occasion | None = None
        self.units = self.count = self.most = 0
        self.at = 0.0


class RepeatedStatements:
    """
    The repeated statements of one process.

    Args:
        most: rows that are kept.
        clock: seconds; ``now``: unix time.
    """

    INTERVAL = 600.0
    """Seconds in which the same line of code is named once in the log: it is not going to change before long."""

    def __init__(
        self,
        most: int = MOST_TEXTS,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
    ) -> None:
        self._most = most
        self._now = now
        self._rows: dict[tuple[str, str | None, str, str], _Repeated] = {}
        self._throttle = Throttle(self.INTERVAL, clock=clock)
        self._lock = threading.Lock()

    def note(self, what: Occasion, where: str, count: int) -> int | None:
        """
        A unit has come to the limit.

        Returns:
            How many such lines were left out of the log since the last one; None: this one is to be left out.
        """
        key = what.alias, what.name, what.sql, where
        with self._lock:
            row = self._rows.pop(key, None) or _Repeated(where)
            self._rows[key] = row
            row.units += 1
            self._count(row, what, count)
            _make_room(self._rows, self._most)
            return self._throttle.admit(key)

    def note_end(self, what: Occasion, where: str, count: int) -> None:
        """The same unit has ended; now it is known how often it was in the end."""
        with self._lock:
            row = self._rows.get((what.alias, what.name, what.sql, where))
            if row is not None:
                self._count(row, what, count)

    def read(self) -> tuple[RepeatedStatement, ...]:
        """Those that were repeated the most often first."""
        with self._lock:
            found = [_repeated_statement(row) for row in self._rows.values()]
        return tuple(sorted(found, key=lambda row: -row.units * row.most))

    def _count(self, row: _Repeated, what: Occasion, count: int) -> None:
        row.last = what
        row.count = count
        row.most = max(row.most, count)
        row.at = self._now()


def _repeated_statement(row: _Repeated) -> RepeatedStatement:
    last = row.last
    assert last is not None
    return RepeatedStatement(
        alias=last.alias,
        sql=last.sql,
        name=last.name,
        where=row.where,
        units=row.units,
        count=row.count,
        most=row.most,
        unit=last.unit,
        at=row.at,
    )
