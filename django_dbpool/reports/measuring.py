"""Durations and use over time, put together from what the processes say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any

from ..core.tally import BOUNDS
from ..fleet.documents import LARGEST_NUMBER, Document

SPAN = 900.0
STEP = 10
"""Seconds between two points."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """
    Durations in seconds. Processes count them in a histogram, so each is the upper bound of the bucket that the
    percentile lies in: "p95 = 0.05" says that 95 % took at most 50 ms. None where there are none (``count`` is 0), or
    where it lies above the highest bound (``highest``).
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    count: int = 0
    total: float = 0.0
    """Seconds, all together."""
    highest: float = BOUNDS[-1]

    @property
    def mean(self) -> float | None:
        """Seconds; exact."""
        return self.total / self.count if self.count else None

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {**asdict(self), "mean": self.mean}


@dataclass(slots=True)
class Durations:
    """A histogram that others are added to. Those of other buckets (of another version) can't be, and are left out."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, told: object) -> None:
        """
        Args:
            told: a histogram as a process publishes it, or anything else.
        """
        if not isinstance(told, Mapping) or told.get("bounds") != list(BOUNDS):
            return
        counts: Any = told.get("counts")
        if _are_counts(counts, len(self.counts)):
            self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
            self.total += amount(told.get("seconds"))

    def percentiles(self) -> Percentiles:
        p50, p95, p99 = (self._bound(percent) for percent in (50, 95, 99))
        return Percentiles(p50, p95, p99, sum(self.counts), self.total)

    def _bound(self, percent: int) -> float | None:
        # In whole numbers: 0.95 times a count may be a little too much, and then the next bucket would be named.
        wanted, below = percent * sum(self.counts), 0
        for count, bound in zip(self.counts, BOUNDS, strict=False):
            below += count
            if count and 100 * below >= wanted:
                return bound
        return None


def _are_counts(given: Any, length: int) -> bool:
    if not isinstance(given, list) or len(given) != length or set(map(type, given)) != {int}:
        return False
    return bool(min(given) >= 0 and max(given) <= LARGEST_NUMBER)


@dataclass(frozen=True, slots=True)
class Series:
    """
    The last fifteen minutes, oldest first, all processes together: the most of each process in ten seconds, added up.
    A process that had nothing to say used nothing.
    """

    ago: tuple[int, ...] = ()
    """Seconds."""
    active: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    max: tuple[int, ...] = ()
    """The sizes of the pools of the processes that there were."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {name: list(getattr(self, name)) for name in ("ago", "active", "waiting", "max")}


class SeriesSum:
    """Of one alias."""

    def __init__(self) -> None:
        self._points = int(SPAN) // STEP
        self._active = [0] * self._points
        self._waiting = [0] * self._points
        self._max = [0] * self._points

    def add(self, ago: object, told: object, *, age: float, lived: float, size: int) -> None:
        """
        Args:
            ago, told: the ages and the values that a process publishes, or anything else.
            age: seconds since it did.
            lived: seconds for which there has been such a process.
            size: connections of its pools.
        """
        for point in range(min(self._points, int(lived) // STEP + 1)):
            self._max[point] += size
        if not isinstance(told, Mapping):
            return
        for name, sums in (("in_use", self._active), ("waiting", self._waiting)):
            for point, value in self._highest(ago, told.get(name), age).items():
                sums[point] += value

    def _highest(self, ago: object, values: object, age: float) -> dict[int, int]:
        if not isinstance(ago, list) or not isinstance(values, list):
            return {}
        if set(map(type, ago)) - {int} or set(map(type, values)) - {int, NoneType}:
            return {}
        highest: dict[int, int] = {}
        for seconds, value in zip(ago, values, strict=False):
            if value and value > highest.get(point := (seconds + int(age)) // STEP, 0):
                highest[point] = value
        return {point: most for point, most in highest.items() if 0 <= point < self._points and most <= LARGEST_NUMBER}

    def series(self) -> Series:
        ago = range(0, self._points * STEP, STEP)
        return Series(*(tuple(reversed(each)) for each in (ago, self._active, self._waiting, self._max)))


def amount(given: object) -> float:
    """A number of seconds that a process publishes; 0 where it is none."""
    # What is no number compares as False with any.
    return float(given) if isinstance(given, (int, float)) and 0 <= given <= LARGEST_NUMBER else 0.0


def number(given: Mapping[str, Any], *path: str) -> int:
    """A count that a process publishes; 0 where there is none."""
    value: Any = given
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if type(value) is int and 0 < value <= LARGEST_NUMBER else 0


def added(given: Iterable[object]) -> int:
    """The sum of the counts in a mapping's values."""
    return sum(value for value in given if type(value) is int and 0 < value <= LARGEST_NUMBER)


def listed(value: object) -> Sequence[Any]:
    """A list, or an empty one where it should be one."""
    return value if isinstance(value, list) else ()


def section(document: Document, name: str) -> Any:
    """A part that others have added to a snapshot; None where there is none."""
    sections = document.get("sections")
    return sections.get(name) if isinstance(sections, Document) else None


def raw_section(document: Document, name: str) -> Any:
    """The same as it came, of which only numbers may be believed, and nothing shown."""
    sections = document.get("sections")
    return sections.raw(name) if isinstance(sections, Document) else None
