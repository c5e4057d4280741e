"""What a long job in a worker meets besides kills: a broker that is away, a rival, strange names and arguments."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery

from django_dbpool.models import BatchCheckpoint, BatchRun
from testproject.processes import wait_until
from tests.fixtures.batch_app import SOFT_SHUTDOWN
from tests.fixtures.batches import assert_once, fill
from tests.fixtures.broker import Broker, OwnBroker, running_broker, use_broker
from tests.fixtures.celery_workers import PATIENCE, Workers

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.batch_app"
ROWS = 4000


@pytest.fixture
def broker() -> Iterator[Broker]:
    # Long enough for no message to be delivered twice while its task runs.
    with running_broker(visibility=120) as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Celery:
    return use_broker(Celery("client", set_as_current=False), broker.environment)


def batches() -> int:
    return sum(BatchCheckpoint.objects.values_list("batches", flat=True))


def is_done(number: int = 1) -> bool:
    return BatchRun.objects.filter(state="done").count() == number


def test_broker_is_frozen(workers: Workers, client: Celery, broker: Broker) -> None:
    """The run needs none: it goes on, though its progress is to be told each second, and nobody takes the news."""
    own = ours(broker)
    fill(ROWS)
    workers.start(APP)
    client.send_task("slow count", kwargs={"run": "away"})
    assert wait_until(lambda: batches() > 3, PATIENCE)
    own.freeze()
    before, began = batches(), time.monotonic()
    moved = wait_until(lambda: batches() >= before + 100, PATIENCE)
    print(f"without a broker: {batches() - before} batches in {time.monotonic() - began:.1f} s")
    own.thaw()
    assert moved
    assert wait_until(is_done, PATIENCE)
    assert_once(ROWS)


def test_broker_is_killed(workers: Workers, client: Celery, broker: Broker) -> None:
    """
    With all its messages, and kombu 5.7 lets a worker that has one die of that. Whoever comes next finds the run in
    the database.
    """
    own = ours(broker)
    fill(ROWS)
    worker = workers.start(APP)
    client.send_task("slow count", kwargs={"run": "lost"})
    assert wait_until(lambda: batches() > 3, PATIENCE)
    own.kill()
    wait_until(lambda: not worker.runs, 10)
    own.start()
    assert own.queued() + own.unacknowledged() == 0
    workers.start(APP)
    assert wait_until(is_done, PATIENCE)
    assert_once(ROWS)


@pytest.mark.parametrize("how", ["warm", "soft"])
def test_broker_is_away_while_the_task_queues_itself_again(
    workers: Workers, client: Celery, broker: Broker, how: str
) -> None:
    """Its message can't be sent, and the first one went with the broker: who sends it again is a reaper."""
    own = ours(broker)
    fill(ROWS)
    worker = workers.start(APP, environment={SOFT_SHUTDOWN: "30"} if how == "soft" else {})
    client.send_task("slow count", kwargs={"run": "unsent"})
    assert wait_until(lambda: batches() > 3, PATIENCE)
    own.kill()
    worker.signal(signal.SIGTERM if how == "warm" else signal.SIGQUIT)
    assert wait_until(lambda: BatchCheckpoint.objects.get().reason == "stopped", PATIENCE)
    assert (BatchCheckpoint.objects.get().token, BatchRun.objects.get().state) == ("", "open")
    assert 0 < batches() < ROWS // 20
    wait_until(lambda: not worker.runs, PATIENCE)
    worker.remove()
    own.start()
    assert own.queued() + own.unacknowledged() == 0, "nobody else knows of it"
    workers.start(APP)
    assert wait_until(is_done, PATIENCE)
    assert_once(ROWS)
    assert BatchCheckpoint.objects.get().restarts >= 1


def ours(broker: Broker) -> OwnBroker:
    if not isinstance(broker, OwnBroker):
        pytest.skip("the broker is not ours to stop")
    return broker


def test_two_workers_with_the_same_run(workers: Workers, client: Celery, broker: Broker) -> None:
    """One does it; what the other one's message says is of no importance."""
    fill(ROWS)
    for _ in range(2):
        workers.start(APP)
    sent = [client.send_task("slow count", kwargs={"run": "wanted by many"}) for _ in range(4)]
    assert wait_until(is_done, PATIENCE)
    assert_once(ROWS)
    reasons = sorted(each.get(timeout=PATIENCE)["reason"] for each in sent)
    assert reasons.count("done") >= 1
    assert set(reasons) <= {"done", "taken"}
    assert wait_until(lambda: broker.queued() + broker.unacknowledged() == 0, PATIENCE)


STRANGE = [
    ("'; DROP TABLE app_item; --", {}),
    ("Läufe für „Kunden“ 🐘 %s {0} \\", {"note": "%(x)s"}),
    ("x" * 200, {"note": "ä" * 10_000}),
    ("7", {"note": {"a": [1, None, True, {"b": 1.5}]}}),
]


@pytest.mark.parametrize(("name", "more"), STRANGE, ids=["sql", "letters", "long", "nested"])
def test_strange_names_and_arguments(
    workers: Workers, client: Celery, name: str, more: dict[str, Any], observer: psycopg.Connection[Any]
) -> None:
    """Also when the run is sent again, out of what its row says."""
    fill(ROWS)
    worker = workers.start(APP)
    client.send_task("slow count", kwargs={"run": name, **more})
    assert wait_until(lambda: batches() > 3, PATIENCE)
    worker.remove()
    client.control.purge()
    workers.start(APP)
    assert wait_until(is_done, PATIENCE), BatchRun.objects.values()
    assert_once(ROWS)
    assert BatchRun.objects.get().name == name


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b", 7, None, ["a"]], ids=repr)
def test_impossible_names(workers: Workers, client: Celery, name: object) -> None:
    fill(20)
    workers.start(APP, pool="solo")
    result = client.send_task("slow count", kwargs={"run": name})
    if name is None:
        assert result.get(timeout=PATIENCE)["reason"] == "done"
        return
    with pytest.raises((TypeError, ValueError), match="name"):
        result.get(timeout=PATIENCE)
    assert not BatchRun.objects.exists()


def test_deleted_run(workers: Workers, client: Celery) -> None:
    """Its runner ends at the next batch; its message begins nothing anew."""
    fill(ROWS)
    worker = workers.start(APP)
    client.send_task("slow count", kwargs={"run": "deleted"})
    assert wait_until(lambda: batches() > 3, PATIENCE)
    BatchRun.objects.all().delete()
    assert wait_until(lambda: "deleted while it ran" in worker.log(), PATIENCE)
    assert not wait_until(BatchRun.objects.exists, 8), "somebody has begun it again"
