"""Real servers, warmed at their start and ended by SIGTERM under load, by the hooks of docs/deployment.md."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from testproject.postgres import Server
from testproject.processes import children_of, gone, wait_until
from tests.faults.helpers import PATIENCE, Task
from tests.fixtures.celery_app import Sender
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

APPLICATION = "shutdown-servers"
CLIENTS = 12
WORKERS = 2
MIN_SIZE = 3
COMMANDS = {
    "gunicorn": ["gunicorn", "-c", "python:testproject.gunicorn_conf", "-w", str(WORKERS), "--threads", "4", "-b"],
    "gevent": ["gunicorn", "-c", "python:testproject.gunicorn_conf", "-w", str(WORKERS), "-k", "gevent", "-b"],
    "uvicorn": ["uvicorn", "--factory", "--log-level", "warning", "--fd"],
}


@pytest.fixture
def ledger(session_server: Server) -> Iterator[psycopg.Connection]:
    with session_server.connect(application_name="observer") as observer:
        observer.execute("CREATE TABLE ledger (key text, part int)")
        yield observer
        observer.execute("DROP TABLE ledger")


def sessions(observer: psycopg.Connection) -> int:
    row = observer.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [APPLICATION])
    return int(row.fetchone()[0])  # type: ignore[index]


def sleeping(observer: psycopg.Connection) -> bool:
    rows = observer.execute(
        "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'SELECT pg_sleep%%'", [APPLICATION]
    )
    return rows.fetchone() is not None


@contextmanager
def serving(kind: str, server: Server, log: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port, descriptor = listener.getsockname()[1], listener.fileno()
        address = str(descriptor) if kind == "uvicorn" else f"fd://{descriptor}"
        app = "tests.fixtures.ledger_site:" + ("asgi" if kind == "uvicorn" else "wsgi()")
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.fixtures.ledger_settings",
            "DBPOOL_TEST_APPLICATION": APPLICATION,
            SERVER_VARIABLE: server.dsn,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[kind], address, app],
                env=environment,
                stdout=output,
                stderr=output,
                pass_fds=[descriptor],
            )
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait(PATIENCE)


class Client:
    """Sends one write after another; knows which were answered, until the site is gone."""

    def __init__(self, name: str, port: int) -> None:
        self.answered: list[str] = []
        self.refused: list[str] = []
        self._name, self._port = name, port
        self.task = Task(self._run)

    def _run(self) -> None:
        for number in itertools.count():
            key = f"{self._name}-{number}"
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as link:
                    link.request("POST", f"/write/{key}/", headers={"Connection": "close"})
                    status = link.getresponse().status
            except (OSError, http.client.HTTPException):
                return
            assert status in (200, 503), status
            (self.answered if status == 200 else self.refused).append(key)


@pytest.mark.parametrize("kind", COMMANDS)
def test_sigterm_under_load(kind: str, session_server: Server, ledger: psycopg.Connection, tmp_path: Path) -> None:
    """Every write that was answered 200 is there exactly once; no session is left; nothing is complained about."""
    log = tmp_path / "log"
    processes = 1 if kind == "uvicorn" else WORKERS
    with serving(kind, session_server, log) as (port, process):
        assert wait_until(lambda: sessions(ledger) == processes * MIN_SIZE, PATIENCE), log.read_text()  # warm
        clients = [Client(f"client{number}", port) for number in range(CLIENTS)]
        assert wait_until(lambda: sum(len(client.answered) for client in clients) > 100, PATIENCE), log.read_text()
        children = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.task.result()
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert all(map(gone, children))
    assert wait_until(lambda: sessions(ledger) == 0, PATIENCE)
    rows = ledger.execute("SELECT key, array_agg(part ORDER BY part) FROM ledger GROUP BY key").fetchall()
    written: dict[str, list[int]] = dict(rows)
    answered = [key for client in clients for key in client.answered]
    assert len(answered) > 100
    assert all(written.get(key) == [1, 2] for key in answered)
    assert all(parts in ([1], [1, 2]) for parts in written.values())
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", COMMANDS)
def test_transaction_of_a_thread_is_waited_for(
    kind: str, session_server: Server, ledger: psycopg.Connection, tmp_path: Path
) -> None:
    """Its request is answered, and Python would end without it."""
    with serving(kind, session_server, tmp_path / "log") as (port, process):
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as link:
            link.request("POST", "/later/a/", headers={"Connection": "close"})
            assert link.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert wait_until(lambda: sessions(ledger) == 0, PATIENCE)
    assert ledger.execute("SELECT key, part FROM ledger ORDER BY part").fetchall() == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celery(pool: str, session_server: Server, ledger: psycopg.Connection, tmp_path: Path) -> None:
    """A warm shutdown waits for what runs, and for threads of a task: what has begun is committed."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.celery_settings",
        "DBPOOL_TEST_APPLICATION": APPLICATION,
        "DBPOOL_TEST_BROKER": str(tmp_path),
        SERVER_VARIABLE: session_server.dsn,
    }
    log = tmp_path / "log"
    client = Sender(tmp_path)
    results = [client.send("write", f"task{number}") for number in range(8)]
    results.append(client.send("later", "later"))
    arguments = ["-m", "celery", "-A", "tests.fixtures.celery_app", "worker", "-P", pool, "-c", "2", "-l", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=output, stderr=output)
    try:
        assert wait_until(lambda: sleeping(ledger), 60), log.read_text()  # the thread of the last task
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: sessions(ledger) == 0, PATIENCE)
    done = {result.get() for result in results if result.ready()}
    assert len(done) >= 5
    rows = ledger.execute("SELECT key, array_agg(part ORDER BY part) FROM ledger GROUP BY key").fetchall()
    written: dict[str, list[int]] = dict(rows)
    assert all(written.get(key) == [1, 2] for key in {*done, "later"})
    assert "ShuttingDown" not in log.read_text()
    assert "have not ended" not in log.read_text()
