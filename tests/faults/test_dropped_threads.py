"""Threads that end without closing anything lose no slot, keep no work they did not commit, and double none."""

from __future__ import annotations

import _thread
import gc
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connections, transaction

from django_dbpool.backends.acquiring import AcquiringMixin
from django_dbpool.backends.guard import ThreadGuard
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

RECLAIMED = "reclaimed the lease of a holder that is gone"
THREADS = 1000

# psycopg's reproach to the threads of this module, and deserved.
pytestmark = pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")


class Dropping:
    """What a thread leaves open when it ends; every other one outlives its thread in ``kept``."""

    def __init__(self, database: Database, table: str) -> None:
        self.database = database
        self.table = table
        self.kept: list[Any] = []

    def keep_some(self, number: int, thing: Any) -> None:
        if number % 2:
            self.kept.append(thing)

    def client_cursor(self, number: int) -> None:
        cursor = self.database.connection.cursor()
        cursor.execute("SELECT generate_series(1, 3)")
        assert cursor.fetchone() == (1,)
        self.keep_some(number, cursor)

    def server_side_cursor(self, number: int) -> None:
        cursor = self.database.connection.chunked_cursor()
        cursor.execute("SELECT generate_series(1, 3000)")
        assert cursor.fetchone() == (1,)
        self.keep_some(number, cursor)

    def uncommitted_insert(self, number: int) -> None:
        block = transaction.atomic(using=self.database.alias)
        block.__enter__()
        self.insert(f"uncommitted {number}")
        self.keep_some(number, block)

    def pinned(self, number: int) -> None:
        with self.database.connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '54321s'")

    def insert(self, key: str) -> None:
        with self.database.connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {self.table} VALUES (%s)", [key])

    def kinds(self) -> tuple[Callable[[int], None], ...]:
        return self.client_cursor, self.server_side_cursor, self.uncommitted_insert, self.pinned


@pytest.fixture(params=["transaction", "session"])
def dropping(request: pytest.FixtureRequest, make_database: MakeDatabase, table: str) -> Iterator[Dropping]:
    yield Dropping(make_database(mode=request.param, max_size=8, timeout=60), table)
    gc.collect()


def test_thousand_threads(dropping: Dropping) -> None:
    """A quarter of them each leaves a client cursor, a server-side cursor, an INSERT, a pin: all are served."""
    database = dropping.database

    def work(number: int, leave_open: Callable[[int], None]) -> None:
        if leave_open != dropping.uncommitted_insert:
            dropping.insert(f"committed {number}")
        leave_open(number)

    tasks = [
        Task(work, number, kind)
        for number, kind in zip(range(THREADS), itertools.cycle(dropping.kinds()), strict=False)
    ]
    for task in tasks:
        task.result(timeout=60)
    database.assert_whole()
    assert len(dropping.kept) == THREADS // 2 - THREADS // 4  # odd numbers: all but pins, which leave no object
    rows = database.observer.execute(f"SELECT key, count(*) FROM {dropping.table} GROUP BY key")
    assert dict(rows.fetchall()) == {f"committed {n}": 1 for n in range(THREADS) if n % 4 != 2}
    assert database.serve_at_once(8) == database.backends()
    assert foreign_settings(database, 8) == {"0"}


def foreign_settings(database: Database, count: int) -> set[str]:
    """statement_timeout as all connections of the pool have it."""
    together = threading.Barrier(count)

    def look() -> str:
        with transaction.atomic(using=database.alias):
            found = database.fetch("SELECT current_setting('statement_timeout')")
            together.wait(PATIENCE)
        return str(found)

    return {task.result() for task in [Task(look) for _ in range(count)]}


@pytest.mark.parametrize("kind", ["client_cursor", "server_side_cursor", "uncommitted_insert", "pinned"])
def test_lease_ends_with_its_thread(dropping: Dropping, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """At once, without anybody waiting for the slot; what was held is logged with its holder's thread."""
    caplog.set_level(logging.WARNING, logger="django_dbpool.pool")
    database = dropping.database

    def leave_open() -> str:
        getattr(dropping, kind)(1)
        held = database.pool.snapshot().in_use
        return f"{threading.current_thread().name}/{held}"

    name, held = Task(leave_open).result().split("/")
    holds = kind != "client_cursor" or database.pool.config.mode == "session"
    assert held == str(int(holds))
    database.settle()
    messages = [record.getMessage() for record in caplog.records if database.alias in record.getMessage()]
    reclaimed = [message for message in messages if RECLAIMED in message]
    assert len(reclaimed) == int(holds)
    if holds:
        assert repr(name) in reclaimed[0]
    clean = kind == "client_cursor"
    assert wait_until(lambda: len(database.backends()) == int(clean), PATIENCE)  # anything else is closed


def test_thread_that_threading_does_not_know(dropping: Dropping) -> None:
    """A thread of the _thread module, or of a C library, is reclaimed as any other."""
    done = threading.Event()

    def work() -> None:
        try:
            dropping.uncommitted_insert(1)
        finally:
            done.set()

    for _ in range(10):
        done.clear()
        _thread.start_new_thread(work, ())
        assert done.wait(PATIENCE)
    dropping.database.assert_whole()


def test_executor_threads(dropping: Dropping) -> None:
    """Leases of an executor's threads end with the executor."""
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(dropping.uncommitted_insert, range(8)))
    dropping.database.assert_whole()


def test_wrapper_dropped_by_a_living_thread(dropping: Dropping) -> None:
    """A copy of a wrapper that is collected without close() gives its lease back, though its thread lives."""
    database = dropping.database
    for _ in range(3):
        copied = database.connection.copy()
        copied.set_autocommit(False)
        with copied.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert database.pool.snapshot().in_use == 1
        del copied, cursor
        gc.collect()
        database.settle()
    database.assert_whole()


def test_waiters_find_dead_holders(dropping: Dropping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should no destructor have run, those who wait look whether the holders' threads still live."""
    database = dropping.database
    monkeypatch.delattr(ThreadGuard, "__del__")
    monkeypatch.delattr(AcquiringMixin, "__del__")
    for task in [Task(dropping.uncommitted_insert, number) for number in range(8)]:
        task.result()
    assert database.pool.snapshot().in_use == 8
    monkeypatch.undo()
    database.serve_at_once(8)
    database.assert_whole()


def test_shared_wrapper_outlives_the_threads_that_used_it(dropping: Dropping) -> None:
    """inc_thread_sharing(): the lease belongs to the wrapper, not to whichever thread used it first."""
    connection = dropping.database.connection
    connection.inc_thread_sharing()
    alias = connection.alias
    try:

        def use() -> int:
            connections[alias] = connection
            return dropping.database.backend()

        first = Task(use).result()
        dropping.database.pool.housekeeping.reclaim_lost()
        assert Task(use).result() == first
        assert dropping.database.backend() == first
        assert dropping.database.pool.snapshot().in_use == 1
    finally:
        connection.dec_thread_sharing()
        connection.close()
    dropping.database.assert_whole()


def test_a_log_that_is_broken_costs_no_slot(make_database: MakeDatabase, break_log: Callable[[str], None]) -> None:
    """Twice as many as there are: neither the lease nor the thread that takes leases back is lost."""
    database = make_database(max_size=1)
    break_log("django_dbpool.pool")

    def drop() -> None:
        transaction.set_autocommit(False, using=database.alias)
        database.backend()

    for _ in range(2):
        thread = threading.Thread(target=drop)
        thread.start()
        thread.join(PATIENCE)
        assert wait_until(lambda: not database.pool.snapshot().in_use, PATIENCE)
