"""
A long job whose worker is told to end, or made to, in the middle of a batch, while its query runs on the server: no
query is left there, no row is lost or done twice, and the run goes on.

How long a query may be left is counted from the end of the process for a warm shutdown, which lets the batch at hand
finish, and from the signal, limit or revocation for all else.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from celery import Celery

from django_dbpool.models import BatchCheckpoint, BatchRun
from testproject.processes import wait_until
from tests.fixtures.batches import assert_once, fill
from tests.fixtures.broker import Broker, running_broker, use_broker
from tests.fixtures.celery_workers import PATIENCE, CeleryWorker, Workers

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True)]

APP = "tests.fixtures.batch_app"
ROWS = 200
LONG = 600.0
"""Seconds that a query sleeps which nobody waits for."""
SHORT = 3.0
LEFT = 1.0
"""Seconds after which no query may be left on the server."""
RUN = "a run"


@dataclass
class Case:
    """
    Attributes:
        happens: what is done to the worker, while the query of a batch sleeps.
        nap: seconds that it sleeps.
        ends: the worker ends, and another one has to go on.
        task: whose run it is.
    """

    name: str
    pool: str
    happens: Callable[[Scene], None]
    nap: float = LONG
    ends: bool = True
    task: str = "nap"

    def __str__(self) -> str:
        return f"{self.name}-{self.pool}"


@dataclass
class Scene:
    worker: CeleryWorker
    client: Celery
    observer: psycopg.Connection[Any]
    task: str

    def naps(self) -> int:
        """Queries of this worker that sleep on the server."""
        return sum("pg_sleep" in query for query in self.worker.at_work(self.observer))


def warm(scene: Scene) -> None:
    scene.worker.signal(signal.SIGTERM)
    scene.worker.wait()


def cold(scene: Scene) -> None:
    scene.worker.signal(signal.SIGQUIT)


def limit(scene: Scene) -> None:
    """It comes by itself, and is over when the query is."""
    assert wait_until(lambda: "ime limit" in scene.worker.log(), PATIENCE)


def revoke(scene: Scene) -> None:
    scene.client.control.revoke(scene.task, terminate=True)
    assert wait_until(lambda: "Terminating" in scene.worker.log(), PATIENCE)


CASES = [
    *[Case("warm", pool, warm, nap=SHORT) for pool in ("prefork", "threads", "solo", "gevent")],
    # Not threads: there Celery's own cold shutdown raises NotImplementedError, and waits for the task all the same.
    *[Case("cold", pool, cold) for pool in ("prefork", "solo", "gevent")],
    Case("soft-limit", "prefork", limit, ends=False, task="hasty nap"),
    Case("hard-limit", "prefork", limit, ends=False, task="limited nap"),
    Case("revoked", "prefork", revoke, ends=False),
]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with running_broker(visibility=5) as broker:
        yield broker


@pytest.fixture
def observer(observer: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    observer.execute("SET statement_timeout = 30000")
    observer.execute("CREATE TABLE naps (seconds float)")
    yield observer
    observer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE '%FROM naps%' AND pid <> pg_backend_pid()"
    )
    observer.execute("DROP TABLE naps")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_the_middle_of_a_batch(
    case: Case, workers: Workers, broker: Broker, observer: psycopg.Connection[Any]
) -> None:
    if case.pool == "gevent":
        pytest.importorskip("gevent")
    fill(ROWS)
    observer.execute("INSERT INTO naps VALUES (%s)", [case.nap])
    worker = workers.start(APP, pool=case.pool)
    client = use_broker(Celery("client", set_as_current=False), broker.environment)
    sent = client.send_task(case.task, kwargs={"run": RUN})
    scene = Scene(worker, client, observer, sent.id)
    assert wait_until(lambda: scene.naps() == 1, PATIENCE)
    observer.execute("DELETE FROM naps")  # whoever goes on need not sleep

    case.happens(scene)
    began = time.monotonic()
    gone = wait_until(lambda: scene.naps() == 0, PATIENCE)
    took = time.monotonic() - began
    print(f"{case}: the query was gone {took:.2f} s later")
    assert gone
    assert took < LEFT

    if case.ends:
        worker.wait()
        assert not worker.sessions(observer)
        workers.start(APP, pool=case.pool)
    if case.name == "revoked":
        resume_revoked()
    assert wait_until(lambda: BatchRun.objects.filter(name=RUN, state="done").exists(), PATIENCE)
    assert_once(ROWS)


def resume_revoked() -> None:
    from django_dbpool.batch import resume

    assert wait_until(lambda: BatchCheckpoint.objects.get().reason == "revoked", PATIENCE)
    assert BatchRun.objects.get().state == "open"
    resume(RUN)
