"""A password that changes each second under load, while the server ends connections: no request fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.db import close_old_connections, connections

from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.app.models import Item
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.passwords import Vault, authentications, refusals

THREADS = 8
SECONDS = 8


@pytest.fixture
def rotating(make_database: MakeDatabase, strict_server: EmbeddedServer, vault: Vault) -> Iterator[Database]:
    database = make_database(strict_server, max_size=4, retry=True, breaker=True, **vault.settings())
    columns = "id bigserial PRIMARY KEY, name text"
    database.observer.execute(f"CREATE TABLE {Item._meta.db_table} ({columns})")
    database.observer.execute(f"INSERT INTO {Item._meta.db_table} (name) SELECT 'n' || i FROM generate_series(1, 9) i")
    yield database
    database.observer.execute(f"DROP TABLE {Item._meta.db_table}")


class Load:
    """Threads that serve requests of one ORM read each."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.stop = threading.Event()
        self.requests: list[BaseException | None] = []

    def start(self) -> list[Task]:
        return [Task(self.serve) for _ in range(THREADS)]

    def serve(self) -> None:
        while not self.stop.is_set():
            self.requests.append(self.request())
        connections[self.alias].close()

    def request(self) -> BaseException | None:
        close_old_connections()
        try:
            assert Item.objects.using(self.alias).count() == 9
        except Exception as error:
            return error
        finally:
            close_old_connections()
        return None


def kill(observer: psycopg.Connection[Any], database: Database) -> int:
    """End every connection of the pool and wait until they are gone; how many."""
    rows = observer.execute(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
        [database.application],
    )
    killed = {pid for pid, ended in rows if ended}
    assert wait_until(lambda: not killed & database.backends(), PATIENCE)
    return len(killed)


def test_no_request_fails_while_password_and_connections_go(
    rotating: Database, vault: Vault, strict_server: EmbeddedServer
) -> None:
    load = Load(rotating.alias)
    authenticated, refused = authentications(strict_server), refusals(strict_server)
    tasks = load.start()
    killed = 0
    with closing(strict_server.connect(application_name="killer")) as killer:
        for _ in range(SECONDS):
            time.sleep(1)  # not to wait for anything: this is the rate of the rotation
            vault.rotate()
            killed += kill(killer, rotating)  # whatever it is doing
    load.stop.set()
    for task in tasks:
        task.result()
    failed = [error for error in load.requests if error is not None]
    assert failed == []
    assert len(vault.given) == SECONDS + 1
    assert killed >= SECONDS // 2, "hardly anything was killed: nothing is shown"
    # Each physical connection authenticated once; an attempt that a rotation overtook was refused, then repeated.
    stats = rotating.pool.get_stats()
    count, lost = authentications(strict_server) - authenticated, refusals(strict_server) - refused
    assert (count + lost, lost) == (stats["connections_num"], stats.get("connections_errors", 0))
    assert vault.asked <= count + 2 * lost
    assert killed <= count <= killed + rotating.pool.max_size
    assert count * 5 < len(load.requests), (count, len(load.requests))
