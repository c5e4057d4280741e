"""
Real servers of several processes, scraped as one: what is exported is what the server has seen, to the unit.

Each lease writes one row. The rows are counted by the server, not by the product, and not by the clients either: an
answer that is lost on the way doesn't matter.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from testproject.postgres import Server, free_port
from testproject.processes import children_of, gone, wait_until
from tests.faults.helpers import PATIENCE, Task
from tests.fixtures.celery_app import Sender
from tests.fixtures.metrics_site import LEASES, TABLE
from tests.settings import SERVER_VARIABLE

pytestmark = pytest.mark.ci

CLIENTS = 8
MAX_SIZE = 3
LATE = 3.0
"""Seconds that a killed process may lose: the one between two writings, and what a busy machine adds."""

PER_LEASE = (
    "django_dbpool_leases_total",
    "django_dbpool_acquire_seconds_count",
    "django_dbpool_hold_seconds_count",
)


@pytest.fixture
def rows(session_server: Server) -> Iterator[psycopg.Connection[Any]]:
    with session_server.connect(application_name="observer") as observer:
        observer.execute(TABLE)
        observer.execute("CREATE TABLE ledger (key text, part int)")
        yield observer
        observer.execute("DROP TABLE leased, ledger")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "prometheus"
    directory.mkdir()
    return directory


def number(rows: psycopg.Connection[Any], sql: str, *params: Any) -> int:
    row = rows.execute(sql, params).fetchone()
    assert row is not None
    return int(row[0] or 0)


def leased(rows: psycopg.Connection[Any]) -> int:
    return number(rows, "SELECT sum(leases) FROM leased")


def environment(server: Server, shared: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.fixtures.metrics_settings",
        "PROMETHEUS_MULTIPROC_DIR": str(shared),
        SERVER_VARIABLE: server.dsn,
    }


@contextmanager
def serving(server: Server, shared: Path, workers: int, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    log = shared.parent / "log"
    command = ["gunicorn", "-c", "python:testproject.gunicorn_conf", "-w", str(workers), "--threads", "4"]
    command += ["--backlog", "64", "-b", f"127.0.0.1:{port}", *options, "tests.fixtures.metrics_site:wsgi()"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment(server, shared), stdout=output, stderr=output
        )
    try:
        assert wait_until(lambda: log.read_text().count("Booting worker") == workers, PATIENCE), log.read_text()
        yield port, process
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()


class Client:
    """Sends one request after the other, some on each connection, until it has got so many answers."""

    def __init__(self, port: int, answers: int) -> None:
        self.answers = 0
        self.processes: set[int] = set()
        self._port, self._wanted = port, answers
        self.task = Task(self._run)

    def _run(self) -> None:
        while self.answers < self._wanted:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as link:
                    for _ in range(min(25, self._wanted - self.answers)):
                        link.request("GET", "/work/")
                        answer = link.getresponse()
                        body = answer.read()
                        assert answer.status == 200, body
                        self.processes.add(int(body))
                        self.answers += 1
            except (OSError, http.client.HTTPException):
                continue  # its worker has ended


def get(port: int, path: str) -> dict[str, float]:
    """What Prometheus would see, by name and, where there is one beside the alias, by label."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as link:
        link.request("GET", path, headers={"Connection": "close"})
        answer = link.getresponse()
        assert answer.status == 200
        return flat(text_string_to_metric_families(answer.read().decode()))


def in_files(path: Path) -> dict[str, float]:
    """The files of all processes, also when none is left to be asked."""
    return flat(MultiProcessCollector(None, str(path)).collect())  # type: ignore[no-untyped-call]


def flat(metrics: Any) -> dict[str, float]:
    return {
        " ".join([sample.name, *(label for name, label in sample.labels.items() if name != "alias")]): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.labels.get("alias") == "default"
    }


def counted(found: dict[str, float]) -> list[float]:
    return [found.get(name, 0) for name in PER_LEASE]


def all_told(port: int, path: str, total: int) -> bool:
    """Within the time that those who aren't asked take to write theirs."""
    return wait_until(lambda: counted(get(port, path)) == [total] * 3, PATIENCE)


