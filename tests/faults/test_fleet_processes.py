"""Real processes that publish: workers of gunicorn come, work and leave; a short command is no news."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from testproject.postgres import EmbeddedServer, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

ROWS = "SELECT document FROM django_dbpool_process WHERE expires > now()"


@pytest.fixture(scope="module")
def env(server: EmbeddedServer) -> dict[str, str]:
    """For processes that work on the module's server, in which the table is."""
    env = {
        **os.environ,
        SERVER_VARIABLE: server.dsn,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.fleet_settings",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    manage(env, "migrate", "--verbosity=0")
    with server.connect() as connection:
        connection.execute("CREATE TABLE ledger (key text, part int)")
    return env


def manage(env: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "django", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.fixture
def observer(server: EmbeddedServer) -> Iterator[psycopg.Connection[Any]]:
    with server.connect(application_name="observer") as connection:
        yield connection


def states(observer: psycopg.Connection[Any]) -> dict[int, str]:
    documents = [json.loads(text) for (text,) in observer.execute(ROWS)]
    return {document["pid"]: document["state"] for document in documents}


def test_workers_of_gunicorn(env: dict[str, str], observer: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Each of four publishes; one that is killed becomes stale; at the end those that end in order say so."""
    port = free_port()
    command = ["gunicorn", "-c", "python:testproject.gunicorn_conf", "-w", "4", "--threads", "2"]
    with (tmp_path / "log").open("wb") as log:
        master = subprocess.Popen(
            [sys.executable, "-m", *command, "-b", f"127.0.0.1:{port}", "tests.fixtures.ledger_site:wsgi()"],
            env=env,
            stdout=log,
            stderr=log,
        )
    seen: set[int] = set()

    def ask_one(_: int) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/write/key/", timeout=PATIENCE) as response:
            return int(response.read())

    def ask() -> bool:
        with ThreadPoolExecutor(8) as clients:  # one after the other the same worker may take all
            seen.update(clients.map(ask_one, range(8)))
        return len(seen) == 4

    try:
        booted = wait_until(lambda: (tmp_path / "log").read_text().count("Booting worker") == 4, PATIENCE)
        assert booted, (tmp_path / "log").read_text()
        assert wait_until(ask, PATIENCE), seen
        assert wait_until(lambda: set(states(observer)) == seen, PATIENCE), states(observer)
        assert set(states(observer).values()) <= {"active", "idle"}  # the first may wait long for the fourth
        documents = [json.loads(text) for (text,) in observer.execute(ROWS)]
        assert {document["role"] for document in documents} == {"web"}
        assert len({document["instance"] for document in documents}) == 4
        out = manage(env, "dbpool", "status")
        assert all(f":{pid} " in out for pid in seen), out
        victim = seen.pop()

        def is_at_work() -> bool:
            ask()
            return states(observer).get(victim) == "active"

        assert wait_until(is_at_work, PATIENCE), "one that has said that it is idle need not say more"
        seen.discard(victim)
        os.kill(victim, signal.SIGKILL)
    finally:
        master.send_signal(signal.SIGTERM)
        assert master.wait(PATIENCE) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert {pid: state for pid, state in states(observer).items() if pid in seen} == dict.fromkeys(seen, "ended")
    assert states(observer)[victim] == "active", "it could not say anything"
    observer.execute("UPDATE django_dbpool_process SET taken = now() - interval '1 second'")
    out = manage(env, "dbpool", "status")
    assert f":{victim} has not published" in out
    assert not any(f":{pid} " in out for pid in seen)


def test_a_short_command_is_no_news_and_a_long_one_is(env: dict[str, str], observer: psycopg.Connection[Any]) -> None:
    observer.execute("DELETE FROM django_dbpool_process")
    manage({**env, "DBPOOL_TEST_INTERVAL": "30"}, "migrate", "--verbosity=0")
    assert states(observer) == {}
    # It gets a second and a half for its last word, which a busy machine may not have: any of three will do.
    assert "ended" in [state_of_a_long_command(env, observer) for _ in range(3)]


def state_of_a_long_command(env: dict[str, str], observer: psycopg.Connection[Any]) -> str:
    """What it has published when it is over."""
    code = "from django.db import connection\nconnection.cursor().execute('SELECT 1')\ninput()"
    observer.execute("DELETE FROM django_dbpool_process")
    long = subprocess.Popen(
        [sys.executable, "-m", "django", "shell", "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        assert wait_until(lambda: states(observer) == {long.pid: "active"}, PATIENCE), states(observer)
        (text,) = observer.execute(ROWS).fetchone() or ("",)
        assert json.loads(text)["role"] == "command"
        long.communicate(b"\n", timeout=PATIENCE)
    finally:
        long.kill()
        long.wait()
    return states(observer)[long.pid]
