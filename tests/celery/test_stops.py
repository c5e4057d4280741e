"""
Ways in which a worker ends a batch that is at work. No query is left on the server, no row is lost or done twice, and
the run goes on where that is right.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery
from celery.result import AsyncResult

from django_dbpool.models import BatchCheckpoint, BatchRun
from testproject.processes import wait_until
from tests.app.models import Item, Word
from tests.fixtures.batches import assert_once, fill
from tests.fixtures.broker import Broker
from tests.fixtures.celery_workers import PATIENCE, CeleryWorker, Workers
from tests.fixtures.stopping_tasks import HANG, SOFT_SHUTDOWN

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.stopping_tasks"
ROWS = 40


def begun() -> bool:
    return Item.objects.filter(n=1).count() >= 10


def hanging(worker: CeleryWorker, observer: psycopg.Connection[Any]) -> bool:
    return any("pg_sleep" in query for query in worker.at_work(observer))


def checkpoint() -> BatchCheckpoint:
    return BatchCheckpoint.objects.get()


@pytest.fixture
def hung(workers: Workers, client: Celery, observer: psycopg.Connection[Any]) -> Iterator[Callable[..., Any]]:
    """Start a worker with a task whose fifth batch sleeps on the server."""

    def hang(task: str = "count_up", **options: Any) -> tuple[CeleryWorker, AsyncResult[Any]]:
        fill(ROWS)
        Word.objects.create(text=HANG)
        worker = workers.start(APP, **options.pop("worker", {}))
        result = client.send_task(task, kwargs={"hang_at": 20}, **options)
        assert wait_until(lambda: hanging(worker, observer), PATIENCE)
        return worker, result

    yield hang
    # Of a test that has failed: its rows are locked, and would be for ten minutes.
    observer.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'")


def end_of(result: AsyncResult[Any]) -> dict[str, Any]:
    answer: dict[str, Any] = result.get(timeout=PATIENCE)
    assert (answer["reason"], answer["done"]) == ("done", ROWS)
    assert_once(ROWS)
    assert BatchRun.objects.get().state == "done"
    return answer


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_warm_shutdown_stops_at_the_next_batch(workers: Workers, client: Celery, broker: Broker, pool: str) -> None:
    """The task is in the queue again, and another worker goes on with it."""
    fill(ROWS)
    worker = workers.start(APP, pool=pool)
    result = client.send_task("count_up", kwargs={"nap": 0.5})
    assert wait_until(begun, PATIENCE)
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert 0 < Item.objects.filter(n=1).count() < ROWS
    assert (checkpoint().reason, checkpoint().token, broker.queued()) == ("stopped", "", 1)
    workers.start(APP)
    assert end_of(result)["resumed"]


def test_a_shutdown_by_remote_control_is_a_warm_one(workers: Workers, client: Celery, broker: Broker) -> None:
    fill(ROWS)
    worker = workers.start(APP)
    client.send_task("count_up", kwargs={"nap": 0.5})
    assert wait_until(begun, PATIENCE)
    client.control.shutdown()
    worker.wait()
    assert 0 < Item.objects.filter(n=1).count() < ROWS
    assert (checkpoint().reason, broker.queued()) == ("stopped", 1)


def test_soft_shutdown_stops_at_the_next_batch(workers: Workers, client: Celery, observer: Any) -> None:
    """Celery tells nobody before the time is over; the tasks hear of it at its beginning."""
    fill(ROWS)
    worker = workers.start(APP, environment={SOFT_SHUTDOWN: "15"})
    result = client.send_task("count_up", kwargs={"nap": 2})
    assert wait_until(begun, PATIENCE)
    worker.signal(signal.SIGQUIT)
    # Within that time: by its end the batch at hand would be cancelled, and the last one is far.
    assert wait_until(lambda: not checkpoint().token, 10)
    assert (checkpoint().reason, Item.objects.filter(n=1).count() < ROWS) == ("stopped", True)
    worker.wait()
    workers.start(APP)
    assert end_of(result)["resumed"]


def test_cold_shutdown_cancels_the_query(
    hung: Callable[..., Any], workers: Workers, observer: psycopg.Connection[Any]
) -> None:
    """Celery gives the message back, and the next worker goes on at once: nobody has the run."""
    worker, result = hung()
    worker.signal(signal.SIGQUIT)
    assert wait_until(lambda: not hanging(worker, observer), PATIENCE)
    worker.wait()
    assert (checkpoint().reason, checkpoint().token) == ("stopped", "")
    Word.objects.all().delete()
    workers.start(APP)
    assert end_of(result)["resumed"]


def test_soft_time_limit_cancels_the_query_and_goes_on(
    hung: Callable[..., Any], observer: psycopg.Connection[Any]
) -> None:
    worker, result = hung(soft_time_limit=5)
    assert wait_until(lambda: not hanging(worker, observer), PATIENCE)
    Word.objects.all().delete()
    assert end_of(result)["resumed"]


def test_revoked_is_not_done_again(hung: Callable[..., Any], observer: psycopg.Connection[Any], broker: Broker) -> None:
    worker, result = hung()
    result.revoke(terminate=True)
    assert wait_until(lambda: not hanging(worker, observer), PATIENCE)
    assert wait_until(lambda: checkpoint().reason == "revoked", PATIENCE)
    assert wait_until(lambda: result.state == "REVOKED" and broker.unacknowledged() == 0, PATIENCE)
    assert (broker.queued(), checkpoint().token) == (0, "")
    assert Item.objects.filter(n=1).count() == 20
    Word.objects.all().delete()
    # Who wants it all the same names the run.
    again = result.app.send_task("count_up", kwargs={"run": BatchRun.objects.get().name})
    assert end_of(again)["resumed"]


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_hard_time_limit_ends_the_query(hung: Callable[..., Any], observer: psycopg.Connection[Any], pool: str) -> None:
    """The child is killed and the server notices, or the greenlet is interrupted. The run goes on by a reaper."""
    worker, _ = hung("count_up_soon", time_limit=4, worker={"pool": pool})
    assert wait_until(lambda: not hanging(worker, observer), PATIENCE)
    Word.objects.all().delete()
    assert wait_until(lambda: BatchRun.objects.get().state == "done", PATIENCE)
    assert checkpoint().restarts == 1
    assert_once(ROWS)


def test_a_killed_child_is_replaced_at_once(hung: Callable[..., Any], observer: psycopg.Connection[Any]) -> None:
    """``takeover_after`` is a minute, and nobody waits for it: that runner is seen to be gone."""
    worker, result = hung()
    before = set(worker.children())
    at_work = int(checkpoint().runner.split()[1])
    assert at_work in before
    Word.objects.all().delete()  # for the next one; this one sleeps already
    worker.kill_child(at_work)
    assert end_of(result)["resumed"]
    assert int(checkpoint().runner.split()[1]) != at_work


def test_a_message_delivered_twice_ends_quietly(hung: Callable[..., Any], client: Celery, broker: Broker) -> None:
    """The same message: nothing is done, and its result is the first one's. Another one for the same run is told."""
    worker, result = hung()
    client.send_task("count_up", task_id=result.id)
    other = client.send_task("count_up", kwargs={"run": BatchRun.objects.get().name})
    assert other.get(timeout=PATIENCE)["reason"] == "taken"
    assert wait_until(lambda: broker.queued() == 0 and broker.unacknowledged() == 1, PATIENCE)
    assert result.state == "PROGRESS"
    assert "ERROR" not in worker.log()
    Word.objects.all().delete()
    worker.kill_child(int(checkpoint().runner.split()[1]))
    end_of(result)