def test_to_the_unit(session_server: Server, shared: Path, rows: psycopg.Connection[Any]) -> None:
    """100,000 leases over four workers that are replaced again and again meanwhile."""
    requests = 100_000 // LEASES
    restarts = ["--max-requests", "400", "--max-requests-jitter", "100"]
    with serving(session_server, shared, 4, *restarts) as (port, _):
        clients = [Client(port, requests // CLIENTS) for _ in range(CLIENTS)]
        halfway = wait_until(lambda: sum(client.answers for client in clients) > requests / 2, 300)
        assert halfway
        # In the middle: never more than what the server has seen by the end of the scrape, but for what runs now.
        found = get(port, "/metrics/")
        assert 0 < found[PER_LEASE[0]] <= leased(rows) + 4 * MAX_SIZE
        for client in clients:
            client.task.result(300)
        total = leased(rows)
        assert total >= sum(client.answers for client in clients) * LEASES >= 100_000 - CLIENTS * LEASES
        processes = set().union(*(client.processes for client in clients))
        assert len(processes) >= 8, processes
        for path in ("/metrics/", "/exported/"):
            assert all_told(port, path, total), (total, counted(get(port, path)))
        found = get(port, "/metrics/")
        # A worker that has just begun, and was asked for nothing yet, has no pool.
        assert found["django_dbpool_connections_max"] in range(MAX_SIZE, 4 * MAX_SIZE + 1, MAX_SIZE)
        assert found["django_dbpool_connections used"] == 0
        assert found["django_dbpool_statements_total"] == number(rows, "SELECT count(*) FROM leased")
        print({"processes": len(processes), "rows": total, **found})
    assert counted(in_files(shared)) == [total] * 3
    assert in_files(shared).get("django_dbpool_connections_max", 0) == 0


def test_killed_worker(session_server: Server, shared: Path, rows: psycopg.Connection[Any]) -> None:
    """Takes its last second with it, and nothing of what it held is counted any more."""
    with serving(session_server, shared, 2) as (port, process):
        clients = [Client(port, 200) for _ in range(CLIENTS)]
        busiest = "SELECT pid FROM leased WHERE at < now() - %s * interval '1 s' GROUP BY pid ORDER BY count(*) DESC"
        assert wait_until(lambda: rows.execute(busiest, [LATE + 0.5]).fetchone() is not None, PATIENCE)
        victim = number(rows, busiest, LATE)
        file = shared / f"counter_{victim}.db"
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
        for client in clients:
            client.task.result(120)
        assert wait_until(lambda: gone(victim) and len(children_of(process.pid)) == 2, PATIENCE)
        of_victim = number(rows, "SELECT sum(leases) FROM leased WHERE pid = %s", victim)
        certain = number(
            rows, "SELECT sum(leases) FROM leased WHERE pid = %s AND at < to_timestamp(%s)", victim, killed - LATE
        )
        alive = get(port, "/metrics/")["django_dbpool_connections_max"]
        assert alive in (MAX_SIZE, 2 * MAX_SIZE)  # the new worker has a pool from its first lease on
    merged = MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
    of_file = flat(merged)["django_dbpool_leases_total"]
    assert 0 < certain <= of_file <= of_victim + MAX_SIZE
    total = in_files(shared)["django_dbpool_leases_total"]
    assert total - of_file == number(rows, "SELECT sum(leases) FROM leased WHERE pid <> %s", victim)
    print({"rows": of_victim, "in the file": of_file, "older than 3 s": certain})


def test_celery(session_server: Server, shared: Path, rows: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Its children end without Python's own end."""
    client = Sender(tmp_path)
    results = [client.send("write", f"task{number}") for number in range(30)]
    arguments = ["-m", "celery", "-A", "tests.fixtures.celery_app", "worker", "-c", "2", "-l", "INFO"]
    env = {**environment(session_server, shared), "DBPOOL_TEST_BROKER": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=output, stderr=output)
    try:
        assert wait_until(lambda: all(result.ready() for result in results), 60), log.read_text()
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    total = number(rows, "SELECT count(*) FROM ledger")
    assert total == 60
    found = in_files(shared)
    assert counted(found) == [total] * 3
    assert found["django_dbpool_connections_max"] == 0
