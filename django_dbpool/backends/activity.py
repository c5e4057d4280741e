"""
What the hot path hands over: statements that took long, statements that one unit of work repeats; and once a second a
look at who holds and who waits. Nothing here may fail a statement that has succeeded, so nothing raises.
"""

from __future__ import annotations

from ..core.activity import Activity, ActivityMeter
from ..core.statements import RepeatedStatement, RepeatedStatements, SlowStatement, SlowStatements

_slow = SlowStatements()
_repeated = RepeatedStatements()
_meter = ActivityMeter()


def slow_statements() -> tuple[SlowStatement, ...]:
    """The statements of this process that took longer than ``DBPOOL["SLOW_STATEMENT"]``, by text, the worst first."""
    return _slow.read()


def repeated_statements() -> tuple[RepeatedStatement, ...]:
    """What one unit of work of this process repeated ``DBPOOL["REPEATED_STATEMENTS"]`` times, the worst first."""
    return _repeated.read()


def activity() -> tuple[Activity, ...]:
    """Who held connections in this process and who waited for them, by route or task, the busiest first."""
    return _meter.read()
