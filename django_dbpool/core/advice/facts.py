"""What advice is drawn from. None stands for what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Confidence = Literal["measured", "estimated", "prior"]

LITTLE, MUCH = 100, 1000
"""Leases below which nothing is concluded, and from which on it is relied on."""

SHORT, LONG = 20.0, 600.0
"""The same in seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one alias, as far as advice is about them; the names are POOL's."""

    min_size: int = 1
    max_size: int = 10
    timeout: float = 10.0
    max_waiting: int = 0
    reserve_size: int = 1
    queue_target: float | None = 0.05
    mode: str = "transaction"
    pooler: str | None = None
    statement_timeout: float | None = None
    command_timeout: float | None = None
    leak_after: float = 60.0
    pin_max: float = 60.0


@dataclass(frozen=True, slots=True)
class Room:
    """What the server has for this project's connections."""

    connections: int | None = None
    """max_connections, less those that are reserved."""
    others: int = 0
    """Of them, taken by others than this project."""
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One alias in one process over some time. Loads count connections, times are seconds."""

    seconds: float
    leases: int
    hold: float
    """Mean duration of a lease."""
    spread: float = 1.0
    """Squared coefficient of variation of the durations: 0 all alike, 1 as random as can be."""
    load: float = 0.0
    """Connections in use, on average over all the time."""
    usual_load: float = 0.0
    """The median of short intervals."""
    peak_load: float = 0.0
    """The 99th percentile of short intervals."""
    peak_queue: float = 0.0
    """Callers that waited then, on average."""
    most: int = 0
    """Most callers that had or wanted a connection at one moment."""
    late: int = 0
    """Leases that waited for longer than 50 ms although no connection had to be opened for them."""
    timeouts: int = 0
    executing: float | None = None
    """The share of the time in use in which a statement ran; the rest is work elsewhere in a transaction."""
    nested: int = 1
    """Most connections of this alias that one thread held at once."""
    ready: float | None = None
    """The share of moments at the busiest at which a thread had its answer, and no turn to take it."""
    working: float = 0.0
    """Connections in use at such moments, on average, without those whose answer had come."""
    overdue: int = 0
    pinned: int = 0
    repeated: int = 0
    slow: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measured:
        """
        As another process has said it; what a newer version says besides is skipped.

        Raises:
            TypeError, ValueError: it is something else.
        """
        known: dict[str, Any] = {}
        for item in fields(cls):
            if item.name not in values:
                continue
            value = values[item.name]
            if value is None and item.name in _UNKNOWN:
                known[item.name] = None
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{item.name} = {value!r} is no number of at least 0")
            known[item.name] = int(value) if item.name in _WHOLE else float(value)
        return cls(**known)

    @property
    def confidence(self) -> Confidence:
        if self.leases >= MUCH and self.seconds >= LONG:
            return "measured"
        return "estimated" if self.leases >= LITTLE and self.seconds >= SHORT else "prior"


_UNKNOWN = frozenset({"executing", "ready"})
"""What may not be known."""

_WHOLE = frozenset({"leases", "most", "late", "timeouts", "nested", "overdue", "pinned", "repeated", "slow"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is known of one alias."""

    alias: str
    settings: Settings
    measured: Measured | None = None
    """Of the busiest process."""
    room: Room = Room()
    processes: int | None = None
    threads: int | None = None
    """Per process."""
    worker_timeout: float | None = None
    budget: int | None = None
    web: bool = True
    """It answers requests; commands and scripts take their time."""
    aliases: int = 1
    """Of this project on the same server."""


def spread(counts: Sequence[int], bounds: Sequence[float], total: float) -> float:
    """
    The squared coefficient of variation of durations of which only a histogram is kept.

    Args:
        counts: in each bucket; one more than bounds, the last is open.
        bounds: upper ends, ascending.
        total: sum of all durations.
    """
    number = sum(counts)
    if not number or total <= 0:
        return 1.0
    ends = (0.0, *bounds)
    middles = [(low + high) / 2 for low, high in zip(ends, bounds, strict=False)]
    known = sum(count * middle for count, middle in zip(counts, middles, strict=False))
    # The open bucket has what the others leave of the total, and can't be shorter than its lower end.
    beyond = max(bounds[-1], (total - known) / counts[-1]) if counts[-1] else 0.0
    middles.append(beyond)
    mean = sum(count * middle for count, middle in zip(counts, middles, strict=True)) / number
    if mean <= 0:
        return 1.0
    square = sum(count * middle * middle for count, middle in zip(counts, middles, strict=True)) / number
    return max(0.0, square / mean**2 - 1)
