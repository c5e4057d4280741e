"""What is slow, and what is repeated, all processes together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .page import PER_PAGE, Page, matches, page_of, words_of
from .reading import Fleet
from .told import told


@dataclass(slots=True)
class _Slow:
    alias: str
    sql: str
    count: int = 0
    failed: int = 0
    running: int = 0
    total: float = 0.0
    longest: float = 0.0
    processes: int = 0
    at: float = 0.0
    name: str | None = None
    unit: str | None = None
    process: str = ""


@dataclass(frozen=True, slots=True)
class SlowStatementRow:
    """A statement that took longer than ``DBPOOL["SLOW_STATEMENT"]``. Times are seconds."""

    alias: str
    sql: str
    """Placeholders only."""
    count: int
    """How often it was too slow, since the processes began."""
    failed: int
    """How many of them ended with an error."""
    running: int
    """How many more run now."""
    total: float
    mean: float
    longest: float
    processes: int
    """In how many it was so."""
    at: float
    """When it was so last; unix time."""
    name: str | None
    """The route or task of that one."""
    unit: str | None
    process: str
    """Of that one."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


SLOW_SORTS = {
    "total": lambda row: -max(row.total, row.longest),
    "count": lambda row: -row.count,
    "longest": lambda row: -row.longest,
    "at": lambda row: -row.at,
}


def slow_statements(
    fleet: Fleet, *, page: int = 1, q: str = "", alias: str = "", sort: str = "total", per_page: int = PER_PAGE
) -> Page[SlowStatementRow]:
    """
    Slow statements, of all processes by text.

    Args:
        page: the first is 1.
        q: words that are all found in SQL, route or task, database.
        alias: of the database; all when empty.
        sort: "total" (the most time first), "count", "longest" or "at" (the latest first).
    """
    found: dict[tuple[str, str], _Slow] = {}
    for process in fleet.processes:
        for each in told(process, "slow_statements"):
            key = each.text("alias"), each.text("sql")
            row = found.get(key)
            if row is None:
                row = found[key] = _Slow(*key)
            row.count += each.count("count")
            row.failed += each.count("failed")
            row.running += each.count("running")
            row.total += each.number("total")
            row.longest = max(row.longest, each.number("longest"))
            row.processes += 1
            if each.number("at") >= row.at:
                row.at, row.process = each.number("at"), process.name
                row.name, row.unit = each.text_or_none("name"), each.text_or_none("unit")
    words = words_of(q)
    rows = [
        row
        for row in found.values()
        if alias in ("", row.alias) and (not words or matches(words, row.sql, row.name, row.unit, row.alias))
    ]
    rows.sort(key=SLOW_SORTS.get(sort, SLOW_SORTS["total"]))
    return page_of(rows, page, _slow_row, per_page)


def _slow_row(row: _Slow) -> SlowStatementRow:
    return SlowStatementRow(mean=row.total / row.count if row.count else row.longest, **asdict(row))


@dataclass(slots=True)
class _Repeated:
    alias: str
    sql: str
    name: str | None
    where: str
    units: int = 0
    most: int = 0
    processes: int = 0
    at: float = 0.0
    unit: str | None = None
    process: str = ""


@dataclass(frozen=True, slots=True)
class RepeatedStatementRow:
    """A statement that single requests or tasks execute again and again from one line of code."""

    alias: str
    sql: str
    """Placeholders only."""
    name: str | None
    """The route or task."""
    where: str
    """The line that asks: ``file:line in function``."""
    units: int
    """How many requests or tasks did so, since the processes began."""
    most: int
    """How often one of them did at most."""
    processes: int
    """In how many it was so."""
    at: float
    """When it was so last; unix time."""
    unit: str | None
    process: str
    """Of that one."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


REPEATED_SORTS = {
    "total": lambda row: -row.units * row.most,
    "count": lambda row: -row.units,
    "most": lambda row: -row.most,
    "at": lambda row: -row.at,
}


def repeated_statements(
    fleet: Fleet, *, page: int = 1, q: str = "", alias: str = "", sort: str = "total", per_page: int = PER_PAGE
) -> Page[RepeatedStatementRow]:
    """
    Repeated statements, of all processes by text, route and line.

    Args:
        page: the first is 1.
        q: words that are all found in SQL, route or task, line, database.
        alias: of the database; all when empty.
        sort: "total" (what makes the most statements first), "count", "most" or "at" (the latest first).
    """
    found: dict[tuple[str, str, str | None, str], _Repeated] = {}
    for process in fleet.processes:
        for each in told(process, "repeated_statements"):
            key = each.text("alias"), each.text("sql"), each.text_or_none("name"), each.text("where")
            row = found.get(key)
            if row is None:
                row = found[key] = _Repeated(*key)
            row.units += each.count("units")
            row.most = max(row.most, each.count("most"))
            row.processes += 1
            if each.number("at") >= row.at:
                row.at, row.unit, row.process = each.number("at"), each.text_or_none("unit"), process.name
    words = words_of(q)
    rows = [
        row
        for row in found.values()
        if alias in ("", row.alias) and (not words or matches(words, row.sql, row.name, row.where, row.alias))
    ]
    rows.sort(key=REPEATED_SORTS.get(sort, REPEATED_SORTS["total"]))
    return page_of(rows, page, lambda row: RepeatedStatementRow(**asdict(row)), per_page)
