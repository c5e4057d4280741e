"""What is expected of each engine, held against what was measured."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from django_dbpool.audit import Finding
from testproject.harness.environment import ROOT
from testproject.incidents.outcome import Outcome, Row, error_rows, judged
from testproject.webhooks.accounts import Events
from testproject.webhooks.logs import Line
from testproject.webhooks.sender import Sent

# The errors by which the stock engine has to fail.
FULL = "TooManyConnections (53300)"
TERMINATED = ("AdminShutdown (57P01)", "OperationalError: consuming input failed")
"""The second is how psycopg says "server closed the connection unexpectedly"."""

OPERATION = "webhooks.follow_up"


@dataclass(frozen=True)
class Leak:
    """Sessions while nobody works, as the server counts them."""

    sessions: int
    managed: int
    """Those that the engine knows of and will close."""
    in_transaction: int
    in_use: int
    """Leases that were not given back."""

    @property
    def leaked(self) -> int:
        return max(0, self.sessions - self.managed)


@dataclass(frozen=True)
class Termination:
    """A request whose connection was ended in the middle of a statement."""

    status: int
    line: Line | None
    """What the log says of it."""

    @property
    def words(self) -> str:
        """Level and tag: what a filter can tell it by."""
        if self.line is None:
            return "not logged"
        return f"{self.line.level} expected" if self.line.is_expected else self.line.level


@dataclass(frozen=True)
class Measured:
    """All that one engine has gone through."""

    sent: Sent
    events: Events
    leak: Leak
    refused_connections: int
    """By the server, with SQLSTATE 53300."""
    woken: Sent
    """The events that came while the database slept and woke up."""
    terminations: list[Termination]
    """On purpose, and by a crash."""
    lines: list[Line]
    """The log of the site."""
    bypasses: list[Finding]

    @property
    def errors(self) -> Counter[str]:
        """Of requests, by name, as the log has them."""
        of_requests = ("django.request", "django_dbpool.request")
        return Counter(line.error for line in self.lines if line.error and line.logger in of_requests and line.is_alarm)

    @property
    def terminated(self) -> int:
        """Requests that failed because their connection had been ended."""
        return sum(self.errors[name] for name in TERMINATED)

    @property
    def failing(self) -> list[str]:
        """Keys of the events whose background work fails."""
        return [each.key for each in self.sent.deliveries if each.is_for_nobody]

    @property
    def explained(self) -> int:
        """Failures of background work that the log tells with operation, event, request and stack."""
        return sum(any(_explains(line, key) for line in self.lines) for key in self.failing)

    @property
    def replaced(self) -> int:
        """Idle connections that the server had ended, told as nothing to worry about."""
        return sum(line.level == "INFO" and line.is_expected for line in self.lines)

    @property
    def unknown(self) -> int:
        """Events whose handler raises in the middle."""
        return sum(each.is_unknown for each in self.sent.deliveries)

    @property
    def alarms(self) -> int:
        return sum(line.is_alarm for line in self.lines)


def _explains(line: Line, key: str) -> bool:
    tags = line.tags
    return (
        line.is_alarm
        and "Refused" in (line.stack or "")
        and tags.get("operation_name") == OPERATION
        and bool(tags.get("operation_id"))
        and "webhooks/" in (tags.get("spawned_by") or "")
        and tags.get("operation_tags", {}).get("event") == key
    )


def judge(engine: str, measured: Measured) -> Outcome:
    if engine == "stock":
        return judged(engine, _faults_of_stock(measured), partial(_story_of_stock, measured), figures(measured))
    return judged(engine, _faults_of_ours(measured), partial(_story_of_ours, measured), figures(measured))


def _faults_of_stock(measured: Measured) -> Iterator[str]:
    if not measured.leak.leaked:
        yield "no session leaked"
    if not measured.errors[FULL] or not measured.refused_connections:
        yield f"no request failed with {FULL}"
    if measured.terminated <= len(measured.terminations):
        yield f"no request failed with {TERMINATED[0]} after the database had slept"
    if not measured.events.lost:
        yield "no event was lost"
    if measured.explained:
        yield f"the log explains {measured.explained} failures of background work"
    if len({termination.words for termination in measured.terminations}) != 1:
        yield "the log tells a termination on purpose from a crash"
    if not measured.bypasses:
        yield "the audit finds no bypass"


def _faults_of_ours(measured: Measured) -> Iterator[str]:
    sent, events, leak = measured.sent, measured.events, measured.leak
    if refusals := sent.refusals.total():
        yield f"{refusals} deliveries were refused ({_counted(sent.refusals)})"
    if events.settled != len(sent.deliveries) or events.orphans:
        yield f"not every event was processed once or recorded as failed: {events}"
    should_fail = measured.unknown + len(measured.failing)
    if events.failed != should_fail:
        yield f"{events.failed} events are recorded as failed, and {should_fail} should be"
    if leak.leaked or leak.in_transaction or leak.in_use or measured.refused_connections:
        yield (
            f"{leak.leaked} sessions leaked, {leak.in_transaction} are idle in a transaction, {leak.in_use} leases "
            f"were not given back, the server refused {measured.refused_connections} connections"
        )
    if measured.explained != len(measured.failing):
        yield f"the log explains {measured.explained} of {len(measured.failing)} failures of background work"
    yield from _faults_of_log(measured, should_fail)
    if measured.bypasses:
        yield f"the audit finds {len(measured.bypasses)} bypasses"


def _faults_of_log(measured: Measured, should_fail: int) -> Iterator[str]:
    told = [termination.words for termination in measured.terminations]
    if told != ["WARNING expected", "ERROR"]:
        yield f"the log says {told[0]} of a termination on purpose, {told[1]} of a crash"
    if not measured.replaced:
        yield "the log has no idle connection that the server ended, at INFO and tagged expected"
    if [termination.status for termination in measured.terminations] != [503, 503]:
        yield f"reports were answered {[termination.status for termination in measured.terminations]}"
    if measured.alarms != should_fail + 1:
        loggers = Counter(line.logger for line in measured.lines if line.is_alarm)
        rare = [
            f"{line.logger}: {line.message[:200]}"
            for line in measured.lines
            if line.is_alarm and loggers[line.logger] < 5
        ]
        yield (
            f"the log has {measured.alarms} errors, not {should_fail + 1}: one for each failed event and the crash; "
            f"those of which there are few: {rare}"
        )


def _story_of_stock(measured: Measured) -> str:
    events, leak = measured.events, measured.leak
    return (
        f"Reproduced: {measured.terminated} requests failed on connections that had been terminated; {leak.leaked} "
        f"sessions leaked, and {measured.errors[FULL]} requests failed with {FULL}; {events.lost} of "
        f"{len(measured.sent.deliveries)} events are lost and {events.undelivered} were not accepted; of "
        f"{len(measured.failing)} failures of background work the log explains {measured.explained}. The audit finds "
        f"{len(measured.bypasses)} bypasses."
    )


def _story_of_ours(measured: Measured) -> str:
    events = measured.events
    return (
        "Gone: 0 sessions leaked, 0 deliveries refused, also while the database woke up. "
        f"{events.done} events were processed exactly once, {events.failed} recorded as failed, 0 lost. The log "
        f"explains all {measured.explained} failures of background work; it has {measured.replaced} idle connections "
        "that were ended as INFO and a termination on purpose as WARNING, all tagged expected, and a crash as ERROR. "
        "The audit finds nothing."
    )


# -- figures --------------------------------------------------------------------------------------------------------


def rows(measured: list[Measured]) -> list[Row]:
    events = [one.events for one in measured]
    leaks = [one.leak for one in measured]
    return [
        Row("deliveries"),
        Row("  events", [len(one.sent.deliveries) for one in measured]),
        Row("  acknowledged", [len(one.sent.acknowledged) for one in measured]),
        Row("  refused, sent again", [one.sent.refusals.total() for one in measured]),
        Row("  refused while the database woke up", [one.woken.refusals.total() for one in measured]),
        *error_rows([one.errors for one in measured]),
        Row("events, counted on the server"),
        Row("  processed exactly once", [each.done for each in events]),
        Row("  recorded as failed", [each.failed for each in events]),
        Row("  lost", [each.lost for each in events]),
        Row("  worked off twice", [each.repeated for each in events]),
        Row("  not delivered", [each.undelivered for each in events]),
        Row("  bookings that nothing is behind", [each.orphans for each in events]),
        Row("sessions while nobody works"),
        Row("  open", [leak.sessions for leak in leaks]),
        Row("  leaked", [leak.leaked for leak in leaks]),
        Row("  idle in a transaction", [leak.in_transaction for leak in leaks]),
        Row("  refused by the server (53300)", [one.refused_connections for one in measured]),
        Row("the log"),
        Row("  background work that failed", [len(one.failing) for one in measured]),
        Row("    told with event and operation", [one.explained for one in measured]),
        Row("  idle connections ended, at INFO", [one.replaced for one in measured]),
        Row(
            "  termination on purpose (* expected)",
            [one.terminations[0].words.replace(" expected", "*") for one in measured],
        ),
        Row("  crash", [one.terminations[1].words for one in measured]),
        Row("bypasses that the audit finds", [len(one.bypasses) for one in measured]),
    ]


def figures(measured: Measured) -> dict[str, Any]:
    """For programs."""
    return {
        "deliveries": {
            "events": len(measured.sent.deliveries),
            "acknowledged": len(measured.sent.acknowledged),
            "refused": dict(measured.sent.refusals),
            "refused_while_waking": measured.woken.refusals.total(),
        },
        "errors": dict(measured.errors),
        "events": asdict(measured.events),
        "sessions": {**asdict(measured.leak), "leaked": measured.leak.leaked, "refused": measured.refused_connections},
        "background": {"failed": len(measured.failing), "explained": measured.explained},
        "terminations": [
            {"status": each.status, "logged": each.words, "error": each.line.error if each.line else None}
            for each in measured.terminations
        ],
        "replaced": measured.replaced,
        "alarms": measured.alarms,
        "audit": [f"{os.path.relpath(each.path, ROOT)}:{each.line}: {each.rule}" for each in measured.bypasses],
    }


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common())
