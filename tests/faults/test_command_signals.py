"""Ctrl-C and SIGTERM in runserver and other management commands: no noise, and the server has nobody left of us."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.request import urlopen

import psycopg
import pytest

from testproject.harness.environment import end, start
from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE
from tests.faults.test_idle import environment, sessions

pytestmark = pytest.mark.ci

IN_TRANSACTION = (
    "import threading\n"
    "from django.db import connection, transaction\n"
    "with transaction.atomic():\n"
    "    connection.cursor().execute('SELECT 1')\n"
    "    {wait}\n"
)
WAITS = {"between statements": "threading.Event().wait()", "in a statement": "connection.cursor().execute('{sleep}')"}


@pytest.fixture
def observer(session_server: Server) -> Iterator[psycopg.Connection[Any]]:
    with session_server.connect(application_name="observer") as connection:
        yield connection


@contextmanager
def running(*arguments: str, application: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "testproject.manage", *arguments]
        env = environment(application, "tests.faults.idle_settings")
        process = start(command, env, stdout=output, stderr=output)
        try:
            yield process, output
        finally:
            end(process)


def said(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reload", [False, True], ids=["noreload", "autoreloader"])
def test_runserver(observer: psycopg.Connection[Any], reload: bool, number: signal.Signals) -> None:
    application, port = f"runserver-{reload}-{number}", free_port()
    options = [] if reload else ["--noreload"]
    with running("runserver", f"127.0.0.1:{port}", *options, application=application) as (process, output):

        def served() -> bool:
            try:
                with urlopen(f"http://127.0.0.1:{port}/query/", timeout=5) as answer:
                    return bool(answer.read())
            except OSError:
                return False

        assert wait_until(served, PATIENCE), said(output)
        # Beside it, for a moment, the one that looked at the migrations and has been closed.
        assert wait_until(lambda: len(sessions(observer, application)) == 1, PATIENCE)
        process.send_signal(number)
        process.wait(PATIENCE)
        # Of its autoreloader's child, too, which gets the signal from the terminal or from its parent's end.
        assert wait_until(lambda: not sessions(observer, application), PATIENCE)
        text = said(output)
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert "dbpool" not in text.replace("apply the migrations for app(s): auth, contenttypes, django_dbpool", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait", WAITS)
def test_command(observer: psycopg.Connection[Any], wait: str, number: signal.Signals) -> None:
    """Of Ctrl-C there is Python's own traceback, and no second one; of SIGTERM nothing."""
    application = f"command-{number}-{wait.replace(' ', '-')}"
    sleep = "SELECT pg_sleep(600)"
    code = IN_TRANSACTION.format(wait=WAITS[wait].format(sleep=sleep))
    state = "active" if wait == "in a statement" else "idle in transaction"
    with running("shell", "--verbosity", "0", "-c", code, application=application) as (process, output):
        assert wait_until(lambda: [row[3] for row in sessions(observer, application)] == [state], PATIENCE), said(
            output
        )
        process.send_signal(number)
        process.wait(PATIENCE)
        if wait == "in a statement" and number == signal.SIGTERM:
            # Ended by the system in the middle: the server finds out when it has something to say.
            observer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", [application]
            )
        assert wait_until(lambda: not sessions(observer, application), PATIENCE)
        text = said(output)
    assert text.count("Traceback") == (number == signal.SIGINT)
    assert "Exception ignored" not in text
    assert "dbpool:" not in text
