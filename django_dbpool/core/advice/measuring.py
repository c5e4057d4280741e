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
    steps = [Span.between(first, last) for first, last in pairwise(readings) if 0 < last.at - first.at <= GAP]
    seconds = sum(step.seconds for step in steps)
    leases = sum(step.leases for step in steps)
    if not leases or seconds <= 0 or not use.count:
        return None
    busiest = _quantile(steps, 0.99)
    crowded = [step for step in steps if step.load >= 0.9 * busiest]
    in_use = sum(reading.in_use for reading in readings)
    executing = sum(reading.executing for reading in readings)
    opened = readings[-1].opened - readings[0].opened
    slow_waits = sum(count for count, low in zip(wait.counts, (0.0, *wait.bounds), strict=True) if low >= late_from)
    return Measured(
        seconds=seconds,
        leases=leases,
        hold=use.mean,
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
        processors=_processors(crowded),
        overdue=overdue,
        pinned=pinned,
        repeated=repeated,
        slow=slow,
    )


def _processors(steps: Sequence[Span]) -> float | None:
    known = [(step.processors, step.seconds) for step in steps if step.processors is not None]
    return sum(share * seconds for share, seconds in known) / sum(seconds for _, seconds in known) if known else None


def _quantile(steps: Sequence[Span], q: float) -> float:
    """Of the loads, each for as long as it lasted."""
    ordered = sorted(steps, key=lambda step: step.load)
    rank = q * sum(step.seconds for step in ordered)
    for step in ordered:
        rank -= step.seconds
        if rank <= 1e-9:
            return step.load
    return ordered[-1].load
