"""A shutdown under load, seen from both ends: what was answered, and what is in the table."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from django.core.signals import request_finished, request_started
from django.db import connections, transaction

import django_dbpool
from django_dbpool.errors import ShuttingDown
from django_dbpool.pool import stopping
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

CLIENTS = 16
PARTS = 3


@pytest.fixture(autouse=True)
def _resumed() -> Iterator[None]:
    yield
    stopping.resume()


class Client:
    """One request after the other in a thread; each writes several times, in a commit hook too, and is answered."""

    def __init__(self, database: Database, table: str, number: int) -> None:
        self.database, self.table, self.number = database, table, number
        self.answered: list[str] = []
        self.refused: list[str] = []
        self.task = Task(self._run)

    def _run(self) -> None:
        for number in itertools.count():
            key = f"{self.number}-{number}"
            request_started.send(sender=None, environ={"REQUEST_METHOD": "POST", "PATH_INFO": f"/{key}/"})
            try:
                self._request(key)
                self.answered.append(key)
            except ShuttingDown:
                self.refused.append(key)
                return
            finally:
                request_finished.send(sender=None)
                connections[self.database.alias].close()

    def _request(self, key: str) -> None:
        alias = self.database.alias
        for _ in range(PARTS - 1):
            with transaction.atomic(using=alias):
                self._insert(key)
        with transaction.atomic(using=alias):
            transaction.on_commit(lambda: self._insert(key), using=alias)

    def _insert(self, key: str) -> None:
        with connections[self.database.alias].cursor() as cursor:
            cursor.execute(f"INSERT INTO {self.table} SELECT %s FROM pg_sleep(0.001)", [key])


@pytest.mark.parametrize("callers", [1, 4])
def test_all_or_nothing(make_database: MakeDatabase, table: str, callers: int) -> None:
    """Whatever had begun is complete, whatever was refused has done nothing, and it takes no longer than that."""
    database = make_database(max_size=4, timeout=PATIENCE)
    clients = [Client(database, table, number) for number in range(CLIENTS)]
    assert wait_until(lambda: all(len(client.answered) > 3 for client in clients), PATIENCE)
    results = [task.result() for task in [Task(django_dbpool.shutdown, PATIENCE) for _ in range(callers)]]
    assert all(result.clean for result in results)
    for client in clients:
        client.task.result()
    rows = dict(database.observer.execute(f"SELECT key, count(*) FROM {table} GROUP BY key").fetchall())
    answered = {key for client in clients for key in client.answered}
    refused = {key for client in clients for key in client.refused}
    assert rows == dict.fromkeys(answered, PARTS)
    assert len(refused) == CLIENTS
    assert wait_until(lambda: not database.backends(), PATIENCE)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dbpool-fill")]
