"""gunicorn --preload: the application has used its pool before the workers are forked."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Task
from tests.settings import SERVER_VARIABLE

REQUESTS = 50
CLIENTS = 8
APPLICATION = "gunicorn-preload"


@pytest.fixture
def port(tmp_path: Path, session_server: Server) -> Iterator[int]:
    """Where two workers of four threads each serve; the master opened a connection before it forked them."""
    port = free_port()
    command = ["gunicorn", "--preload", "-c", "python:testproject.gunicorn_conf", "-w", "2", "--threads", "4"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "-b", f"127.0.0.1:{port}", "tests.faults.preloaded:application"],
            env={**os.environ, SERVER_VARIABLE: session_server.dsn, "DBPOOL_TEST_APPLICATION": APPLICATION},
            stdout=log,
            stderr=log,
        )
    try:
        ready = wait_until(lambda: (tmp_path / "log").read_text().count("Booting worker") == 2, PATIENCE)
        assert ready, (tmp_path / "log").read_text()
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        said = (tmp_path / "log").read_text()
        assert "Traceback" not in said, said


def client(port: int, name: str) -> list[dict[str, Any]]:
    """Send requests one after another; each on a new connection, so that both workers get some."""
    answers = []
    for number in range(REQUESTS):
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        link.request("GET", f"/?{name}-{number}")
        response = link.getresponse()
        assert response.status == 200
        answer = json.loads(response.read())
        link.close()
        assert answer["answer"] == f"{name}-{number}"
        answers.append(answer)
    return answers


def test_workers_have_connections_of_their_own(port: int, session_server: Server) -> None:
    """No backend serves two processes, the master's connection is alive and used by nobody."""
    tasks = [Task(client, port, f"client{number}") for number in range(CLIENTS)]
    answers = [answer for task in tasks for answer in task.result()]
    backends: dict[int, set[int]] = defaultdict(set)
    for answer in answers:
        backends[answer["process"]].add(answer["backend"])
    master = answers[0]["master"]
    assert answers[0]["idle_at_fork"] == 1
    assert master["process"] not in backends
    assert len(backends) == 2
    first, second = backends.values()
    assert not first & second
    assert master["backend"] not in first | second
    with session_server.connect() as observer:
        rows = observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [APPLICATION])
        assert {pid for (pid,) in rows} == first | second | {master["backend"]}
