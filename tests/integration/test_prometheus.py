"""The Prometheus exporter on real pools, in one process and in processes that share a directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from django_dbpool.contrib.prometheus import register, unregister
from django_dbpool.errors import DatabaseUnavailable, PoolExhausted
from testproject.postgres import Server, free_port
from tests.faults.helpers import PATIENCE, Task
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute, hold
from tests.settings import SERVER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    register(registry)
    yield registry
    unregister(registry)


def numbers(metrics: Any, alias: str) -> dict[str, float]:
    return {
        " ".join([sample.name.removeprefix("django_dbpool_"), *(sample.labels[name] for name in labels)]): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.labels.get("alias") == alias
        for labels in [[name for name in sample.labels if name != "alias"]]
    }


def test_what_a_pool_does(registry: CollectorRegistry, make_alias: MakeAlias) -> None:
    alias = make_alias(POOL={"max_size": 1, "reserve_size": 0, "timeout": 1, "retry": False, "breaker": False})
    assert numbers(registry.collect(), alias) == {}
    for _ in range(3):
        execute(alias, "SELECT 1")
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        execute(alias, "SELECT 2")
        now = numbers(registry.collect(), alias)
        refused = Task(execute, alias, "SELECT 1").error()
    found = numbers(registry.collect(), alias)
    assert isinstance(refused, PoolExhausted)
    assert (now["connections used"], now["connections idle"], now["connections_max"]) == (1, 0, 1)
    assert (found["connections used"], found["connections idle"]) == (0, 1)
    assert (now["leases_total"], now["hold_seconds_count"]) == (3, 3)
    assert [found[f"{name}_seconds_count"] for name in ("acquire", "hold", "connect")] == [4, 4, 1]
    assert (found["statements_total"], found["connections_opened_total"]) == (5, 1)
    assert (found["refused_total PoolExhausted"], found["timeouts_total"]) == (1, 1)
    assert (found["circuit_state closed"], found["waiting"]) == (1, 0)
    connections[alias].close_pool()
    after = numbers(registry.collect(), alias)
    assert (after["leases_total"], after["connections_closed_total closed"]) == (4, 1)
    assert {after[name] for name in ("connections idle", "connections_max", "circuit_state closed")} == {0}


def test_server_that_is_away(registry: CollectorRegistry, make_alias: MakeAlias) -> None:
    pool = {"min_size": 0, "max_size": 1, "retry": {"attempts": 3, "max_delay": 0.01}}
    alias = make_alias(PORT=free_port(), POOL=pool)
    with pytest.raises(DatabaseUnavailable):
        execute(alias, "SELECT 1")
    found = numbers(registry.collect(), alias)
    assert (found["connections_failed_total"], found["retried_total connect"]) == (3, 2)
    assert (found["refused_total DatabaseUnavailable"], found["leases_total"]) == (1, 0)


def test_whoever_holds_is_seen_while_it_does(registry: CollectorRegistry, make_alias: MakeAlias) -> None:
    alias = make_alias(POOL={"max_size": 2})
    hold(alias)
    try:
        assert numbers(registry.collect(), alias)["connections used"] == 1
    finally:
        transaction.rollback(using=alias)
        transaction.set_autocommit(True, using=alias)


PROGRAM = """
import json, os, sys
import django
django.setup()
from django.db import connection
from tests.fixtures.pools import execute

def lease(count):
    for _ in range(count):
        execute("default", "SELECT 1")

lease(3)
children = []
for count in (5, 7):
    if (child := os.fork()) == 0:
        lease(count)
        sys.exit()          # by Python's own end, as gunicorn's workers
    children.append(child)
if (child := os.fork()) == 0:
    from django_dbpool import shutdown
    lease(11)
    shutdown()
    os._exit(0)             # without it, as Celery's children
children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
lease(2)
print(json.dumps([os.getpid(), *children]))
"""


def run(program: str, server: Server, directory: Path) -> subprocess.CompletedProcess[str]:
    """The variable counts when prometheus_client is imported, hence processes of their own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.fixtures.metrics_settings",
            "PROMETHEUS_MULTIPROC_DIR": str(directory),
            SERVER_VARIABLE: server.dsn,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_processes_that_share_a_directory(session_server: Server, tmp_path: Path) -> None:
    done = run(PROGRAM, session_server, tmp_path)
    assert done.returncode == 0, done.stderr
    parent, *children = json.loads(done.stdout)

    def leases(*processes: int) -> list[float]:
        merged = MultiProcessCollector.merge([str(tmp_path / f"counter_{pid}.db") for pid in processes])
        return [numbers([metric], "default").get("leases_total", 0) for metric in merged if "leases" in metric.name]

    assert [leases(process) for process in (parent, *children)] == [[5], [5], [7], [11]]
    found = numbers(MultiProcessCollector(None, str(tmp_path)).collect(), "default")
    assert [found["leases_total"], found["acquire_seconds_count"], found["hold_seconds_count"]] == [28] * 3
    assert (found["connections_opened_total"], found["connections_closed_total closed"]) == (4, 4)
    assert {found[name] for name in ("connections idle", "connections_max", "circuit_state closed")} == {0}


WITHOUT_DIRECTORY = """
import os, sys
import django
django.setup()
from django.core.management import call_command
from django.test import RequestFactory
from django_dbpool.contrib.prometheus import metrics
from django_dbpool.core import reporter
from tests.fixtures.pools import execute

def scraped():
    answer = metrics(RequestFactory().get("/metrics/"))
    lines = answer.content.decode().splitlines()
    return answer.status_code, [line for line in lines if "leases_total{" in line or "PROMETHEUS" in line]

def lease(count):
    for _ in range(count):
        execute("default", "SELECT 1")
    reporter.flush()

call_command("migrate", "--plan", verbosity=0)  # with its checks
lease(3)
if (child := os.fork()) == 0:
    lease(1)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print(*scraped())
os.mkdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])
lease(2)
print(*scraped())
"""


def test_directory_that_is_missing_disturbs_nobody(session_server: Server, tmp_path: Path) -> None:
    """Leases, commands, a fork, the end of a process: all as ever, one line in the log, and the scrape is told why."""
    directory = tmp_path / "missing"
    done = run(WITHOUT_DIRECTORY, session_server, directory)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    fault = f"PROMETHEUS_MULTIPROC_DIR = {str(directory)!r} is not a directory"
    assert [line for line in done.stderr.splitlines() if line.startswith(fault)], done.stderr
    without, with_it = [line for line in done.stdout.splitlines() if "[" in line][-2:]
    assert without.startswith("503 ") and fault in without
    assert "Make it before the server starts" in without
    assert with_it.startswith("200 ")
    assert 'django_dbpool_leases_total{alias="default"} ' in with_it
    leases = float(with_it.split("} ")[1].split("'")[0])
    assert leases >= 5, "nothing that was counted meanwhile is lost"
