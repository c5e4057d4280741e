"""One screen of the fleet, the most urgent at the top: what is wrong, who it is, then everything else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from ..core.words import one_line
from ..reports import (
    Culprit,
    Database,
    Fleet,
    HolderRow,
    Overview,
    Problem,
    ProcessRow,
    StrangerRow,
    culprits,
    holders_left_out,
    overview,
    processes,
    strangers,
)
from ..reports.culprits import duration, lease_rows
from ..reports.page import PER_PAGE
from .text import Line, Part, Style, cut_line, line, padded, table, width_of, wrapped

BAR = 20
"""Characters of a bar of use."""

PLAIN_ROWS = 20
"""Of each list where nobody sees a screen."""

WINDOW = 60.0
"""Seconds over which timeouts and leases are counted."""

STYLES: dict[str, Style] = {"healthy": "calm", "degraded": "caution", "unhealthy": "alarm"}
_BARS = " ▁▂▃▄▅▆▇█"
_BARS_ASCII = " .:-=+*#%"


class Rates:
    """What is counted since each process began, as it goes on now: from readings of the last minute."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    def add(self, databases: Sequence[Database], now: float | None = None) -> None:
        at = monotonic() if now is None else now
        self._readings.append((at, {each.alias: (each.leases, each.refused) for each in databases}))
        while self._readings[0][0] < at - WINDOW:
            self._readings.popleft()

    def of(self, alias: str) -> tuple[float, int, float] | None:
        """Leases in a second, refused callers, and in how many seconds; None as long as nobody can say."""
        known = [(at, counts[alias]) for at, counts in self._readings if alias in counts]
        if len(known) < 2 or known[-1][0] - known[0][0] < 5.0:  # processes publish every five seconds
            return None
        (began, before), (ended, after) = known[0], known[-1]
        leases, refused = (max(0, new - old) for new, old in zip(after, before, strict=True))
        return leases / (ended - began), refused, ended - began


@dataclass(frozen=True, slots=True)
class View:
    """A reading with all that is shown of it, put together once; it is drawn every second."""

    fleet: Fleet
    found: Overview
    culprits: tuple[Culprit, ...]
    holders: tuple[HolderRow, ...]
    holders_total: int
    strangers: tuple[StrangerRow, ...]
    processes: tuple[ProcessRow, ...]
    processes_total: int
    read_at: float = field(default_factory=monotonic)
    clock: float = field(default_factory=time.time)

    @classmethod
    def of(cls, fleet: Fleet) -> View:
        held = lease_rows(fleet)
        listed = processes(fleet)
        return cls(
            fleet=fleet,
            found=overview(fleet),
            culprits=culprits(fleet),
            holders=tuple(held[:PER_PAGE]),
            holders_total=len(held) + holders_left_out(fleet),
            strangers=strangers(fleet),
            processes=listed.items,
            processes_total=listed.total,
        )


@dataclass(frozen=True, slots=True)
class Look:
    """How it is shown."""

    width: int
    height: int | None = None
    """Lines; None: as many as there are."""
    blocks: bool = True
    """The terminal has more than ASCII."""


@dataclass(slots=True)
class _Part:
    """Lines of which some may be left out where there is no room for all."""

    title: Line | None
    lines: list[Line]
    total: int
    """Items, those included that are not in ``lines``."""
    least: int = 3
    heads: int = 0
    """Lines at the beginning that are no items."""


def board(view: View, rates: Rates, look: Look, *, age: float, late: bool, every: float, keys: str = "") -> list[Line]:
    """
    Everything, as lines that fit.

    Args:
        age: seconds since it was read.
        late: it should have been read again by now.
        every: seconds between two readings.
        keys: what the person at the terminal may press.
    """
    top = _top(view, look, age, late, every, keys)
    rows = PLAIN_ROWS if look.height is None else 100
    parts = [_databases(view, rates, look), _culprits(view, look), _problems(view, look)]
    parts += [_holders(view, rows), _strangers(view, rows), _processes(view, rows)]
    body = _fitted([part for part in parts if part.lines], None if look.height is None else look.height - len(top))
    return [cut_line(each, look.width) for each in [*top, *body]][: look.height]


def _fitted(parts: Sequence[_Part], room: int | None) -> list[Line]:
    """Each gets its least, then those above as much as they want."""
    given = [len(part.lines) for part in parts]
    if room is not None:
        extra = [(2 if part.title is not None else 1) for part in parts]  # a title, and an empty line before it
        given = [min(len(part.lines), part.least + part.heads) for part in parts]
        left = room - sum(given) - sum(extra)
        for number, part in enumerate(parts):
            more = max(0, min(left, len(part.lines) - given[number]))
            given[number] += more
            left -= more
    lines: list[Line] = []
    for part, number in zip(parts, given, strict=True):
        lines.append(())
        lines += [part.title] if part.title is not None else []
        shown = part.lines[:number]
        left_out = part.total - (len(shown) - part.heads)
        if left_out > 0 and len(shown) > part.heads + 1 and number < len(part.lines):
            shown = shown[:-1]
            left_out += 1
        lines += shown
        if left_out > 0 and part.heads:
            lines.append(line(("dim", f"  and {left_out} more")))
    return lines


