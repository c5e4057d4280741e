"""`manage.py incident campaigns` as a user runs it: a real worker, a real site, and two processes that are killed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.incidents import Incident, running_incident

pytestmark = pytest.mark.ci


@pytest.fixture
def incident() -> Iterator[Incident]:
    with running_incident("campaigns") as incident:
        yield incident


def test_both_engines(incident: Incident) -> None:
    done = incident("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["met"] is True
    stock, ours = report["engines"]["stock"], report["engines"]["dbpool"]

    assert stock["pages"]["alone"]["failed"] == 0
    assert stock["pages"]["beside"]["errors"]["TooManyConnections (53300)"] > 0
    assert stock["pages"]["beside"]["errors"]["LockNotAvailable (55P03)"] > 0
    assert stock["sessions"]["refused"] > 0
    assert stock["transactions"]["idle_sessions"] >= 10
    assert stock["letters"]["twice"] > 0
    assert stock["recordings"]["lost_by_kill"] > 0

    assert ours["pages"]["beside"]["ok"] > 0
    assert (ours["pages"]["alone"]["errors"], ours["pages"]["beside"]["errors"]) == ({}, {})
    assert ours["sessions"]["refused"] == 0
    assert 0 < ours["sessions"]["worker"] <= 12  # those of the killed may be seen for a moment beside the new ones
    assert 0 < ours["sessions"]["site"] <= 4
    assert ours["transactions"]["idle_sessions"] == 0
    assert ours["transactions"]["seconds"] < stock["transactions"]["seconds"]
    assert (ours["tasks"]["count"], ours["tasks"]["errors"]) == (10, {})
    letters = ours["letters"]
    assert letters == {**letters, "recipients": 320, "once": 320, "twice": 0, "missing": 0, "miscounted": 0}
    assert letters["handed_in"] >= 320
    assert ours["recordings"] == {"expired": 0, "forgotten": 0, "lost": 0, "lost_by_kill": 0}


@pytest.mark.parametrize(
    ("cure", "fault"),
    [
        ("batches", "sessions of the worker were idle in a transaction for over 1.2 s"),
        ("outbox", "recipients got a letter twice"),
    ],
)
def test_without_a_cure(incident: Incident, cure: str, fault: str) -> None:
    assert fault in incident.verdict_without(cure)
