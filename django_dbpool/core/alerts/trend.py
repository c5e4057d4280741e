"""What a pool's counters and gauges say over time: differences between two looks, and what is usual."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A pool at one moment. Counters only grow; a gauge is what is the case now."""

    at: float
    """Seconds, on a clock that only goes forward."""
    leases: int = 0
    busy: float = 0.0
    """Seconds for which connections have been lent, the leases that still last included."""
    waited: float = 0.0
    """Seconds that callers have waited who got a connection."""
    timeouts: int = 0
    opened: int = 0
    failed: int = 0
    connects: int = 0
    """Attempts whose duration is in ``connecting``."""
    connecting: float = 0.0
    in_use: int = 0
    waiting: int = 0
    max_size: int = 1
    executing: int = 0
    """Of those in use, how many run a statement."""
    ready: int = 0
    """Of them, how many have their answer: their threads wait for the interpreter or a processor."""
    nested: int = 1
    """Most connections that one thread holds."""


@dataclass(frozen=True, slots=True)
class Span:
    """What was between two readings."""

    seconds: float
    leases: int
    busy: float
    waited: float
    timeouts: int
    opened: int
    failed: int
    connects: int
    connecting: float

    @classmethod
    def between(cls, first: Reading, last: Reading) -> Span:
        # Leases end while a reading is taken; what would be negative is an error of that kind.
        return cls(
            seconds=max(0.0, last.at - first.at),
            leases=max(0, last.leases - first.leases),
            busy=max(0.0, last.busy - first.busy),
            waited=max(0.0, last.waited - first.waited),
            timeouts=max(0, last.timeouts - first.timeouts),
            opened=max(0, last.opened - first.opened),
            failed=max(0, last.failed - first.failed),
            connects=max(0, last.connects - first.connects),
            connecting=max(0.0, last.connecting - first.connecting),
        )

    @property
    def load(self) -> float:
        """Connections in use, on average."""
        return self.busy / self.seconds if self.seconds else 0.0

    @property
    def queue(self) -> float:
        """
        Callers that waited for others, on average: Little's law. Who opens a connection waits for that, not for others.
        """
        return max(0.0, self.waited - self.connecting) / self.seconds if self.seconds else 0.0


class Trend:
    """
    The last readings of one pool.

    Args:
        keep: readings that are remembered.
    """

    def __init__(self, keep: int = 720) -> None:
        self.readings: deque[Reading] = deque(maxlen=keep)

    def add(self, reading: Reading) -> None:
        if not self.readings or reading.at > self.readings[-1].at:
            self.readings.append(reading)

    def step(self) -> Span | None:
        """Between the last two readings."""
        if len(self.readings) < 2:
            return None
        return Span.between(self.readings[-2], self.readings[-1])

    def over(self, seconds: float) -> Span | None:
        """
        The last seconds, and a little more: from the last reading that is at least so old, else from the first. What
        happened after an idle time was not seen before it, so it belongs to now.
        """
        if len(self.readings) < 2:
            return None
        last = self.readings[-1]
        first = last
        for reading in reversed(self.readings):
            first = reading
            if reading.at <= last.at - seconds:
                break
        return Span.between(first, last)

    def steps(self) -> Iterator[Span]:
        """Between each reading and the next, the oldest first."""
        readings = tuple(self.readings)
        for number in range(1, len(readings)):
            yield Span.between(readings[number - 1], readings[number])


class Usual:
    """
    A mean whose past fades: after ``half_life`` seconds what was counts half. So a change that stays becomes usual.

    Args:
        half_life: seconds.
    """

    def __init__(self, half_life: float = 1800.0) -> None:
        self._half_life = half_life
        self._at: float | None = None
        self._sum = 0.0
        self.weight = 0.0
        """How much it rests on: what was added as ``weight``, faded."""

    def add(self, total: float, weight: float, at: float) -> None:
        """
        Args:
            total: a sum, such as seconds of connecting.
            weight: what it is divided by, such as the number of attempts.
        """
        if self._at is not None and at > self._at:
            kept = 0.5 ** ((at - self._at) / self._half_life)
            self._sum *= kept
            self.weight *= kept
        self._at = at
        self._sum += total
        self.weight += weight

    @property
    def mean(self) -> float | None:
        return self._sum / self.weight if self.weight > 0 else None
