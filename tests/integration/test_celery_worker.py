"""A real prefork worker keeps one pool per child, whichever settings key configured it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.celery_app import Sender
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

TASKS = 24


@pytest.fixture(params=["POOL", "OPTIONS"])
def worker(request: pytest.FixtureRequest, tmp_path: Path, session_server: Server) -> Iterator[Sender]:
    """A running worker with two prefork children; gives who talks to it."""
    client = Sender(tmp_path)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.celery_settings",
        "DBPOOL_TEST_POOL_KEY": request.param,
        "DBPOOL_TEST_BROKER": str(tmp_path),
        SERVER_VARIABLE: session_server.dsn,
    }
    arguments = ["-m", "celery", "-A", "tests.fixtures.celery_app", "worker", "-P", "prefork", "-c", "2", "-l", "INFO"]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log)
    try:
        ready = wait_until(lambda: b" ready." in (tmp_path / "worker.log").read_bytes(), 60)
        assert ready, (tmp_path / "worker.log").read_text()
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_one_server_session_per_child(worker: Sender) -> None:
    """Every task of a child runs on the same server session, and holds nothing afterwards."""
    results = [worker.send("backend") for _ in range(TASKS)]
    answers = [result.get(timeout=60) for result in results]
    backends: dict[int, set[int]] = defaultdict(set)
    for answer in answers:
        backends[answer["process"]].add(answer["backend"])
    assert all(answer["in_use"] == 0 for answer in answers)
    assert [len(pids) for pids in backends.values()] == [1] * len(backends)
    sessions = set().union(*backends.values())
    assert len(sessions) == len(backends)  # and no session in two processes
