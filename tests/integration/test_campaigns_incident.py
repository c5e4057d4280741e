"""`manage.py incident campaigns` as a user runs it: a real worker, a real site, and two processes that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testproject.harness.environment import ROOT

pytestmark = pytest.mark.ci

COMMAND = [sys.executable, "testproject/manage.py", "incident", "campaigns"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """For all temporary files of the run; also its unprivileged server must be able to enter it."""
    with tempfile.TemporaryDirectory(prefix="incident-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        assert list(Path(name).iterdir()) == []
        assert name not in subprocess.check_output(["ps", "-axo", "args"], text=True)


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without a server in its environment: the incident starts its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DBPOOL_", "DJANGO_"))}
    env = {**inherited, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"}
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def test_both_engines(directory: Path) -> None:
    done = run(directory, "--json")
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
def test_without_a_cure(directory: Path, cure: str, fault: str) -> None:
    """The verdict is not always the same: without either the exit code says so, and the text why."""
    done = run(directory, "--engine", "dbpool", "--without", cure)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"WITHOUT {cure}" in done.stdout
    assert fault in " ".join(done.stdout.partition("dbpool: Not gone: ")[2].split())
