"""A full pool says so in time: who holds what and where, in order of arrival, counting nobody who has left."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from time import monotonic
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import OperationalError, transaction
from django.test import override_settings
from psycopg_pool import PoolTimeout, TooManyRequests

from django_dbpool.errors import PoolExhausted
from testproject.processes import wait_until
from tests.faults import urls
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

PASSWORD = "s3cret-Parole"
SITE = override_settings(ROOT_URLCONF="tests.faults.urls", ALLOWED_HOSTS=["*"])


def exhausted(database: Database) -> PoolExhausted:
    with pytest.raises(PoolExhausted) as caught:
        database.backend()
    return caught.value


def start_response(*started: Any) -> Callable[[bytes], object]:
    return len


@contextmanager
def requests_that_hold(database: Database, count: int) -> Iterator[list[str]]:
    """``count`` requests through the WSGI handler, each inside a transaction; gives their threads' names."""
    handler = WSGIHandler()

    def serve(number: int) -> bytes:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": f"/hold/{number}/",
            "QUERY_STRING": f"alias={database.alias}",
            "SERVER_NAME": "testserver",
            "SERVER_PORT": "80",
            "wsgi.input": BytesIO(),
            "wsgi.url_scheme": "http",
        }
        response = handler(environ, start_response)
        body = b"".join(response)
        response.close()
        return body

    urls.gate.clear()
    tasks = [Task(serve, number) for number in range(count)]
    try:
        for _ in tasks:
            assert urls.arrived.acquire(timeout=PATIENCE)
        yield [task.name for task in tasks]
    finally:
        urls.gate.set()
        for task in tasks:
            assert b"backend" in task.result()


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_names_every_holder(make_database: MakeDatabase, mode: str) -> None:
    """By thread, request and route, with its age, its backend and the line of its code."""
    database = make_database(mode=mode, max_size=3, timeout=0.2, PASSWORD=PASSWORD)
    with SITE, requests_that_hold(database, 3) as threads:
        start = monotonic()
        error = exhausted(database)
        waited = monotonic() - start
        backends = database.backends()
    assert isinstance(error, OperationalError)
    assert 0.2 <= error.waited <= waited
    assert (error.alias, error.in_use, error.max_size, error.waiting) == (database.alias, 3, 3, 0)
    assert {holder.thread for holder in error.holders} == set(threads)
    assert {holder.unit for holder in error.holders} == {"GET /hold/<int:number>/"}
    assert {holder.backend_pid for holder in error.holders} == backends
    assert all(holder.state == "idle in transaction" for holder in error.holders)
    assert all(0.2 <= holder.since_seconds < PATIENCE for holder in error.holders)
    for holder in error.holders:
        assert str(holder) in str(error)
        assert any("in wait_for_the_test_to_go_on: gate.wait(60)" in line for line in holder.stack)
        assert "gate.wait" not in str(error)
    assert error.cycle == ()
    assert PASSWORD not in f"{error!r} {vars(error)!r}"
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (PoolExhausted, str(error), vars(error))
    database.assert_whole()


def test_pinned_holder_says_why(make_database: MakeDatabase) -> None:
    """The reason of the pin is part of the holder's line."""
    database = make_database(max_size=1, timeout=0.3)
    database.fetch("SELECT pg_advisory_lock(17)")
    error = Task(exhausted, database).result()
    (holder,) = error.holders
    assert holder.pinned is not None
    assert "pg_advisory_lock" in holder.pinned
    assert holder.pinned in str(error)
    assert holder.state == "idle"
    assert holder.unit is None
    database.connection.close()
    database.assert_whole()


def test_queue_limit_counts_only_those_who_wait(make_database: MakeDatabase) -> None:
    """After many have given up the next may still wait; one more than the limit is refused without waiting."""
    database = make_database(max_size=1, max_waiting=2, timeout=PATIENCE)
    with database.holding():
        for _ in range(10):
            with pytest.raises(PoolTimeout):
                database.pool.getconn(timeout=0.005)
        with waiting(database, database.backend, 2) as tasks:
            start = monotonic()
            error = exhausted(database)
            assert monotonic() - start < PATIENCE / 3
            assert error.waiting == 2
            assert len(error.holders) == 1
            with pytest.raises(TooManyRequests):
                database.pool.getconn()
    assert all(task.result() for task in tasks)
    database.assert_whole()


def is_long(database: Database, count: int) -> bool:
    """Whether the queue is of this length."""
    return database.pool.gate.waiting == count


@contextmanager
def waiting(database: Database, call: Callable[[], Any], count: int) -> Iterator[list[Task]]:
    """Have ``count`` threads queued, one after the other; they are served after the block of the holder."""
    before = database.pool.gate.waiting
    tasks = []
    for number in range(1, count + 1):
        tasks.append(Task(call))
        assert wait_until(partial(is_long, database, before + number), PATIENCE)
    yield tasks


def test_first_come_first_served(make_database: MakeDatabase) -> None:
    """Twenty callers of a pool of one are served in the order of their arrival."""
    database = make_database(max_size=1)
    order: list[str] = []

    def use() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            order.append(threading.current_thread().name)

    with database.holding(), waiting(database, use, 20) as tasks:
        pass
    for task in tasks:
        task.result()
    assert order == [task.name for task in tasks]


def test_who_releases_and_asks_again_queues_up(make_database: MakeDatabase) -> None:
    """The thread that just had the connection does not take it from under those who wait."""
    database = make_database(max_size=1)
    order: list[str] = []

    def use(name: str) -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            order.append(name)

    for _ in range(10):
        with transaction.atomic(using=database.alias):
            database.backend()
            with waiting(database, lambda: use("waited"), 2) as tasks:
                pass
        use("released and came back")
        for task in tasks:
            task.result()
    assert order == ["waited", "waited", "released and came back"] * 10


def test_commit_hooks_go_first(make_database: MakeDatabase) -> None:
    """A hook finishes work that others wait for: it is served before those who came earlier."""
    database = make_database(max_size=1)
    order: list[str] = []

    def ordinary() -> None:
        database.backend()
        order.append("ordinary")

    def hook() -> None:
        database.backend()
        order.append("hook")

    with ExitStack() as stack, transaction.atomic(using=database.alias):
        transaction.on_commit(hook, using=database.alias)
        database.backend()
        tasks = stack.enter_context(waiting(database, ordinary, 5))
        # The first ordinary caller got the connection in the moment of the commit.
    for task in tasks:
        task.result()
    assert order.index("hook") <= 1


def test_deadline_of_each_caller_is_its_own(make_database: MakeDatabase) -> None:
    """One who came later with less patience leaves earlier, and the others keep their places."""
    database = make_database(max_size=1)
    with database.holding():
        first = Task(database.backend)
        assert wait_until(lambda: database.pool.gate.waiting == 1, PATIENCE)
        with pytest.raises(PoolTimeout):
            database.pool.getconn(timeout=0.01)
        assert database.pool.gate.waiting == 1
    assert first.result()
    database.assert_whole()
