"""That the verdict of incident `webhooks` can be bad: each number that it is about, one at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from django_dbpool.audit import Finding
from testproject.webhooks.accounts import Events
from testproject.webhooks.deliveries import NOBODY, Delivery
from testproject.webhooks.logs import Line
from testproject.webhooks.sender import Sent
from testproject.webhooks.verdict import FULL, OPERATION, TERMINATED, Leak, Measured, Termination, judge, rows

GOOD = Delivery("good", "payment.succeeded", "order-1", 7, "customer@example.com")
UNKNOWN = replace(GOOD, key="unknown", order="lost-1")
FOR_NOBODY = replace(GOOD, key="nobody", receiver=NOBODY)
BYPASS = Finding(path="naive.py", line=1, column=1, rule="DBP101", message="a connection", fix="use the ORM")
EVENTS = Events(done=1, failed=2, lost=0, repeated=0, undelivered=0, orphans=0)


def line(level: str, error: str | None = None, logger: str = "", stack: str | None = None, **tags: Any) -> Line:
    return Line(level, logger, "", error, stack, tags)


EXPLAINED = line(
    "ERROR",
    "Refused",
    "django_dbpool.threads",
    "Refused: no such receiver",
    operation_id="f00",
    operation_name=OPERATION,
    spawned_by="POST webhooks/",
    operation_tags={"event": "nobody"},
)
FAILED = line("ERROR", logger="testproject.webhooks.cured", event="unknown")
REPLACED = line("INFO", logger="django_dbpool.pool", severity="expected")
ON_PURPOSE = line("WARNING", "AdminShutdown (57P01)", "django_dbpool.request", severity="expected")
CRASH = line("ERROR", "ConnectionLost", "django_dbpool.request", severity="error")
OURS = Measured(
    sent=Sent([GOOD, UNKNOWN, FOR_NOBODY], {"good", "unknown", "nobody"}),
    events=EVENTS,
    leak=Leak(sessions=8, managed=8, in_transaction=0, in_use=0),
    refused_connections=0,
    woken=Sent(),
    terminations=[Termination(503, ON_PURPOSE), Termination(503, CRASH)],
    lines=[EXPLAINED, FAILED, REPLACED, ON_PURPOSE, CRASH],
    bypasses=[],
)


def failed_request(error: str) -> Line:
    return line("ERROR", error, "django.request")


STOCK = Measured(
    sent=Sent([GOOD, UNKNOWN, FOR_NOBODY], {"unknown", "nobody"}, Counter({"HTTP 500": 9})),
    events=Events(done=0, failed=0, lost=2, repeated=0, undelivered=1, orphans=0),
    leak=Leak(sessions=27, managed=8, in_transaction=1, in_use=0),
    refused_connections=3,
    woken=Sent(),
    terminations=[Termination(500, failed_request(TERMINATED[0])), Termination(500, failed_request(TERMINATED[1]))],
    lines=[failed_request(error) for error in (FULL, *TERMINATED, TERMINATED[0])],
    bypasses=[BYPASS],
)


@pytest.mark.parametrize(("engine", "measured"), [("stock", STOCK), ("dbpool", OURS)])
def test_good(engine: str, measured: Measured) -> None:
    outcome = judge(engine, measured)
    assert outcome.met, outcome.verdict
    assert all(len(row.cells) == 1 for row in rows([measured]) if row.cells)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda good: replace(good, sent=replace(good.sent, refusals=Counter({"HTTP 503": 1}))), "1 deliveries"),
        (lambda good: replace(good, events=replace(EVENTS, done=0, lost=1)), "lost=1"),
        (lambda good: replace(good, events=replace(EVENTS, done=0, repeated=1)), "repeated=1"),
        (lambda good: replace(good, events=replace(EVENTS, done=0, undelivered=1)), "undelivered=1"),
        (lambda good: replace(good, events=replace(EVENTS, orphans=1)), "orphans=1"),
        (lambda good: replace(good, events=replace(EVENTS, done=2, failed=1)), "1 events are recorded as failed"),
        (lambda good: replace(good, leak=replace(good.leak, sessions=9)), "1 sessions leaked"),
        (lambda good: replace(good, leak=replace(good.leak, in_transaction=1)), "1 are idle in a transaction"),
        (lambda good: replace(good, leak=replace(good.leak, in_use=1)), "1 leases were not given back"),
        (lambda good: replace(good, refused_connections=1), "refused 1 connections"),
        (lambda good: replace(good, lines=[replace(EXPLAINED, stack=None), *good.lines[1:]]), "explains 0 of 1"),
        (lambda good: replace(good, terminations=[*reversed(good.terminations)]), "says ERROR of a termination on"),
        (lambda good: replace(good, terminations=[good.terminations[0], Termination(503, None)]), "not logged"),
        (lambda good: replace(good, terminations=[Termination(500, ON_PURPOSE), good.terminations[1]]), r"\[500, 503"),
        (lambda good: replace(good, lines=[EXPLAINED, FAILED, ON_PURPOSE, CRASH]), "no idle connection"),
        (lambda good: replace(good, lines=[*good.lines, CRASH]), "4 errors, not 3"),
        (lambda good: replace(good, bypasses=[BYPASS]), "finds 1 bypasses"),
    ],
)
def test_not_gone(spoil: Callable[[Measured], Measured], reason: str) -> None:
    outcome = judge("dbpool", spoil(OURS))
    assert not outcome.met
    assert outcome.verdict.startswith("Not gone: ")
    assert re.search(reason, outcome.verdict), outcome.verdict


@pytest.mark.parametrize("name", ["operation_id", "operation_name", "operation_tags", "spawned_by"])
def test_not_explained(name: str) -> None:
    """Background work that failed, and the log leaves one thing out."""
    told = replace(EXPLAINED, tags={key: value for key, value in EXPLAINED.tags.items() if key != name})
    outcome = judge("dbpool", replace(OURS, lines=[told, *OURS.lines[1:]]))
    assert not outcome.met
    assert "the log explains 0 of 1 failures" in outcome.verdict


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bad: replace(bad, leak=replace(bad.leak, sessions=8)), "no session leaked"),
        (lambda bad: replace(bad, lines=bad.lines[1:]), "53300"),
        (lambda bad: replace(bad, refused_connections=0), "no request failed with TooManyConnections"),
        (lambda bad: replace(bad, lines=bad.lines[:3]), "after the database had slept"),
        (lambda bad: replace(bad, events=replace(bad.events, lost=0)), "no event was lost"),
        (lambda bad: replace(bad, lines=[*bad.lines, EXPLAINED]), "the log explains 1 failures"),
        (lambda bad: replace(bad, terminations=OURS.terminations), "tells a termination on purpose from a crash"),
        (lambda bad: replace(bad, bypasses=[]), "finds no bypass"),
    ],
)
def test_not_reproduced(spoil: Callable[[Measured], Measured], reason: str) -> None:
    outcome = judge("stock", spoil(STOCK))
    assert not outcome.met
    assert outcome.verdict.startswith("Not reproduced: ")
    assert reason in outcome.verdict
