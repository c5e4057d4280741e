"""What this process adds to its snapshots for these reports: what it remembers anyway of what is rare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .. import server_counts
from ..alerts import service as alerts
from ..backends.activity import repeated_statements, slow_statements
from ..core import operations, reporter
from ..core.tally import tallies
from ..fleet import register_section
from ..pool.registry import pools
from . import recent

STATEMENTS = 20
"""Of each kind: half of them the worst, half of them the latest."""

LARGEST = 10 * 1024
"""Bytes of each list: all of them together must leave room for the holders."""

ENDED = 50
OVER = 20
CHANGES = 32
REMEMBERED = 900.0
"""Seconds for which circuit changes and ended operations are told."""

T = TypeVar("T")


def register() -> None:
    """Have them published; nothing of it takes long, and nothing is asked of the database."""
    for name, read in (
        ("recent", recent.section),
        ("circuits", _circuits),
        ("server", _server),
        ("slow_statements", _slow),
        ("repeated_statements", _repeated),
        ("operations_ended", _ended),
        ("alerts_over", _over),
    ):
        register_section(name, read, largest=LARGEST)
    reporter.register("recent", recent.sample, interval=recent.INTERVAL)


def _worst_and_latest(rows: Iterable[T], at: Callable[[T], float]) -> list[T]:
    """
    Args:
        rows: the worst first.
    """
    worst = list(rows)
    kept = worst[: STATEMENTS // 2]
    return kept + sorted(worst[len(kept) :], key=at, reverse=True)[: STATEMENTS - len(kept)]


def _slow() -> list[dict[str, Any]] | None:
    return [row.to_json() for row in _worst_and_latest(slow_statements(), lambda row: row.at)] or None


def _repeated() -> list[dict[str, Any]] | None:
    return [row.to_json() for row in _worst_and_latest(repeated_statements(), lambda row: row.at)] or None


def _circuits() -> dict[str, Any] | None:
    found: dict[str, list[dict[str, Any]]] = {}
    for pool in pools():
        seen = pool.breaker.snapshot()
        steps = [
            {"ago": seen.at - step.at, "before": step.before.value, "after": step.after.value, "reason": step.reason}
            for step in seen.timeline[-CHANGES:]
            if seen.at - step.at <= REMEMBERED
        ]
        if steps:
            found.setdefault(pool.alias, []).extend(steps)
    return found or None


def _ended() -> list[dict[str, Any]] | None:
    now = time.time()
    found = [(max(0.0, now - each.started - each.seconds), each) for each in operations.ended()[-ENDED:]]
    return [{**each.to_json(), "ago": ago} for ago, each in reversed(found) if ago <= REMEMBERED] or None


def _over() -> list[dict[str, Any]] | None:
    over = [change for change in alerts.recent() if change.what == "cleared"][:OVER]
    return [{**change.alert.to_json(), "until": change.at} for change in over] or None


def _server() -> dict[str, Any] | None:
    found = {alias: counts.to_json() for alias in tallies() if (counts := server_counts.latest(alias)) is not None}
    return found or None
