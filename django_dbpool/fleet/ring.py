"""
What happened while nothing could be published: the last quarter of an hour, kept here and sent with each snapshot. The
latest state is all that the others need of the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..pool.reporting import PoolSnapshot

SPAN = 900.0
"""Seconds that are remembered."""

CLOSEST = 5.0
"""Seconds between two points at least."""


@dataclass(slots=True)
class Outage:
    """Snapshots that could not be published since the last that was."""

    snapshots: int
    since: float
    error: str
    """The class of the last error. Its text may have the address of a cache in it, with a password."""


class Ring:
    """
    Args:
        interval: seconds between two points.
        clock: seconds; injected by tests.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._interval = max(CLOSEST, interval)
        self._points: deque[tuple[float, dict[str, tuple[int, int]]]] = deque(maxlen=max(2, int(SPAN / self._interval)))
        self.outage: Outage | None = None

    def sample(self, snapshots: Iterable[PoolSnapshot]) -> None:
        """Add a point, unless the last one is younger than the interval; then it keeps the higher values."""
        now = self._clock()
        values: dict[str, tuple[int, int]] = {}
        for each in snapshots:  # an alias may have several pools
            known = values.get(each.alias, (0, 0))
            values[each.alias] = known[0] + each.in_use, known[1] + each.waiting
        if self._points and now - self._points[-1][0] < self._interval * 0.9:
            at, before = self._points[-1]
            for alias, (in_use, waiting) in before.items():
                known = values.get(alias, (0, 0))
                values[alias] = max(known[0], in_use), max(known[1], waiting)
            self._points[-1] = at, values  # a new one: another thread may be reading the old one
        else:
            self._points.append((now, values))

    def failed(self, error: str) -> Outage:
        """A snapshot was not published."""
        if self.outage is None:
            self.outage = Outage(0, self._clock(), error)
        self.outage.snapshots += 1
        self.outage.error = error
        return self.outage

    def succeeded(self) -> Outage | None:
        """One was; what came before it."""
        outage, self.outage = self.outage, None
        return outage

    def to_json(self) -> dict[str, Any]:
        """Ages in seconds and values at each, oldest first; a pool that was not there has None."""
        now = self._clock()
        points = [point for point in tuple(self._points) if now - point[0] <= SPAN]
        aliases = sorted({alias for _, values in points for alias in values})
        outage = self.outage
        return {
            "series": {
                "ago": [round(now - at) for at, _ in points],
                "pools": {
                    alias: {
                        "in_use": [values[alias][0] if alias in values else None for _, values in points],
                        "waiting": [values[alias][1] if alias in values else None for _, values in points],
                    }
                    for alias in aliases
                },
            },
            "missed": {
                "snapshots": outage.snapshots if outage else 0,
                "seconds": round(now - outage.since, 1) if outage else 0.0,
                "error": outage.error if outage else None,
            },
        }
