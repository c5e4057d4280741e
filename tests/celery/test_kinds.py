"""Kinds of workers, as the server sees them: how many sessions, and which are gone when they should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from typing import Any

import psycopg
import pytest
from celery import Celery

from testproject.processes import wait_until
from tests.fixtures.celery_workers import PATIENCE, Workers

APP = "tests.fixtures.batch_app"

database = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

CONNECTED = """
from celery import signals
connected = [key for key, _ in signals.worker_process_shutdown.receivers]
assert any("django_dbpool.process_shutdown" in str(key) for key in connected), connected
from django_dbpool.batch.starting import starter_of
assert starter_of("any.task") is not None
"""


@pytest.mark.parametrize(
    "code",
    [
        f"import celery, django\ndjango.setup()\n{CONNECTED}",
        f"import django\ndjango.setup()\nimport celery.worker\n{CONNECTED}",
        f"import django\ndjango.setup()\nfrom django_dbpool.contrib.celery import BatchTask\n{CONNECTED}",
        f"from django_dbpool.contrib.celery import BatchTask\nimport django\ndjango.setup()\n{CONNECTED}",
        "import django, sys\ndjango.setup()\nassert 'celery' not in sys.modules",
    ],
    ids=["celery first", "a worker later", "imported later", "imported before the settings", "nobody imports it"],
)
def test_the_installed_app_connects_itself(code: str) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def answers_to(client: Celery, number: int, seconds: float = 0) -> list[dict[str, Any]]:
    results = [client.send_task("who", [seconds]) for _ in range(number)]
    return [result.get(timeout=PATIENCE) for result in results]


class TestSessions:
    pytestmark = database

    def test_children_that_are_replaced_leave_nothing(
        self, workers: Workers, client: Celery, observer: psycopg.Connection[Any]
    ) -> None:
        """``--max-tasks-per-child``: a session for each child, which ends with it."""
        worker = workers.start(APP, options=["--max-tasks-per-child", "3"])
        backends: dict[int, set[int]] = defaultdict(set)
        for answer in answers_to(client, 18):
            backends[answer["process"]].add(answer["backend"])
        assert len(backends) >= 4
        assert all(len(sessions) == 1 for sessions in backends.values())
        assert wait_until(lambda: len(worker.sessions(observer)) <= 2, PATIENCE)

    def test_autoscale(self, workers: Workers, client: Celery, observer: psycopg.Connection[Any]) -> None:
        """Up to four children, and down again: the sessions of those that end are gone."""
        worker = workers.start(APP, options=["--autoscale", "4,1"], environment={"AUTOSCALE_KEEPALIVE": "1"})
        answers = answers_to(client, 8, 2)
        assert len({answer["process"] for answer in answers}) > 1
        assert len({answer["backend"] for answer in answers}) <= len({answer["process"] for answer in answers})
        # Not to one: Celery 5.7 says so and leaves two.
        assert wait_until(lambda: len(worker.children()) < len({answer["process"] for answer in answers}), PATIENCE)
        assert wait_until(lambda: len(worker.sessions(observer)) <= len(worker.children()), PATIENCE)

    @pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
    def test_sessions_end_with_the_worker(
        self, workers: Workers, client: Celery, observer: psycopg.Connection[Any], pool: str
    ) -> None:
        """While it works as many as it may have, all of them between tasks: none is in a transaction."""
        worker = workers.start(APP, pool=pool)
        answers = answers_to(client, 12)
        assert {answer["backend"] for answer in answers} <= worker.sessions(observer)
        assert len(worker.sessions(observer)) <= 2
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'"
        assert observer.execute(query, [worker.application]).fetchone() == (0,)
        worker.signal(signal.SIGTERM)
        worker.wait()
        assert wait_until(lambda: not worker.sessions(observer), PATIENCE)
