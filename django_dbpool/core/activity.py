"""
Who uses the connections, by name: what a look at the holders and waiters finds each second, averaged. A route that
holds 3.2 connections on average is what is to be made faster, or to be given a limit; nothing is counted where the
work is done.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

MINUTE, FIVE_MINUTES, FIFTEEN_MINUTES = 60.0, 300.0, 900.0

BASELINE = 12 * 3600.0
"""Seconds over which the baseline is averaged: so slow that minutes of too much don't become what is usual."""

MOST_NAMES = 200
"""Names that are told apart; a project whose routes are made up by its visitors must not fill the memory."""

OTHERS = "(others)"
"""What has no place among them."""


@dataclass(frozen=True, slots=True)
class Averages:
    """Of a number that changes; of the whole time where that is shorter. Recent seconds count more, as in a load."""

    minute: float = 0.0
    five_minutes: float = 0.0
    fifteen_minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class Activity:
    """What one route, task or other unit of work does with the connections of one database."""

    alias: str
    name: str | None
    """The route or the name of the task; None: work of no unit, or whose unit has no name."""
    held: Averages
    """Connections that it held."""
    waiting: Averages
    """Callers that waited for one."""
    baseline: float
    """Connections that it usually holds: the average of twelve hours."""
    observed: float
    """Seconds since the first look: a baseline of minutes says little."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


class _Average:
    """Of a level that holds until the next look: exponentially weighted, so that it is a handful of numbers."""

    __slots__ = ("_at", "_sums", "level")

    def __init__(self, at: float, windows: int) -> None:
        self.level = 0
        self._at = at
        self._sums = [0.0] * windows

    def advance(self, now: float, windows: tuple[float, ...]) -> list[float]:
        passed = now - self._at
        if passed > 0:
            self._at = now
            level = self.level
            self._sums = [
                level + (value - level) * math.exp(-passed / window)
                for value, window in zip(self._sums, windows, strict=True)
            ]
        return self._sums


_HELD = (MINUTE, FIVE_MINUTES, FIFTEEN_MINUTES, BASELINE)
_WAITING = (MINUTE, FIVE_MINUTES, FIFTEEN_MINUTES)

Key = tuple[str, str | None]
"""Alias and name."""


class _Row:
    __slots__ = ("held", "seen", "waiting")

    def __init__(self, at: float) -> None:
        self.held = _Average(at, len(_HELD))
        self.waiting = _Average(at, len(_WAITING))
        self.seen = at


class ActivityMeter:
    """
    The averages of one process.

    Args:
        clock: seconds; injected by tests.
        most_names: the bound of what is kept.
    """

    def __init__(self, clock: Callable[[], float] = monotonic, most_names: int = MOST_NAMES) -> None:
        self._clock = clock
        self._most = most_names
        self._rows: dict[Key, _Row] = {}
        self._began: float | None = None
        # Held for arithmetic only; nobody waits for it in the path of a statement.
        self._lock = threading.Lock()

    def look(self, held: Mapping[Key, int], waiting: Mapping[Key, int]) -> None:
        """
        What is so now, and taken to be so until the next look. After a last look at nothing there may be none for
        hours: the averages fade by themselves.
        """
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began = now
            levels: dict[Key, list[int]] = {}
            for kind, counts in enumerate((held, waiting)):
                for key, count in counts.items():
                    levels.setdefault(self._known(key, now), [0, 0])[kind] += count
            for key, row in self._rows.items():
                now_held, now_waiting = levels.get(key, (0, 0))
                # A row that rests costs nothing: it is brought up to date when it is read.
                if now_held or row.held.level:
                    row.held.advance(now, _HELD)
                    row.held.level = now_held
                if now_waiting or row.waiting.level:
                    row.waiting.advance(now, _WAITING)
                    row.waiting.level = now_waiting

    def read(self) -> tuple[Activity, ...]:
        """By database and name, the busiest of the last minutes first."""
        with self._lock:
            if self._began is None:
                return ()
            now = self._clock()
            observed = now - self._began
            found = [_activity(key, row, now, observed) for key, row in self._rows.items()]
        return tuple(sorted(found, key=lambda row: (-row.held.five_minutes, -row.waiting.five_minutes)))

    def forget(self) -> None:
        """Begin afresh."""
        with self._lock:
            self._rows.clear()
            self._began = None

    def _known(self, key: Key, now: float) -> Key:
        """The row that this is counted in, which exists afterwards."""
        if key not in self._rows and len(self._rows) >= self._most:
            oldest = min(self._rows, key=lambda other: self._rows[other].seen)
            if now - self._rows[oldest].seen < FIFTEEN_MINUTES:
                key = (key[0], OTHERS)  # one more for each database, not for each name
            else:
                del self._rows[oldest]
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(now)
        row.seen = now
        return key


def _activity(key: Key, row: _Row, now: float, observed: float) -> Activity:
    held = _corrected(row.held.advance(now, _HELD), _HELD, observed)
    waiting = _corrected(row.waiting.advance(now, _WAITING), _WAITING, observed)
    return Activity(
        alias=key[0],
        name=key[1],
        held=Averages(*held[:3]),
        waiting=Averages(*waiting),
        baseline=held[3],
        observed=observed,
    )


def _corrected(values: list[float], windows: tuple[float, ...], observed: float) -> list[float]:
    """They began at 0: what is missing is the weight of the time before the first look."""
    return [
        value / -math.expm1(-observed / window) if observed > 0 else 0.0
        for value, window in zip(values, windows, strict=True)
    ]
