"""From readings taken every few seconds to what is known of a load."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ..alerts.trend import Reading, Span
from ..tally import Histogram
from .facts import Measured, spread

GAP = 60.0
"""Seconds between two readings, beyond which the process was idle: that is no part of its load."""

LEAST = 20
"""Connections seen in use, before it is said what they do."""

MOMENTS = 40
"""Looked at at the busiest, before it is said what threads wait for: a share of fewer trembles too much."""

CROWDED = 0.9
"""The share of the highest load from which on callers are at their most."""

BUSY = 0.5
"""The same for what threads wait for, of which only some moments are known."""


def measured(
    readings: Sequence[Reading],
    use: Histogram,
    wait: Histogram,
    *,
    late_from: float = 0.05,
    overdue: int = 0,
    pinned: int = 0,
    repeated: int = 0,
    slow: int = 0,
) -> Measured | None:
    """
    Args:
        readings: the oldest first.
        use: of all ended leases.
        wait: of all leases.
        late_from: seconds; a bound of the histogram.

    Returns:
        None where too little was seen to say anything.
    """
    pairs = [(first, last) for first, last in pairwise(readings) if 0 < last.at - first.at <= GAP]
    steps = [Span.between(first, last) for first, last in pairs]
    seconds = sum(step.seconds for step in steps)
    leases = sum(step.leases for step in steps)
    if not leases or seconds <= 0 or not use.count:
        return None
    busiest = _quantile(steps, 0.99)
    crowded = [step for step in steps if step.load >= CROWDED * busiest]
    ready, working = _ready([last for step, (_, last) in zip(steps, pairs, strict=True) if step.load >= BUSY * busiest])
    in_use = sum(reading.in_use for reading in readings)
    executing = sum(reading.executing for reading in readings)
    opened = readings[-1].opened - readings[0].opened
    slow_waits = sum(count for count, low in zip(wait.counts, (0.0, *wait.bounds), strict=True) if low >= late_from)
    return Measured(
        seconds=seconds,
        leases=leases,
        # What has not ended yet is in the load, so it has to be in the duration.
        hold=max(use.mean, sum(step.busy for step in steps) / leases),
        spread=spread(use.counts, use.bounds, use.total),
        load=sum(step.busy for step in steps) / seconds,
        usual_load=_quantile(steps, 0.5),
        peak_load=busiest,
        peak_queue=sum(step.queue * step.seconds for step in crowded) / sum(step.seconds for step in crowded),
        most=max(reading.in_use + reading.waiting for reading in readings),
        late=min(leases, max(0, slow_waits - opened)),
        timeouts=sum(step.timeouts for step in steps),
        executing=executing / in_use if in_use >= LEAST else None,
        nested=max(reading.nested for reading in readings),
        ready=ready,
        working=working,
        overdue=overdue,
        pinned=pinned,
        repeated=repeated,
        slow=slow,
    )


def _ready(readings: Sequence[Reading]) -> tuple[float | None, float]:
    """At how many of these moments an answer waited to be taken, and how many connections did something else then."""
    if len(readings) < MOMENTS:
        return None, 0.0
    others = [max(0, reading.in_use - reading.ready) for reading in readings if reading.ready]
    return len(others) / len(readings), sum(others) / len(others) if others else 0.0


def _quantile(steps: Sequence[Span], q: float) -> float:
    """Of the loads, each for as long as it lasted."""
    ordered = sorted(steps, key=lambda step: step.load)
    rank = q * sum(step.seconds for step in ordered)
    for step in ordered:
        rank -= step.seconds
        if rank <= 1e-9:
            return step.load
    return ordered[-1].load
