"""Publishing while something is wrong: nobody waits for it, and it is back when its store is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.test import override_settings

from django_dbpool.fleet import processes, publisher, table
from django_dbpool.fleet.publisher import IDLE_AFTER, Publisher
from django_dbpool.fleet.table import TableStore
from django_dbpool.models import PublishedProcess
from django_dbpool.pool import stopping
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Clock, Database, Task

MakePublisher = Callable[..., Publisher]
INTERVAL = 5.0


@pytest.fixture
def fleet(make_database: MakeDatabase, server: EmbeddedServer) -> Iterator[Database]:
    """A database on a server of the module's own, with the table, named in DBPOOL."""
    database = make_database(server, max_size=2, retry={"total": 1.0}, breaker=True)
    with server.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS django_dbpool_process")
    with database.connection.schema_editor() as editor:
        editor.create_model(PublishedProcess)
        editor.execute("ALTER TABLE django_dbpool_process SET UNLOGGED")
    with server.connect() as connection:
        connection.execute("CHECKPOINT")  # with synchronous_commit off a crash would take the table along
    settings = {"FLEET": {"using": database.alias, "interval": INTERVAL}}
    with override_settings(DBPOOL=settings):
        yield database
    publisher.end()


@pytest.fixture
def make_publisher(fleet: Database) -> Iterator[MakePublisher]:
    made: list[Publisher] = []

    def make(store: Any = None, clock: Callable[[], float] = time.monotonic) -> Publisher:
        made.append(Publisher(store or TableStore(fleet.alias), interval=INTERVAL, expire=30, clock=clock))
        made[-1]._began = -1e9  # longer ago than a short command lasts
        return made[-1]

    yield make
    for each in made:
        each.close()


def published(mine: Publisher) -> bool:
    """Take one snapshot; whether the store has it."""
    before = mine.published
    mine.tick()
    assert mine.wait(PATIENCE)
    return mine.published > before


def test_a_server_that_is_down_and_comes_back(
    fleet: Database, make_publisher: MakePublisher, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="django_dbpool.fleet")
    mine = make_publisher()
    fleet.backend()
    assert published(mine)
    server.stop("immediate")
    assert not published(mine)
    assert not published(mine)
    server.start()
    assert wait_until(lambda: published(mine), PATIENCE)
    assert published(mine)
    # Unlogged: the crash has emptied the table, and the process is there again all the same.
    (process,) = processes()
    assert process.document["missed"]["snapshots"] == 0
    assert len(process.document["series"]["ago"]) >= 1
    lines = [record.getMessage() for record in caplog.records if record.name == "django_dbpool.fleet"]
    assert len(lines) == 2, lines
    assert "nothing can be published" in lines[0]
    assert "published again after" in lines[1]


def test_a_frozen_server_keeps_nobody_waiting(
    fleet: Database, make_publisher: MakePublisher, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "PATIENCE", 0.5)
    mine = make_publisher()
    fleet.backend()
    assert published(mine)
    server.freeze()
    try:
        start = time.monotonic()
        for _ in range(100):
            mine.tick()
        assert time.monotonic() - start < 20, "a snapshot is memory alone: else each would take half a second"
        assert mine.wait(PATIENCE), "and its thread gives up"
    finally:
        server.thaw()
    assert wait_until(lambda: published(mine), PATIENCE)


def test_its_backend_is_killed_while_it_publishes(fleet: Database, make_publisher: MakePublisher) -> None:
    mine = make_publisher()
    assert not mine.published
    with fleet.observer.transaction():
        fleet.observer.execute("LOCK TABLE django_dbpool_process IN ACCESS EXCLUSIVE MODE")
        fleet.backend()
        mine.tick()
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        assert wait_until(lambda: bool(fleet.observer.execute(waiting).fetchall()) or mine.wait(0), PATIENCE)
        assert mine.wait(PATIENCE)
    assert not mine.published
    assert wait_until(lambda: published(mine), PATIENCE)
    fleet.assert_whole()


class Slow:
    """A store that takes its time, and then raises."""

    description = "a store of the test"

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.documents: list[str] = []

    def put(self, instance: str, document: str, *, delay: float, expire: float) -> None:
        self.documents.append(document)
        self.entered.set()
        self.go_on.wait(PATIENCE)
        raise RuntimeError("redis://user:secret@cache")

    def read(self, longest: int, most: int) -> list[Any]:
        return []

    def close(self) -> None: ...


