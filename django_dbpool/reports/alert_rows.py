"""Alerts of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..fleet import Process
from .page import PER_PAGE, Page, matches, page_of, words_of
from .reading import Fleet, is_current
from .told import Told, told


@dataclass(frozen=True, slots=True)
class AlertRow:
    """Something that a process has found wrong for a while. Unix times are by the clock of its host."""

    id: str
    """The same in all processes that it is about the same thing in: ``utilisation:default``."""
    rule: str
    severity: str
    """``critical`` or ``warning``."""
    alias: str
    process: str
    instance: str
    active: bool
    since: float
    """Unix time."""
    until: float | None
    """Unix time; of one that is over."""
    seconds: float
    """So long it has lasted."""
    text: str
    todo: str
    """What to do now."""
    holders: tuple[str, ...]
    """Who holds the connections."""
    subject: str | None
    """Of several that one rule looks at: a route."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def alerts(
    fleet: Fleet,
    *,
    page: int = 1,
    q: str = "",
    alias: str = "",
    severity: str = "",
    active: bool | None = None,
    per_page: int = PER_PAGE,
) -> Page[AlertRow]:
    """
    Those that are so first, critical ones before warnings, the oldest first; then those that are over, the latest
    first.

    Args:
        page: the first is 1.
        q: words that are all found in rule, text, holders, subject, database or process.
        alias: of the database; all when empty.
        severity: "critical" or "warning"; all when empty.
        active: only those that are so now, or only those that are over.
    """
    words = words_of(q)
    found = [
        row
        for row in _rows(fleet)
        if active in (None, row.active)
        and alias in ("", row.alias)
        and severity in ("", row.severity)
        and (not words or matches(words, row.rule, row.text, *row.holders, row.subject, row.alias, row.process))
    ]
    found.sort(key=lambda row: (not row.active, row.severity != "critical", row.since if row.active else -row.since))
    return page_of(found, page, lambda row: row, per_page)


def _rows(fleet: Fleet) -> Iterator[AlertRow]:
    for process in fleet.processes:
        at = Told(process.document).number("at")
        for each in told(process, "alerts") if is_current(process) else ():
            yield _row(process, each, each.number("since"), None, max(0.0, at - each.number("since")) + process.age)
        for each in told(process, "alerts_over"):
            since, until = each.number("since"), each.number("until")
            yield _row(process, each, since, until, max(0.0, until - since))


def _row(process: Process, each: Told, since: float, until: float | None, seconds: float) -> AlertRow:
    return AlertRow(
        id=each.text("id"),
        rule=each.text("rule"),
        severity=each.text("severity"),
        alias=each.text("alias"),
        process=process.name,
        instance=process.identity.instance,
        active=until is None,
        since=since,
        until=until,
        seconds=seconds,
        text=each.text("text"),
        todo=each.text("todo"),
        holders=each.texts("holders"),
        subject=each.text_or_none("subject"),
    )
