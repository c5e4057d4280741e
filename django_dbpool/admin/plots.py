"""
The shapes of the dashboard's plots, as numbers for attributes of SVG elements.

Drawn on the server: a page shows them without a script, and no inline style is needed where a content security policy
forbids it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPAN = 900.0
"""Seconds that a plot shows."""

WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in per cent of its length."""

    kind: str
    x: str
    width: str


def bar(parts: Iterable[tuple[str, float]]) -> tuple[Segment, ...]:
    """
    Parts of a bar, side by side; together they are its whole length. What is too little to be seen gets a sliver.

    Args:
        parts: kind and amount of each. Those of nothing are left out.
    """
    amounts = [(kind, amount) for kind, amount in parts if amount > 0]
    whole = sum(amount for _, amount in amounts)
    segments, x = [], 0.0
    for kind, amount in amounts:
        width = 100 * amount / whole
        segments.append(Segment(kind, _number(x), _number(max(width, 0.5))))
        x += width
    return tuple(segments)


@dataclass(frozen=True, slots=True)
class Plot:
    """Connections in use over time, and above them those who waited for one."""

    used: str
    """Outline of an area, for the attribute ``d`` of a path; empty without values."""
    wanted: str
    """In use and waiting together; empty if nobody waited."""
    capacity: str
    """The line of the pools' sizes."""
    top: int
    """Connections at the upper edge."""
    peak_used: int
    peak_waiting: int
    peak_percent: int
    width: int = WIDTH
    height: int = HEIGHT


def plot(ago: Sequence[float], used: Sequence[int], waiting: Sequence[int], sizes: Sequence[int]) -> Plot:
    """
    Args:
        ago: seconds, one for each value.
        used, waiting, sizes: values of these moments.
    """
    # Zipped leniently: of lists that don't fit together, what does is better than no page.
    points = sorted(zip(ago, used, waiting, sizes, strict=False), reverse=True)
    top = max([1, *(max(now + more, size) for _, now, more, size in points)])

    def line(values: Iterable[tuple[float, int]]) -> str:
        return "".join(f"L{_x(when)} {_y(value, top)}" for when, value in values)

    def area(values: Sequence[tuple[float, int]]) -> str:
        return f"M{_x(values[0][0])} {HEIGHT}{line(values)}L{_x(values[-1][0])} {HEIGHT}Z" if values else ""

    return Plot(
        used=area([(when, now) for when, now, _, _ in points]),
        wanted=area([(when, now + more) for when, now, more, _ in points]) if any(waiting) else "",
        # Of nothing is nothing drawn: before the processes began.
        capacity=line((when, size) for when, _, _, size in points if size).replace("L", "M", 1),
        top=top,
        peak_used=max((now for _, now, _, _ in points), default=0),
        peak_waiting=max((more for _, _, more, _ in points), default=0),
        peak_percent=max((round(100 * now / size) for _, now, _, size in points if size), default=0),
    )


def _x(ago: float) -> str:
    return _number(WIDTH * (1 - min(max(ago, 0.0), SPAN) / SPAN))


def _y(value: float, top: int) -> str:
    return _number(HEIGHT * (1 - value / top))


STATES = ("isolated", "open", "half-open", "closed")
"""Of a circuit, the worst first."""


def timeline(changes: Iterable[tuple[str, float, str, str]], others: Iterable[str]) -> tuple[Segment, ...]:
    """
    The worst state that circuits were in, over the last fifteen minutes, from left to right.

    Args:
        changes: of each its process, seconds ago, the state before and after.
        others: states of those that have not changed.
    """
    ordered = sorted(changes, key=lambda change: -change[1])
    states = {process: before for process, _, before, _ in reversed(ordered)}
    fixed = tuple(others)
    segments: list[Segment] = []
    since = SPAN
    for process, ago, _, after in [*ordered, ("", 0.0, "", "")]:
        worst = next((state for state in STATES if state in states.values() or state in fixed), "closed")
        if since > ago:
            width = max(100 * (since - ago) / SPAN, 0.5)
            segments.append(Segment(worst, _number(100 * (1 - since / SPAN)), _number(width)))
        since = min(since, ago)
        states[process] = after
    return tuple(segments)


def _number(value: float) -> str:
    """Not for people: with a point in any language, and no longer than is seen."""
    return f"{value:.1f}".removesuffix(".0")
