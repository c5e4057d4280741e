"""`manage.py incident webhooks` as a user runs it: real servers that sleep, end connections and crash."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.incidents import Incident, running_incident

pytestmark = pytest.mark.ci


@pytest.fixture
def incident() -> Iterator[Incident]:
    with running_incident("webhooks") as incident:
        yield incident


def test_both_engines(incident: Incident) -> None:
    done = incident("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["met"] is True
    stock, ours = report["engines"]["stock"], report["engines"]["dbpool"]

    assert stock["sessions"]["leaked"] > 0
    assert stock["sessions"]["refused"] > 0
    assert stock["errors"]["TooManyConnections (53300)"] > 0
    assert stock["errors"]["AdminShutdown (57P01)"] > 0
    assert stock["events"]["lost"] > 0
    assert stock["events"]["failed"] == 0
    assert stock["background"] == {"failed": 12, "explained": 0}
    assert [each["logged"] for each in stock["terminations"]] == ["ERROR", "ERROR"]
    assert [each.rpartition(" ")[2] for each in stock["audit"]] == ["DBP201", "DBP201", "DBP101", "DBP102"]

    assert ours["deliveries"] == {"events": 200, "acknowledged": 200, "refused": {}, "refused_while_waking": 0}
    assert ours["events"] == {"done": 164, "failed": 36, "lost": 0, "repeated": 0, "undelivered": 0, "orphans": 0}
    sessions = ours["sessions"]
    assert sessions == {**sessions, "leaked": 0, "in_transaction": 0, "in_use": 0, "refused": 0}
    assert 0 < sessions["sessions"] <= sessions["managed"] <= 8
    assert ours["background"] == {"failed": 12, "explained": 12}
    assert [each["logged"] for each in ours["terminations"]] == ["WARNING expected", "ERROR"]
    assert ours["errors"] == {"ConnectionLost": 1}
    assert ours["alarms"] == 37
    assert ours["replaced"] > 0
    assert ours["audit"] == []
    for events in (stock["events"], ours["events"]):
        assert sum(events.values()) - events["orphans"] == 200


@pytest.mark.parametrize(
    ("cure", "fault"),
    [
        ("door", "sessions leaked"),
        ("threads", "the log explains 0 of 12 failures of background work"),
        ("middleware", "the log says ERROR of a termination on purpose, ERROR of a crash"),
        ("retry", "deliveries were refused"),
    ],
)
def test_without_a_cure(incident: Incident, cure: str, fault: str) -> None:
    assert fault in incident.verdict_without(cure)
