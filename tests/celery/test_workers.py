"""The workers of tests: each pool kind over a real broker, and nothing of them left, whatever was killed."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest
from celery import Celery

from testproject.processes import gone, wait_until
from tests.fixtures.broker import Broker, use_broker
from tests.fixtures.celery_workers import PATIENCE, Workers

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.batch_app"


@pytest.fixture
def client(broker: Broker) -> Celery:
    return use_broker(Celery("client", set_as_current=False), broker.environment)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_worker_answers(pool: str, workers: Workers, client: Celery, observer: psycopg.Connection[Any]) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    worker = workers.start(APP, pool=pool)
    answers = [each.get(timeout=PATIENCE) for each in [client.send_task("who") for _ in range(4)]]
    processes = {answer["process"] for answer in answers}
    assert processes <= set(worker.children()) if pool == "prefork" else processes == {worker.main}
    assert {answer["backend"] for answer in answers} <= worker.sessions(observer)
    worker.remove()
    assert wait_until(lambda: not worker.sessions(observer), PATIENCE)


def test_what_a_killed_worker_leaves_is_removed(workers: Workers, client: Celery, broker: Broker) -> None:
    worker = workers.start(APP)
    client.send_task("who", [3600])
    assert wait_until(lambda: broker.unacknowledged() + broker.queued() == 0, PATIENCE)
    children = worker.children()
    assert len(children) == 2
    worker.kill()
    assert not all(gone(pid) for pid in children)
    worker.remove()
    assert all(gone(pid) for pid in children)
    assert not gone(os.getpid())
