"""
kill -9, at random instants, of what a long job needs: the worker's child, its main process, the server. A round is one
kill; a run of 20,000 rows goes through several, and is then left in peace. Each row must have been done once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from django.core.management import call_command
from django.db import connections

from testproject.postgres import EmbeddedServer
from tests.faults.conftest import MakeDatabase
from tests.fixtures.broker import Broker, running_broker, use_broker
from tests.fixtures.celery_workers import CeleryWorker, Workers
from tests.fixtures.chaos import Chaos

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

APP = "tests.fixtures.batch_app"
ROWS = 20_000
MakeChaos = Callable[[str], Chaos]


@pytest.fixture
def broker() -> Iterator[Broker]:
    with running_broker(visibility=5) as broker:
        yield broker


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """What it says is committed is there after it was killed, as elsewhere."""
    with EmbeddedServer({"synchronous_commit": "on"}) as server:
        yield server


@pytest.fixture
def make_chaos(
    server: EmbeddedServer, make_database: MakeDatabase, workers: Workers, broker: Broker
) -> Iterator[MakeChaos]:
    database = make_database(server)
    call_command("migrate", database=database.alias, run_syncdb=True, verbosity=0)
    database.connection.close()
    with server.connect() as connection:
        connection.execute("TRUNCATE app_item, app_log, django_dbpool_batchrun CASCADE")
    client = use_broker(Celery("client", set_as_current=False), broker.environment)

    def start() -> CeleryWorker:
        return workers.start(APP, concurrency=4, server=server)

    yield lambda task: Chaos(
        server,
        client,
        start,
        lambda run: client.send_task(task, kwargs={"run": run}),
        seed=time.time_ns() % 100_000,
        rows=ROWS,
    )
    connections[database.alias].close_pool()


@pytest.mark.parametrize(
    ("task", "kills", "per_run"),
    [
        pytest.param("count", 20, 7, marks=pytest.mark.ci),
        pytest.param("count in parts", 6, 6, marks=pytest.mark.ci),
        pytest.param("count", 100, 10, marks=pytest.mark.soak),
        pytest.param("count in parts", 100, 10, marks=pytest.mark.soak),
    ],
)
def test_kills(make_chaos: MakeChaos, task: str, kills: int, per_run: int) -> None:
    chaos = make_chaos(task)
    try:
        chaos.rounds(kills, per_run)
    finally:
        print(chaos.figures)
