"""
When to wake somebody: rules as data, and an engine that says of a stream of values what has begun and what is over.

``rules`` what is looked at, with thresholds and texts; ``reading`` thresholds from ``DBPOOL["ALERTS"]``; ``engine``
hysteresis; ``trend`` counters and gauges over time, and what is usual.
"""

from .engine import Alert, Change, Finding, Watch
from .rules import RULES, Level, Rule

__all__ = ["RULES", "Alert", "Change", "Finding", "Level", "Rule", "Watch"]
