"""`manage.py incident tickets` as a user runs it: a real server that is restarted, crashed and brought back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testproject.harness.environment import ROOT
from testproject.processes import children_of, gone

pytestmark = pytest.mark.ci

COMMAND = [sys.executable, "testproject/manage.py", "incident", "tickets"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """For all temporary files of the run; also its unprivileged server must be able to enter it."""
    with tempfile.TemporaryDirectory(prefix="incident-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def surroundings(directory: Path) -> dict[str, str]:
    """Without a server in it: the incident starts its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DBPOOL_", "DJANGO_"))}
    return {**inherited, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}


def assert_nothing_left(directory: Path) -> None:
    assert list(directory.iterdir()) == []
    assert str(directory) not in subprocess.check_output(["ps", "-axo", "args"], text=True)


def test_both_engines_in_the_same_outages(directory: Path) -> None:
    began = time.monotonic()
    done = subprocess.run([*COMMAND, "--json"], cwd=ROOT, env=surroundings(directory), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 90
    report = json.loads(done.stdout)
    assert report["met"] is True
    stock, ours = report["engines"]["stock"], report["engines"]["dbpool"]
    assert stock["restart"]["errors"]["AdminShutdown (57P01)"] > 0
    assert stock["killed"]["errors"] == {"PoolTimeout": 1}
    assert stock["crash"]["errors"]["PoolTimeout"] > 0
    assert stock["crash"]["longest"] > 15
    assert ours["restart"]["errors"] == ours["killed"]["errors"] == {}
    assert ours["killed"]["connections"] == stock["killed"]["connections"] == 6
    assert ours["killed"]["seconds"] < 0.1
    assert set(ours["crash"]["errors"]) == {"DatabaseUnavailable", "CircuitOpen"}
    assert ours["crash"]["circuit"]["opened_after"] < 1
    assert ours["crash"]["circuit"]["median"] < 0.005
    assert ours["crash"]["served_after"] < 1
    for orders in (stock["orders"], ours["orders"]):
        assert orders["asked"] == orders["confirmed"] == orders["saved"] > 100
        assert orders["lost"] == orders["unknown"] == orders["seats_off"] == 0
    assert_nothing_left(directory)


def test_ours_without_what_it_has(directory: Path) -> None:
    """The verdict is not always the same: without retries and breaker the exit code says so, and the text why."""
    switches = ["--engine", "dbpool", "--without", "retry", "--without", "breaker"]
    done = subprocess.run([*COMMAND, *switches], cwd=ROOT, env=surroundings(directory), capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    verdict = " ".join(done.stdout.partition("dbpool: ")[2].split())
    assert "WITHOUT retry; WITHOUT breaker" in done.stdout
    assert "calls failed in the restart" in verdict
    assert "the circuit did not open" in verdict
    assert_nothing_left(directory)


@pytest.mark.parametrize("after", ["Starting PostgreSQL", "Killing 6 idle connections", "Crashing the server"])
def test_interrupted(directory: Path, after: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "--engine", "dbpool"], cwd=ROOT, env=surroundings(directory), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any(after in line for line in process.stderr)
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait() == 128 + signal.SIGINT
    assert all(map(gone, children))
    assert_nothing_left(directory)