# -- the top ------------------------------------------------------------------------------------------------------


def _top(view: View, look: Look, age: float, late: bool, every: float, keys: str) -> list[Line]:
    found = view.found
    when = time.strftime("%H:%M:%S", time.localtime(view.clock))
    stale = late or found.stale
    past = age + (view.fleet.age if found.stale else 0.0)
    status: Part = (STYLES[found.status], f" {found.status.upper()} ")
    right: Part = ("caution", f" STALE, {duration(past)} old ") if stale else ("dim", f"{when}, {age:.0f} s ago")
    summary = _summary(view)
    lines = [_spread(line(status, "  ", ("bold", _headline(view))), right, look.width)]
    hint = f"every {every:g} s" + (f", {keys}" if keys else "")
    lines.append(_spread(line(("dim", summary)), ("dim", hint), look.width))
    return lines + [line(("warn", remark)) for remark in found.remarks[:2]]


def _headline(view: View) -> str:
    number = len(view.found.problems)
    if view.fleet.source == "process":
        return "No process can be asked"
    if not number:
        return "All is well" if view.found.processes else "No process is at work"
    errors = sum(each.severity == "error" for each in view.found.problems)
    parts = [f"{errors} error{'s' if errors > 1 else ''}"] if errors else []
    if number - errors:
        parts.append(f"{number - errors} warning{'s' if number - errors > 1 else ''}")
    return f"{' and '.join(parts)}"


def _summary(view: View) -> str:
    roles = ", ".join(f"{number} {role}" for role, number in view.found.roles.items())
    where = {"fleet": "fleet", "host": "this host only", "remembered": "as last read"}.get(view.fleet.source, "nobody")
    many = "1 process" if view.found.processes == 1 else f"{view.found.processes} processes"
    return f"{where}: {many}{f' ({roles})' if roles else ''}"


def _spread(left: Line, right: Part, width: int) -> Line:
    """To both ends; where there is no room for both the right one stays."""
    room = width - width_of(right[1]) - 2
    if room < 10:
        return left
    left = cut_line(left, room)
    return (*left, ("", " " * (width - sum(width_of(text) for _, text in left) - width_of(right[1]))), right)


# -- databases ----------------------------------------------------------------------------------------------------


def _databases(view: View, rates: Rates, look: Look) -> _Part:
    lines: list[Line] = []
    names = max((width_of(each.alias) for each in view.found.databases), default=0)
    for each in view.found.databases:
        lines.append(_database(each, rates, names))
        if len(view.found.databases) <= 3 and look.width >= 60:
            lines.append(_plot(each, names, look))
    return _Part(None, lines, 0, least=4)


def _database(each: Database, rates: Rates, names: int) -> Line:
    used = max(0, each.active - each.reserve_used)
    share = min(1.0, used / each.max) if each.max else 0.0
    style: Style = "bad" if share >= 1.0 or each.waiting else "warn" if share >= 0.8 else "good"
    filled = round(share * BAR) or (1 if used else 0)
    parts: list[Part] = [
        ("bold", padded(each.alias, names)),
        ("", "  ["),
        (style, "#" * filled),
        ("dim", "." * (BAR - filled)),
        ("", "] "),
        (style, f"{used}/{each.max} in use"),
        ("", f" by {each.processes} processes" if each.processes > 1 else ""),
        ("bad" if each.waiting else "", f", {each.waiting} waiting"),
        ("", f", {each.idle} idle"),
    ]
    if each.reserve_used:
        parts.append(("warn", f", {each.reserve_used} of {each.reserve} in reserve"))
    rate = rates.of(each.alias)
    if rate is not None:
        leases, refused, seconds = rate
        parts.append(("", f", {leases:.0f} leases/s"))
        if refused:
            parts.append(("bad", f", {refused} refused in {seconds:.0f} s"))
    if each.circuit != "closed":
        parts.append(("bad", f", circuit {each.circuit}"))
    if each.server_connections is not None and each.server_max:
        crowded: Style = "warn" if each.server_connections >= 0.8 * each.server_max else "dim"
        parts.append((crowded, f"; server {each.server_connections}/{each.server_max}"))
    return tuple(parts)


