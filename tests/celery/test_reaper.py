"""Runs that have lost their runner, and runs that are divided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from django_dbpool import batch
from django_dbpool.contrib.celery import FannedOut
from testproject.processes import wait_until
from tests.app.models import Item
from tests.fixtures import stopping_tasks
from tests.fixtures.batches import assert_once, fill
from tests.fixtures.broker import Broker
from tests.fixtures.celery_workers import PATIENCE, Workers

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.stopping_tasks"
ROWS = 40


@pytest.fixture
def tasks(broker: Broker) -> Iterator[Any]:
    """Those of the workers, to be sent by this process."""
    app = stopping_tasks.application(broker.environment)
    yield app.tasks
    app.close()


def ended(run: str) -> bool:
    return batch.status(run).state != "open"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_another_worker_goes_on_before_the_broker_knows(
    tasks: Any, workers: Workers, broker: Broker, pool: str, observer: psycopg.Connection[Any]
) -> None:
    """The whole worker is killed; its message would be delivered again in an hour."""
    fill(ROWS)
    first = workers.start(APP, pool=pool)
    result = tasks["count_up_soon"].delay(nap=0.5, run="killed")
    assert wait_until(lambda: Item.objects.filter(n=1).count() >= 10, PATIENCE)
    first.remove()
    assert Item.objects.filter(n=1).count() < ROWS
    workers.start(APP, pool=pool)
    assert result.get(timeout=PATIENCE)["resumed"]
    assert_once(ROWS)
    (part,) = batch.status("killed").ranges
    assert (part.reason, broker.unacknowledged()) == ("done", 1)


def test_by_a_schedule_where_workers_do_not_look_themselves(tasks: Any, workers: Workers, tmp_path: Path) -> None:
    fill(ROWS)
    quiet = {stopping_tasks.BEAT: "1"}
    first = workers.start(APP, environment=quiet)
    result = tasks["count_up_soon"].delay(nap=0.5)
    assert wait_until(lambda: Item.objects.filter(n=1).count() >= 10, PATIENCE)
    first.remove()
    workers.start(APP, environment=quiet, options=["-B", "-s", str(tmp_path / "schedule")])
    assert result.get(timeout=PATIENCE)["resumed"]
    assert_once(ROWS)


def test_fan_out(tasks: Any, workers: Workers) -> None:
    """Two children do a part each at the same time, and one who is killed costs a batch."""
    fill(4 * ROWS)
    worker = workers.start(APP)
    joint: FannedOut = tasks["count_up_soon"].fan_out(2, nap=0.2)
    assert joint.parts == 2
    assert wait_until(lambda: len(joint.status().runners) == 2, PATIENCE)
    with pytest.raises(TimeoutError):
        joint.get(timeout=0)
    worker.kill_child()
    found = joint.get(timeout=PATIENCE)
    assert (found.state, found.done, found.parts) == ("done", 4 * ROWS, 2)
    assert_once(4 * ROWS)
    assert FannedOut(joint.name, "default", 2).task_ids == joint.task_ids


def test_paused_and_resumed(tasks: Any, workers: Workers) -> None:
    """From outside; it comes back by a message of its own."""
    fill(ROWS)
    workers.start(APP)
    result = tasks["count_up"].delay(nap=0.5, run="paused")
    assert wait_until(lambda: Item.objects.filter(n=1).count() >= 10, PATIENCE)
    batch.pause("paused")
    assert result.get(timeout=PATIENCE)["reason"] == "paused"
    batch.resume("paused")
    assert wait_until(lambda: ended("paused"), PATIENCE)
    assert_once(ROWS)
