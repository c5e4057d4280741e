"""The pool between greenlets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.company.conftest import ROOT, Project

pytestmark = pytest.mark.ci


def test_greenlets_share_a_small_pool(project: Project, tested_with: Any) -> None:
    """200 greenlets on four connections: nobody waits for ever, the hub is never blocked, no slot is lost."""
    tested_with("gevent")
    found = project.scenario("gevent_settings", "greenlets")
    assert found["answers"]
    assert found["switches"] == 0
    assert found["ticks"] > 20
    assert found["most"] <= 4
    assert (found["timeouts"], found["killed"]) == (10, 14)
    assert found["queued"] == 0
    assert found["held"] == 4
    assert found["left"] == 0
    assert found["still_running"] == 0
    assert found["size"] <= 4
    assert found["leases_left"] == 0
    print(f"200 greenlets: {found['seconds']:.2f} s, the hub ran others {found['ticks']} times meanwhile")


@contextmanager
def gunicorn(project: Project) -> Iterator[str]:
    """One gevent worker in front of the notes."""
    port = free_port()
    command = ["gunicorn", "-k", "gevent", "--worker-connections", "100", "-b", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "tests.company.wsgi"],
        cwd=ROOT,
        env={**os.environ, **project.environment("gevent_settings")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(get(f"{url}/sleep/"))
        except OSError:
            return False

    try:
        assert wait_until(answers, 20)
        yield url
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
        print(output)
    assert "Traceback" not in output


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as response:
        return json.load(response)


def test_gunicorn_with_gevent_workers(project: Project, session_server: Server, tested_with: Any) -> None:
    tested_with("gunicorn", "gevent")
    project.manage("gevent_settings", "migrate", "-v0")
    most = 0
    with (
        gunicorn(project) as url,
        session_server.connect(dbname=project.database) as observer,
        ThreadPoolExecutor(40) as clients,
    ):
        answers = [clients.submit(get, f"{url}/sleep/") for _ in range(120)]
        while not all(answer.done() for answer in answers):
            most = max(most, sessions(observer))
        assert [answer.result() for answer in answers] == [{"notes": 0}] * 120
    assert 2 <= most <= 4


def sessions(observer: psycopg.Connection[Any]) -> int:
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid() "
        "AND backend_type = 'client backend'"  # and none that vacuums
    )
    row = observer.execute(sql).fetchone()
    assert row is not None
    return int(row[0])
