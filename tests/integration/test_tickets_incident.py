"""`manage.py incident tickets` as a user runs it: a real server that is restarted, crashed and brought back."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from testproject.processes import children_of, gone
from tests.fixtures.incidents import Incident, running_incident

pytestmark = pytest.mark.ci


@pytest.fixture
def incident() -> Iterator[Incident]:
    with running_incident("tickets") as incident:
        yield incident


def test_both_engines_in_the_same_outages(incident: Incident) -> None:
    began = time.monotonic()
    done = incident("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 240
    report = json.loads(done.stdout)
    assert report["met"] is True
    stock, ours = report["engines"]["stock"], report["engines"]["dbpool"]
    assert stock["restart"]["errors"]["AdminShutdown (57P01)"] > 0
    assert stock["killed"]["errors"] == {"PoolTimeout": 1}
    assert stock["crash"]["errors"]["PoolTimeout"] > 0
    assert stock["crash"]["longest"] > 15
    assert ours["restart"]["errors"] == ours["killed"]["errors"] == {}
    assert min(ours["killed"]["connections"], stock["killed"]["connections"]) >= 6
    assert ours["killed"]["seconds"] < 0.1
    assert set(ours["crash"]["errors"]) == {"DatabaseUnavailable", "CircuitOpen"}
    assert ours["crash"]["circuit"]["opened_after"] < 1
    assert ours["crash"]["circuit"]["median"] < 0.005
    assert ours["crash"]["served_after"] < 1
    for orders in (stock["orders"], ours["orders"]):
        assert orders["asked"] == orders["confirmed"] == orders["saved"] > 100
        assert orders["lost"] == orders["unknown"] == orders["seats_off"] == 0


def test_ours_without_what_it_has(incident: Incident) -> None:
    verdict = incident.verdict_without("retry", "breaker")
    assert "calls failed in the restart" in verdict
    assert "the circuit did not open" in verdict


@pytest.mark.parametrize("after", ["Starting PostgreSQL", "Killing 6 idle connections", "Crashing the server"])
def test_interrupted(incident: Incident, after: str) -> None:
    call = incident.call("--engine", "dbpool")
    with subprocess.Popen(**call, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(after in line for line in process.stderr)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == 128 + signal.SIGINT
    assert all(map(gone, children))