def test_a_store_that_blocks_and_raises_is_nobodys_business(
    fleet: Database, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    slow = Slow()
    mine = make_publisher(slow)
    mine.tick()
    assert slow.entered.wait(PATIENCE)
    for _ in range(10):
        mine.tick()
        fleet.backend()
    slow.go_on.set()
    assert mine.wait(PATIENCE)
    assert len(slow.documents) == 2, "only the latest state is sent"
    assert "secret" not in caplog.text


def test_an_exhausted_pool_is_told_through_the_reserve(fleet: Database, make_publisher: MakePublisher) -> None:
    mine = make_publisher()
    with fleet.holding(2) as held:
        waiting = Task(fleet.backend)
        assert wait_until(lambda: fleet.pool.snapshot().waiting == 1, PATIENCE)
        assert published(mine)
        (process,) = processes()
        (pool,) = [each for each in process.pools if each.snapshot.alias == fleet.alias]
        assert (pool.snapshot.in_use, pool.snapshot.waiting) == (2, 1)
        assert {holder.backend_pid for holder in process.holders} == set(held)
    waiting.result()


def test_an_idle_process_says_so_once_and_is_silent(fleet: Database, make_publisher: MakePublisher) -> None:
    """What it leases to say so doesn't count as work."""
    clock = Clock()
    mine = make_publisher(clock=clock)
    fleet.backend()
    for _ in range(int(2 * IDLE_AFTER / INTERVAL)):
        clock.advance(INTERVAL)
        mine.tick()
        assert mine.wait(PATIENCE)
    sent = mine.published
    assert sent == IDLE_AFTER / INTERVAL + 1
    (process,) = processes()
    assert process.state == "idle"
    fleet.backend()
    assert published(mine)
    assert processes()[0].state == "active"


def test_publishing_that_takes_long_is_no_work(
    fleet: Database, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the lease that is out for it."""
    for limit in ("PATIENCE", "STATEMENT_TIMEOUT", "LOCK_TIMEOUT"):
        monkeypatch.setattr(table, limit, PATIENCE if limit == "PATIENCE" else 1000 * int(PATIENCE))
    clock = Clock()
    mine = make_publisher(clock=clock)
    fleet.backend()
    assert published(mine)
    with fleet.observer.transaction():
        fleet.observer.execute("LOCK TABLE django_dbpool_process IN ACCESS EXCLUSIVE MODE")
        mine.tick()
        assert wait_until(lambda: fleet.pool.snapshot().in_use == 1, PATIENCE)
        for _ in range(int(IDLE_AFTER / INTERVAL)):
            clock.advance(INTERVAL)
            mine.tick()
    assert mine.wait(PATIENCE)
    assert [process.state for process in processes()] == ["idle"]


def test_a_lease_that_lasts_is_work(fleet: Database, make_publisher: MakePublisher) -> None:
    clock = Clock()
    mine = make_publisher(clock=clock)
    with fleet.holding(1):
        for _ in range(20):
            clock.advance(INTERVAL)
            assert published(mine)
    assert processes()[0].state == "active"


def test_a_forked_child_is_a_process_of_its_own(fleet: Database) -> None:
    mine = publisher.publisher()
    assert mine is not None
    mine._began = -1e9
    fleet.backend()
    assert published(mine)

    def body() -> tuple[bool, int]:
        fleet.backend()
        child = publisher.publisher()
        assert child is not None
        assert child is not mine
        child._began = -1e9
        return published(child), len(processes())

    assert Child(body).result() == (True, 2)
    assert published(mine), "the parent's thread and connection are as they were"
    assert len(processes()) == 2


def test_a_shutdown_says_that_it_has_ended(fleet: Database) -> None:
    mine = publisher.publisher()
    assert mine is not None
    mine._began = -1e9
    with transaction.atomic(using=fleet.alias):
        fleet.backend()
        assert published(mine)
    connections[fleet.alias].close()
    try:
        assert stopping.shutdown(10).clean
        assert stopping.announced is not None
        assert not [thread for thread in threading.enumerate() if thread.name == "dbpool-fleet"]
    finally:
        stopping.resume()
    assert processes() == ()
    assert [process.state for process in processes(ended=True)] == ["ended"]
