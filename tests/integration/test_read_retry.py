"""A read of the ORM survives the loss of its connection; nothing else is ever run again."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest
from django.db import Error, InterfaceError, OperationalError, connections, models
from django.db.models import Count, Func, Value
from django.db.transaction import atomic

from django_dbpool.core.ledger import Owner
from django_dbpool.transaction import pin
from testproject.processes import wait_until
from tests.app.models import Item
from tests.fixtures.pools import execute, in_use, rows_of, size
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]


class Wait(Func):
    """Waits in the server until somebody lets go of an advisory lock."""

    function = "dbpool_wait"
    output_field = models.IntegerField()


@pytest.fixture(autouse=True)
def function(observer: Observer) -> Any:
    """Counts its calls in a sequence, which no rollback takes back, and waits for a lock."""
    observer.execute("CREATE SEQUENCE dbpool_calls")
    observer.execute(
        "CREATE FUNCTION dbpool_wait(n int) RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
        " PERFORM nextval('dbpool_calls'); PERFORM pg_advisory_xact_lock_shared(77); RETURN n; END $$"
    )
    yield
    observer.execute("SELECT pg_advisory_unlock_all()")
    observer.execute("DROP FUNCTION dbpool_wait")
    observer.execute("DROP SEQUENCE dbpool_calls")


def calls(observer: Observer) -> int:
    row = observer.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dbpool_calls").fetchone()
    assert row is not None
    return int(row[0])


def kill_waiting(observer: Observer) -> None:
    """End the session that waits in the function."""
    assert observer.execute("SELECT pg_terminate_backend(%s, 5000)", [waiting(observer)]).fetchone() == (True,)


def waiting(observer: Observer) -> int:
    """The backend that waits in the function, as soon as there is one."""
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted"
    assert wait_until(lambda: observer.execute(query).fetchone() is not None, PATIENCE)
    row = observer.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def killed(observer: Observer, worker: Worker, work: Callable[[], Any], times: int = 1) -> Future[Any]:
    """Start work, end its session in the middle so many times, then let it run."""
    observer.execute("SELECT pg_advisory_lock(77)")
    future = worker.start(work)
    for _ in range(times):
        kill_waiting(observer)
    observer.execute("SELECT pg_advisory_unlock(77)")
    return future


@pytest.fixture
def alias(make_pool: MakePool) -> str:
    alias = make_pool()
    Item.objects.using(alias).create(name="a", n=1)
    return alias


READS: dict[str, Callable[[str], Any]] = {
    "list": lambda alias: [item.w for item in Item.objects.using(alias).annotate(w=Wait("n"))],
    "get": lambda alias: [Item.objects.using(alias).annotate(w=Wait("n")).get().w],
    "values_list": lambda alias: list(Item.objects.using(alias).values_list(Wait("n"), flat=True)),
    "exists": lambda alias: [int(Item.objects.using(alias).filter(n=Wait("n")).exists())],
    "count": lambda alias: [Item.objects.using(alias).filter(n=Wait("n")).count()],
    "aggregate": lambda alias: [Item.objects.using(alias).annotate(w=Wait("n")).aggregate(c=Count("w"))["c"]],
    "iterator": lambda alias: [i.w for i in Item.objects.using(alias).annotate(w=Wait("n")).iterator()],
    "subquery": lambda alias: list(
        Item.objects.using(alias)
        .filter(n__in=Item.objects.using(alias).values(w=Wait("n")))
        .values_list("n", flat=True)
    ),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_read_is_repeated(
    make_pool: MakePool, observer: Observer, worker: Worker, read: Callable[[str], Any], mode: str
) -> None:
    alias = make_pool(mode=mode)
    Item.objects.using(alias).create(name="a", n=1)
    connections[alias].close()
    future = killed(observer, worker, lambda: read(alias), times=2)
    assert future.result(PATIENCE) == [1]
    worker(lambda: connections[alias].close())
    assert in_use(alias) == 0


def test_each_repetition_is_logged(
    alias: str, observer: Observer, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "django_dbpool.backends")
    killed(observer, worker, lambda: READS["list"](alias), times=2).result(PATIENCE)
    lines = [record for record in caplog.records if "run again" in record.getMessage()]
    assert [(line.levelno, vars(line)["alias"], vars(line)["attempt"]) for line in lines] == [
        (logging.INFO, alias, 2),
        (logging.INFO, alias, 3),
    ]
    assert {(vars(line)["severity"], vars(line)["sqlstate"]) for line in lines} == {("expected", "57P01")}
    assert "SELECT" not in caplog.text


def insert(alias: str) -> None:
    Item.objects.using(alias).create(name="b", n=Wait(Value(2)))


def update(alias: str) -> None:
    Item.objects.using(alias).update(n=Wait("n"))


def delete(alias: str) -> None:
    Item.objects.using(alias).filter(n=Wait("n"))._raw_delete(alias)


def raw(alias: str) -> None:
    execute(alias, "SELECT dbpool_wait(1)")


def raw_queryset(alias: str) -> None:
    list(Item.objects.using(alias).raw("SELECT *, dbpool_wait(n) AS w FROM app_item"))


def in_atomic(alias: str) -> None:
    with atomic(alias):
        READS["list"](alias)


def by_hand(alias: str) -> None:
    connections[alias].set_autocommit(False)
    try:
        READS["list"](alias)
    finally:
        connections[alias].close()


def pinned(alias: str) -> None:
    with pin(alias):
        READS["list"](alias)


def with_another_iterator(alias: str) -> None:
    """It reads from the connection that is lost."""
    rows = Item.objects.using(alias).iterator()
    next(rows)
    READS["list"](alias)


def same_text_in_a_wrapper(alias: str) -> None:
    """Statements of a wrapper are not the ORM's, be their text a read's."""

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        with connections[alias].cursor() as cursor:
            cursor.cursor.execute("SELECT 1")
        return execute(f"{sql} -- traced", params, many, context)

    with connections[alias].execute_wrapper(wrapper):
        READS["list"](alias)


OTHERS = [
    insert,
    update,
    delete,
    raw,
    raw_queryset,
    in_atomic,
    by_hand,
    pinned,
    with_another_iterator,
    same_text_in_a_wrapper,
]


@pytest.mark.parametrize("work", OTHERS)
def test_nothing_else_is_repeated(alias: str, observer: Observer, worker: Worker, work: Callable[[str], None]) -> None:
    """The error comes out, and the function was called once."""
    future = killed(observer, worker, lambda: work(alias))
    with pytest.raises((OperationalError, InterfaceError)):
        future.result(PATIENCE)
    assert calls(observer) == 1
    assert rows_of(observer, "app_item") == 1
    worker(lambda: connections[alias].close())
    assert worker(execute, alias, "SELECT n FROM app_item") == [(1,)]


def test_wrappers_see_one_statement(alias: str, observer: Observer, worker: Worker) -> None:
    seen: list[str] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    def work() -> Any:
        with connections[alias].execute_wrapper(wrapper):
            return READS["list"](alias)

    assert killed(observer, worker, work).result(PATIENCE) == [1]
    assert (len(seen), calls(observer)) == (1, 2)


@pytest.mark.parametrize(("retry", "ran"), [({"attempts": 2}, 2), ({"attempts": 1}, 1), (False, 1)])
def test_attempts_are_limited(make_pool: MakePool, observer: Observer, worker: Worker, retry: Any, ran: int) -> None:
    alias = make_pool(POOL={"retry": retry})
    Item.objects.using(alias).create(name="a", n=1)
    future = killed(observer, worker, lambda: READS["list"](alias), times=ran)
    with pytest.raises(OperationalError):
        future.result(PATIENCE)
    assert calls(observer) == ran


def test_an_error_of_the_statement_is_not_repeated(alias: str, observer: Observer) -> None:
    class Fail(Func):
        template = "(dbpool_wait(1) / 0)"
        output_field = models.IntegerField()

    with pytest.raises(Error, match="division by zero"):
        list(Item.objects.using(alias).annotate(x=Fail("n")))
    assert calls(observer) == 1


def test_interrupt_is_not_repeated(alias: str, observer: Observer) -> None:
    """A read that somebody stops stays stopped, though its connection is given up."""

    class Stop(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stop

    def strike() -> None:
        with connections["default"].cursor() as cursor:
            query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted"
            wait_until(lambda: cursor.execute(query).fetchone() is not None, PATIENCE)
        connections["default"].close()
        os.kill(os.getpid(), signal.SIGUSR1)

    observer.execute("SELECT pg_advisory_lock(77)")
    before = signal.signal(signal.SIGUSR1, stop)
    striker = threading.Thread(target=strike)
    striker.start()
    try:
        with pytest.raises(Stop):
            READS["list"](alias)
    finally:
        striker.join()
        signal.signal(signal.SIGUSR1, before)
    observer.execute("SELECT pg_advisory_unlock(77)")
    assert calls(observer) == 1
    assert in_use(alias) == 0


def test_the_other_idle_connections_are_looked_at(make_pool: MakePool, observer: Observer, worker: Worker) -> None:
    """One loss is seldom alone: the readable ones go at once."""
    alias = make_pool(size=3)
    Item.objects.using(alias).create(name="a", n=1)
    pool = connections[alias].pool
    entries = [pool.lease(Owner()) for _ in range(3)]
    for entry in entries:
        pool.release(entry, entry.owner)
    observer.execute("SELECT pg_advisory_lock(77)")
    future = worker.start(lambda: READS["list"](alias))
    busy = waiting(observer)
    for entry in entries:
        if entry.backend_pid != busy:
            observer.execute("SELECT pg_terminate_backend(%s, 5000)", [entry.backend_pid])
    kill_waiting(observer)
    observer.execute("SELECT pg_advisory_unlock(77)")
    assert future.result(PATIENCE) == [1]
    assert size(alias) == 1