def _plot(each: Database, names: int, look: Look) -> Line:
    """Fifteen minutes of use; it says since when."""
    marks = _BARS if look.blocks else _BARS_ASCII
    series = each.series
    room = max(10, min(len(series.active), look.width - names - 28))
    parts: list[Part] = [("dim", f"{'':{names}}  15 min ")]
    per = max(1, -(-len(series.active) // room))
    for start in range(0, len(series.active), per):
        active = max(series.active[start : start + per])
        most = max(series.max[start : start + per])
        waiting = max(series.waiting[start : start + per])
        share = min(1.0, active / most) if most else 0.0
        mark = marks[max(1 if active else 0, round(share * (len(marks) - 1)))]
        style: Style = "bad" if waiting else "warn" if share >= 0.8 else "good"
        parts.append((style, mark))
    return (*_joined(parts), ("dim", " now"))


def _joined(parts: Sequence[Part]) -> list[Part]:
    found: list[Part] = []
    for style, text in parts:
        if found and found[-1][0] == style:
            found[-1] = (style, found[-1][1] + text)
        else:
            found.append((style, text))
    return found


# -- what is wrong, and who it is -----------------------------------------------------------------------------------


def _culprits(view: View, look: Look) -> _Part:
    lines = []
    for each in view.culprits[:3]:
        lines += wrapped(each.text + _places(each), look.width - 2, indent="  ", style="bad" if each.blocks else "warn")
    title = line(("bold", "Look at this first"), ("dim", "   `dbpool runbook` says how to end it"))
    return _Part(title, lines, 0, least=4)


def _places(culprit: Culprit) -> str:
    more = ", ..." if len(culprit.processes) > 2 else ""
    return f" ({', '.join(culprit.processes[:2])}{more})" if culprit.processes else ""


def _problems(view: View, look: Look) -> _Part:
    lines: list[Line] = []
    for number, each in enumerate(view.found.problems):
        lines += _problem(each, look, with_remedy=number == 0 and not view.culprits)
    return _Part(line(("bold", "What is wrong")), lines, 0, least=4)


def _problem(each: Problem, look: Look, *, with_remedy: bool) -> list[Line]:
    style: Style = "bad" if each.severity == "error" else "warn"
    first, *rest = wrapped(each.text, look.width - 11)
    mark = padded(each.severity, 7)
    lines = [line("  ", (style, mark), "  ", *first)]
    lines += [line(" " * 11, *part) for part in rest[:1]]
    if with_remedy:
        lines += [line(" " * 11, *part) for part in wrapped(each.remedy, look.width - 11, style="dim")]
    return lines


# -- lists --------------------------------------------------------------------------------------------------------


def _holders(view: View, most: int) -> _Part:
    heads = ["  held for", "who", "state", "on the server", "backend", "process"]
    rows = [_holder(row) for row in view.holders[:most]]
    if not any(row.on_server is not None for row in view.holders[:most]):  # it was not asked
        del heads[3]
        for row in rows:
            del row[3]
    lines = table(heads, rows)
    return _Part(line(("bold", "Who holds connections")), lines, view.holders_total, least=4, heads=1)


def _holder(row: HolderRow) -> list[Part]:
    style: Style = "warn" if row.held >= 10.0 and row.state != "idle" else ""
    pinned = f", pinned: {one_line(row.pinned, 30)}" if row.pinned else ""
    return [
        (style, f"  {duration(row.held):>8}"),
        (style, one_line(row.who, 46)),
        (style, f"{row.state}{pinned}"),
        ("", _on_server(row)),
        ("", str(row.backend_pid)),
        ("dim", row.process),
    ]


def _on_server(row: HolderRow) -> str:
    if row.on_server is None:
        return ""
    if not row.on_server:
        return "no such session"
    if row.server_waits_for:
        return f"waits for {row.server_waits_for}"
    return "" if row.server_state is None else f"{row.server_state} {duration(row.server_state_seconds or 0.0)}"


def _strangers(view: View, most: int) -> _Part:
    rows: list[list[Part | str]] = []
    for row in view.strangers[:most]:
        idle = row.state.startswith("idle in transaction")
        style: Style = "warn" if idle and (row.state_seconds or 0.0) >= 10.0 else ""
        state = f"{row.state or '?'} {duration(row.state_seconds or 0.0)}"
        name = row.application_name or "(no name)"
        cells = (f"  {duration(row.age):>8}", name, state)
        rows.append([*((style, text) for text in cells), str(row.backend_pid)])
    lines = table(("  age     ", "application", "state", "backend"), rows)
    title = line(("bold", "Sessions of this role that no process knows of"))
    return _Part(title, lines, len(view.strangers), least=2, heads=1)


def _processes(view: View, most: int) -> _Part:
    rows: list[list[Part | str]] = []
    for row in view.processes[:most]:
        style: Style = "warn" if row.state == "stale" else ""
        use = ", ".join(f"{pool.alias} {pool.active}/{pool.max}" for pool in row.pools[:3])
        waiting = sum(pool.waiting for pool in row.pools)
        waits: Part = ("bad" if waiting else "", f"{waiting} waiting")
        seen = f"{row.state}, {duration(row.age)} ago"
        rows.append([("", f"  {row.name}"), ("", row.role), (style, seen), ("", use), waits])
    lines = table(("  process", "role", "seen", "in use", ""), rows)
    return _Part(line(("bold", "Processes")), lines, view.processes_total, least=3, heads=1)
