"""
How much was lent, how long it was waited for and how long it was kept: exact, and at next to no cost.

A lease is counted on its connection when it ends. One thread has a connection at a time, so that needs no lock and no
event. When somebody reads, the connections of an alias are added up, those that are closed by now included.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Any, Protocol

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""
Seconds: the upper ends, inclusive, of a histogram's buckets. Those that OpenTelemetry advises for database operations:
https://opentelemetry.io/docs/specs/semconv/db/database-metrics/
"""


SHORTEST = BOUNDS[0]
"""Most leases last no longer."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations by size."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """In each bucket; the last is of what is above all bounds."""
    total: float = 0.0
    """Seconds, all together."""
    bounds: tuple[float, ...] = BOUNDS

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0 where there is nothing."""
        count = self.count
        return self.total / count if count else 0.0

    def quantile(self, q: float) -> float:
        """
        An estimate in seconds, linear within a bucket, as Prometheus' ``histogram_quantile`` makes it; 0 where there
        is nothing.

        Args:
            q: from 0 to 1.
        """
        rank, below, start = q * self.count, 0, 0.0
        for count, bound in zip(self.counts, self.bounds, strict=False):
            if count and below + count >= rank:
                return start + (bound - start) * max(0.0, rank - below) / count
            below += count
            start = bound
        return self.bounds[-1] if self.count else 0.0

    def since(self, before: Histogram) -> Histogram:
        """What was added after an earlier reading of the same."""
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Histogram(counts, self.total - before.total)

    def to_json(self) -> dict[str, Any]:
        return {"count": self.count, "seconds": self.total, "bounds": list(self.bounds), "counts": list(self.counts)}


class Counted(Protocol):
    """A connection, as far as its leases are counted on it."""

    uses: list[int]
    """Ended leases by duration."""
    used: float
    """Seconds, all together."""
    statements: int
    """Begun on this connection."""
    owner: Any
    """None while it is not lent."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a tally says at one moment; nothing in it ever becomes less."""

    leases: int
    """Those that have ended."""
    statements: int
    use: Histogram
    wait: Histogram
    """Of the same leases, from the request for a connection to its receipt."""
    connect: Histogram
    """Of physical connections that were opened."""
    events: Mapping[str, int] = field(default_factory=dict)
    """Whatever else was counted, by name."""


class Tally:
    """
    Of one alias in one process; it outlives the pools, which may be closed and made anew.

    The lock guards additions of a few numbers. It is never taken by a lease that finds a free connection.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        # Taken again by the thread that has it where the collector, or a signal's handler, ends a lease in the middle
        # of a reading.
        self._lock = threading.RLock()
        self._open: set[Counted] = set()
        self._uses = [0] * (len(BOUNDS) + 1)
        self._used = 0.0
        self._statements = 0
        self._waits = [0] * (len(BOUNDS) + 1)
        self._waited = 0.0
        self._connects = [0] * (len(BOUNDS) + 1)
        self._connecting = 0.0
        self._events: dict[str, int] = {}

    def opened(self, entry: Counted, seconds: float) -> None:
        with self._lock:
            self._open.add(entry)
            self._connects[bisect_left(BOUNDS, seconds)] += 1
            self._connecting += seconds

    def closed(self, entry: Counted) -> bool:
        """Add what was counted on a connection that is no more; False if that is done already."""
        with self._lock:
            if entry not in self._open:
                return False
            self._open.remove(entry)
            # No loop: tests interrupt this where one goes round, and CPython 3.13 then leaves the lock taken, as it
            # does not for a signal (an exception of a callback for sys.monitoring's JUMP misses its handler).
            self._uses = list(map(add, self._uses, entry.uses))
            self._used += entry.used
            self._statements += entry.statements
            return True

    def ended(self, entry: Counted, held: float, waited: float | None) -> None:
        """
        Count a lease that ends now.

        Args:
            waited: seconds, if it did not find a free connection at once.
        """
        with self._lock:  # both or neither: counts by duration must not become less for a reader either
            if entry in self._open:
                count_lease(entry, held)
            else:
                # An interrupt has closed the connection in the middle of a statement; what it had is added already.
                self._uses[bisect_left(BOUNDS, held)] += 1
                self._used += held
            if waited is not None:
                self._waits[bisect_left(BOUNDS, waited)] += 1
                self._waited += waited

    def event(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._events.setdefault(name, 0)
            self._events[name] += count  # no call in between, where the collector could come

    def leases(self) -> tuple[int, bool]:
        """How many have ended or were refused, and whether there is one now."""
        with self._lock:
            ended = sum(self._uses) + sum(sum(entry.uses) for entry in self._open.copy())
            refused = sum(count for name, count in self._events.copy().items() if name.startswith("refused "))
            return ended + refused, any(entry.owner is not None for entry in self._open.copy())

    def read(self) -> Counts:
        with self._lock:
            waits, waited = list(self._waits), self._waited
            uses, used, statements = list(self._uses), self._used, self._statements
            for entry in self._open.copy():
                for index, count in enumerate(entry.uses):
                    uses[index] += count
                used += entry.used
                statements += entry.statements
            connects = Histogram(tuple(self._connects), self._connecting)
            events = dict(self._events)
        # Who finds a connection free waits for nothing, and says so to nobody.
        leases = sum(uses)
        waits[0] += leases - sum(waits)
        use, wait = Histogram(tuple(uses), used), Histogram(tuple(waits), waited)
        return Counts(leases, statements, use, wait, connects, events)


def count_lease(entry: Counted, seconds: float) -> None:
    """One that ends now. Written out where it is hot."""
    entry.uses[bisect_left(BOUNDS, seconds)] += 1
    entry.used += seconds


_tallies: dict[str, Tally] = {}
_making = threading.Lock()


def tally_of(alias: str) -> Tally:
    tally = _tallies.get(alias)
    if tally is None:
        with _making:
            tally = _tallies.setdefault(alias, Tally(alias))
    return tally


def tallies() -> dict[str, Tally]:
    """By alias: every database that this process has used."""
    return dict(_tallies)


def reset_after_fork() -> None:
    """A child has done nothing yet. The connections counted are its parent's."""
    global _making
    _making = threading.Lock()
    _tallies.clear()
