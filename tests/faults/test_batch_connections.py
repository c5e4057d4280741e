"""How many connections a worker opens, as the server counts them: one for each child, however many tasks it has."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from celery import Celery
from psycopg import sql

from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.broker import Broker, use_broker
from tests.fixtures.celery_workers import PATIENCE, Workers, at_database, opened_sessions

pytestmark = [pytest.mark.ci, pytest.mark.django_db]

APP = "tests.fixtures.batch_app"
CHILDREN = 8
TASKS = 200
"""Of each child."""


@pytest.fixture
def database(session_server: Server) -> Iterator[Server]:
    """A database that nobody else uses, empty."""
    name = f"connections_{secrets.token_hex(4)}"
    with session_server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield at_database(session_server, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def opened_by_tasks(workers: Workers, broker: Broker, database: Server, **environment: str) -> tuple[int, int]:
    """
    Returns:
        Connections opened, and how many children had a part in it.
    """
    client = use_broker(Celery("client", set_as_current=False), broker.environment)
    with database.connect(dbname="postgres") as observer:
        before = opened_sessions(observer, database.dbname)
        worker = workers.start(APP, concurrency=CHILDREN, server=database, environment=environment)
        began = time.monotonic()
        results = [client.send_task("who") for _ in range(CHILDREN * TASKS)]
        answers = [result.get(timeout=5 * PATIENCE) for result in results]
        took = time.monotonic() - began
        worker.remove()
        # Sessions are counted when they have something to report, at the latest when they end.
        assert wait_until(lambda: not worker.sessions(observer), PATIENCE)
        opened = opened_sessions(observer, database.dbname) - before
    shares = Counter(answer["process"] for answer in answers)
    backends = len({answer["backend"] for answer in answers})
    print(
        f"{environment or 'dbpool'}: {len(answers)} tasks of {len(shares)} children in {took:.1f} s "
        f"on {backends} backends, {opened} connections opened"
    )
    assert len(answers) == CHILDREN * TASKS
    return opened, len(shares)


@pytest.mark.parametrize("key", ["POOL", "OPTIONS"])
def test_one_connection_for_each_child(workers: Workers, broker: Broker, database: Server, key: str) -> None:
    opened, children = opened_by_tasks(workers, broker, database, DBPOOL_TEST_POOL_KEY=key)
    assert children <= opened <= CHILDREN


def test_the_pool_of_django_opens_one_for_each_task(workers: Workers, broker: Broker, database: Server) -> None:
    """Side by side: Celery closes that pool around each task (https://github.com/celery/celery/issues/10554)."""
    settings = "tests.fixtures.stock_celery_settings"
    opened, _ = opened_by_tasks(workers, broker, database, DJANGO_SETTINGS_MODULE=settings)
    assert opened >= CHILDREN * TASKS
