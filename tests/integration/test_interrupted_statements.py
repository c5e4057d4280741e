"""An exception out of nowhere while the server works for us: it stops, and neither slot nor cursor is left behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.pool.measures import measures
from testproject.processes import wait_until
from tests.app.models import Item, Log
from tests.fixtures.pools import execute, in_use, value
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
NAP = "pg_sleep(600)"
SLEEPING = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"


class TimeLimit(BaseException):
    """As a soft time limit or a greenlet's exit: not an Exception."""


@pytest.fixture(params=[TimeLimit, KeyboardInterrupt])
def error(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What SIGUSR1 raises in the main thread, which is the test's."""

    def strike(*_: object) -> None:
        raise request.param

    before = signal.signal(signal.SIGUSR1, strike)
    yield request.param
    signal.signal(signal.SIGUSR1, before)


@contextmanager
def struck_while_sleeping(observer: Observer) -> Iterator[None]:
    """Send the signal once the server sleeps in one of our statements; it has to sleep no more soon after."""

    def sleeping() -> bool:
        row = observer.execute(SLEEPING, [f"%{NAP}%"]).fetchone()
        return row is not None and row[0] > 0

    def strike() -> None:
        if wait_until(sleeping, PATIENCE):
            os.kill(os.getpid(), signal.SIGUSR1)

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        yield
    finally:
        striker.join()
        assert wait_until(lambda: not sleeping(), PATIENCE)


def origin(error: BaseException) -> BaseException:
    """The first of the exceptions in whose handling the others were raised."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def statement(alias: str) -> None:
    execute(alias, f"SELECT {NAP}")


def in_atomic(alias: str) -> None:
    with transaction.atomic(using=alias):
        Log.objects.using(alias).create(key="lost")
        statement(alias)


def in_savepoint(alias: str) -> None:
    with transaction.atomic(using=alias):
        Log.objects.using(alias).create(key="lost")
        with transaction.atomic(using=alias):
            statement(alias)


def manually(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    Log.objects.using(alias).create(key="lost")
    statement(alias)


def server_side(alias: str) -> None:
    with connections[alias].chunked_cursor() as cursor:
        cursor.execute(f"SELECT n, CASE WHEN n > 3 THEN {NAP} END FROM app_item ORDER BY n")
        while cursor.fetchmany(2):
            pass


def copied(alias: str) -> None:
    query = f"COPY (SELECT n, {NAP} FROM app_item WHERE n > 3) TO STDOUT"
    with connections[alias].cursor() as cursor, cursor.copy(query) as copy:
        list(copy)


def streamed(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        list(cursor.stream(f"SELECT n, {NAP} FROM app_item WHERE n > 3"))


def many(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.executemany(f"SELECT %s, {NAP}", [(1,), (2,)])


def in_commit_hook(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        transaction.on_commit(lambda: statement(alias), using=alias)


@pytest.mark.parametrize(
    "work", [statement, in_atomic, in_savepoint, manually, server_side, copied, streamed, many, in_commit_hook]
)
def test_query_stops_and_slot_returns(
    single: str, worker: Worker, observer: Observer, error: type[BaseException], work: Callable[[str], None]
) -> None:
    """Nothing of the work is kept, the thread goes on, and the only slot of the pool serves a neighbour."""
    Item.objects.bulk_create(Item(name=str(n), n=n) for n in range(6))
    with pytest.raises((error, OperationalError)) as raised, struck_while_sleeping(observer):
        work(single)
    # psycopg's executemany() leaves its pipeline with an error of its own about the exception that came in between.
    assert raised.type is error or (work is many and isinstance(origin(raised.value), error))
    connections[single].close()
    assert in_use(single) == 0
    assert worker(value, single, "SELECT count(*) FROM pg_cursors WHERE is_holdable") == 0
    assert worker(Log.objects.using(single).count) == 0
    with transaction.atomic(using=single):
        Log.objects.using(single).create(key="kept")
    assert worker(Log.objects.using(single).count) == 1


def test_autocommit_statement_needs_no_end_of_unit(
    single: str, worker: Worker, observer: Observer, error: type[BaseException]
) -> None:
    """Right after the exception, before any close(), the slot is free."""
    with pytest.raises(error), struck_while_sleeping(observer):
        statement(single)
    assert in_use(single) == 0
    assert worker(value, single, "SELECT 1") == 1


@pytest.mark.parametrize("work", [statement, in_atomic])
def test_interrupted_lease_is_counted(
    single: str, observer: Observer, error: type[BaseException], work: Callable[[str], None]
) -> None:
    """It ends after its connection was closed; also one that was waited for."""
    for end in (lambda: None, connections[single].close_pool):
        execute(single, "SELECT 1")
        end()
        (before,) = (each for each in measures() if each.alias == single)
        with pytest.raises((error, OperationalError)), struck_while_sleeping(observer):
            work(single)
        (after,) = (each for each in measures() if each.alias == single)
        assert after.leases == before.leases + 1
        assert after.wait.count == before.wait.count + 1
        assert min(after.wait.since(before.wait).counts) == 0
        assert max(after.use.since(before.use).counts) == 1


def test_interrupted_in_session_mode(
    make_pool: Callable[..., str], worker: Worker, observer: Observer, error: type[BaseException]
) -> None:
    """The unit goes on working until it ends, and then its slot is free."""
    alias = make_pool(mode="session")
    with pytest.raises(error), struck_while_sleeping(observer):
        statement(alias)
    connections[alias].close_if_unusable_or_obsolete()
    assert in_use(alias) == 0
    assert worker(value, alias, "SELECT 1") == 1
