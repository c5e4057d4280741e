"""Results that are rows of the pooled database: written with Django's connections, beside the tasks' own statements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery

from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.celery_workers import PATIENCE, CeleryWorker, Workers, at_database, opened_sessions
from tests.settings import SERVER_VARIABLE

pytest.importorskip("django_celery_results")

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.results_app"
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.fixtures.results_settings"}
NAME = "dbpool_results"
TASKS = 40
ROWS = "SELECT status, result, traceback FROM django_celery_results_taskresult ORDER BY id"


@pytest.fixture
def database(session_server: Server, observer: psycopg.Connection[Any]) -> Iterator[Server]:
    """A database of its own, with the tables of that application."""
    observer.execute(f"CREATE DATABASE {NAME}")
    found = at_database(session_server, NAME)
    try:
        environment = {**os.environ, **SETTINGS, SERVER_VARIABLE: found.dsn}
        migrate = [sys.executable, "-m", "django", "migrate", "-v", "0", "--skip-checks", "django_celery_results"]
        subprocess.run(migrate, env=environment, check=True, timeout=120)
        yield found
    finally:
        observer.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_results_are_written_and_nothing_is_held(
    pool: str, database: Server, workers: Workers, client: Celery, observer: psycopg.Connection[Any]
) -> None:
    """Each task finds everything given back, what was written for the one before it included."""
    worker = workers.start(
        "tests.fixtures.results_app", pool=pool, server=database, environment=SETTINGS, concurrency=1
    )
    for _ in range(TASKS):
        client.send_task("leases")
    client.send_task("fails")
    with database.connect() as rows:
        assert wait_until(lambda: ended(rows) == TASKS + 1, PATIENCE), rows.execute(ROWS).fetchall()
        found = rows.execute(ROWS).fetchall()
    answers = [json.loads(result) for status, result, _ in found if status == "SUCCESS"]
    assert len(answers) == TASKS
    assert {answer["in_use"] for answer in answers} == {0}
    ((_, _, traceback),) = [row for row in found if row[0] == "FAILURE"]
    assert "division by zero" in traceback
    # Neither one for each task: what a process has is parked in its pool until the next one, outside of a transaction.
    sessions = states(worker, observer)
    assert len(sessions) <= 2
    assert set(sessions) == {"idle"}
    assert {answer["backend"] for answer in answers} <= worker.sessions(observer)
    assert opened_sessions(observer, NAME) <= 6, "with those of the migration and of this test"


def ended(rows: psycopg.Connection[Any]) -> int:
    return sum(status in ("SUCCESS", "FAILURE") for status, _, _ in rows.execute(ROWS).fetchall())


def states(worker: CeleryWorker, observer: psycopg.Connection[Any]) -> list[str]:
    query = "SELECT state FROM pg_stat_activity WHERE application_name = %s"
    return [state for (state,) in observer.execute(query, [worker.application]).fetchall()]
