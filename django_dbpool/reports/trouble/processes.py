"""Processes that nobody hears of, statements that run for long, and what processes have found wrong themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...core.words import one_line
from ...fleet import Process
from ...fleet.documents import Document
from ..measuring import amount, listed, number, raw_section
from ..reading import Fleet
from ..told import Told, told
from .problem import Problem, about, duration, listing

RUNS_LONG = 10.0
"""Seconds that a statement runs before that is a problem."""


def of_reading(fleet: Fleet) -> Iterator[Problem]:
    """That not everybody is seen; a reading that was asked for as such has nothing to remark."""
    if fleet.source == "fleet" or not (fleet.remarks or fleet.stale):
        return
    seen = {
        "host": "only the processes of this host are seen",
        "process": "only this process is seen",
        "remembered": f"this is what was read {fleet.age:.0f} s ago",
    }[fleet.source]
    why = f": {fleet.remarks[0]}" if fleet.remarks else ""
    yield Problem(
        "fleet-unreachable",
        "warning",
        f"What the processes publish can't be read, {seen}{why}",
        "Look at the database, or cache, that DBPOOL['FLEET'] names. On each host `manage.py dbpool status --local` "
        "asks the processes directly, without it.",
        processes=len(fleet.processes),
    )


def of_processes(fleet: Fleet, living: Sequence[Process]) -> Iterator[Problem]:
    silent = sorted((process for process in living if process.stale), key=lambda process: -process.age)
    if silent and not fleet.stale:
        one, age = len(silent) == 1, silent[0].age
        hosts = listing(sorted({process.identity.host for process in silent}))
        yield Problem(
            "stale",
            "error" if len(silent) == len(living) > 1 else "warning",
            f"{listing([process.name for process in silent])} {'has' if one else 'have'} not published for "
            f"{'' if one else 'up to '}{age:.0f} s: "
            + ("does it hang, or was it killed?" if one else "do they hang, or were they killed?"),
            f"Look on {hosts} whether {'it still runs' if one else 'they still run'}. Who was killed disappears from "
            "here within a minute. Who hangs answers `manage.py dbpool status --local` there, or doesn't: py-spy dump "
            "--pid shows where it is.",
            silent[0].name if one else None,
            since=fleet.at - age,
            processes=len(silent),
        )
    unheard = [process for process in living if number(process.document, "missed", "snapshots")]
    if unheard:
        missed = process_part(unheard[0], "missed")
        error = f" ({missed.text('error')})" if missed.text("error") else ""
        yield Problem(
            "not-publishing",
            "warning",
            f"{listing([process.name for process in unheard])} could not publish for some time{error}.",
            "Look at the log of django_dbpool.fleet, and at the database or cache that DBPOOL['FLEET'] names: it was "
            "away, full, or read-only.",
            unheard[0].name if len(unheard) == 1 else None,
            since=fleet.at - unheard[0].age - missed.number("seconds"),
            processes=len(unheard),
        )


def process_part(process: Process, name: str) -> Told:
    part = process.document.get(name)
    return Told(part if isinstance(part, Mapping) else {})


def of_statements(current: Sequence[Process]) -> Iterator[Problem]:
    """One for each text."""
    found: dict[tuple[str, str], tuple[float, Told, list[Process]]] = {}
    for process in current:
        for given in listed(raw_section(process.document, "slow_statements")):
            if not isinstance(given, dict) or not number(given, "running") or amount(given.get("longest")) < RUNS_LONG:
                continue
            row = Told(Document(given))
            key, seconds = (row.text("alias"), row.text("sql")), row.number("longest")
            before = found.get(key)
            worst = before is None or seconds > before[0]
            those = [process] if before is None else [*before[2], process]
            found[key] = (seconds, row, those) if before is None or worst else (before[0], before[1], those)
    for (alias, sql), (seconds, row, those) in found.items():
        name = row.text("name") or row.text("unit") or "no request or task"
        yield about(
            those,
            "slow-running",
            "warning",
            f"a statement that takes up to {duration(seconds)} runs now for {one_line(name, 100)} in database "
            f"{alias!r}: {one_line(sql, 200)}",
            "Cancel it on page Holders if nobody needs its result. Look at its plan (EXPLAIN), and set a limit for the "
            "next: POOL['statement_timeout'].",
            alias=alias,
        )


_CODES_OF_RULES = {"connect_failures": "connect-failures", "server_connections": "server-full"}

_SAME = {
    "circuit": ("circuit-open", "circuit-isolated", "circuit-half-open"),
    "waiters": ("waiting",),
    "utilisation": ("waiting", "pool-full"),
    "leak": ("held-long", "held-idle"),
    "pins": ("pinned-long",),
    "server-full": ("server-full", "server-crowded"),
}
"""By code of an alert: what says the same of this moment."""


def code_of_rule(rule: str) -> str:
    """Of the problem that an alert of this rule is."""
    return _CODES_OF_RULES.get(rule, rule.replace("_", "-"))


def is_told(problem: Problem, known: set[tuple[str, str | None]]) -> bool:
    """Whether what an alert says is among these codes and databases."""
    return any((code, problem.alias) in known for code in _SAME.get(problem.code, (problem.code,)))


def of_alerts(current: Sequence[Process]) -> Iterator[Problem]:
    """Alerts have been so for a while, and last a while longer; those of several processes with one id are one."""
    found: dict[str, list[tuple[Process, Told]]] = {}
    for process in current:
        for alert in told(process, "alerts"):
            # At zero it is over, and goes on for a while lest it come and go: no trouble of this moment.
            if all(alert.text(key) for key in ("id", "rule", "alias", "text")) and alert.number("value"):
                found.setdefault(alert.text("id"), []).append((process, alert))
    for those in found.values():
        process, alert = max(those, key=lambda each: _weight(each[1]))
        rule, alias = alert.text("rule"), alert.text("alias")
        since = [each.number("since") for _, each in those if each.number("since")]
        held = ", ".join(alert.texts("holders"))
        yield about(
            [process, *(each for each, _ in those)],
            code_of_rule(rule),
            "error" if alert.text("severity") == "critical" else "warning",
            f"database {alias!r}: {alert.text('text')}" + (f" Held by {held}." if held else ""),
            alert.text("todo"),
            alias=alias,
            since=min(since, default=None),
        )


def _weight(alert: Told) -> tuple[Any, ...]:
    return alert.text("severity") == "critical", alert.number("value")
