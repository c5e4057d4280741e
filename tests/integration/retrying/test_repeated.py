"""transaction.retrying(): a whole transaction again, whatever committed nothing; and what it says of that."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, connections
from django.db import transaction as djangos
from django.db.models import F

from django_dbpool import transaction
from django_dbpool.errors import PoolExhausted, raised_in_request
from tests.app.models import Item
from tests.fixtures.pools import backend, execute, in_use
from tests.fixtures.workers import Step, Worker
from tests.integration.retrying.work import NOW, ON_TWO, MakePool, Observer, Work, die, fail, keys

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("code", ["40001", "40P01", "53300", "57P03"])
def test_transient_errors_are_repeated(alias: str, observer: Observer, code: str) -> None:
    """Each attempt's own rows go back with it."""
    work = Work(alias, lambda: fail(alias, code), lambda: fail(alias, code))
    assert transaction.retrying(alias, **NOW).call(work, 1, b=2) == ((1,), {"b": 2})
    assert (work.runs, keys(observer)) == (3, ["run 3"])


def test_a_lost_connection_is_repeated(alias: str, observer: Observer) -> None:
    work = Work(alias, lambda: die(alias), lambda: die(alias))
    transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (3, ["run 3"])


def test_a_commit_that_the_server_refuses_is_repeated(alias: str, observer: Observer) -> None:
    def at_commit() -> None:
        execute(alias, "INSERT INTO fails_at_commit VALUES ('40001')")

    work = Work(alias, at_commit, at_commit)
    transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (3, ["run 3"])


@ON_TWO
@pytest.mark.parametrize("code", ["23505", "57014", "08P01"])
def test_other_errors_are_not(alias: str, observer: Observer, code: str) -> None:
    work = Work(alias, lambda: fail(alias, code))
    with pytest.raises(DatabaseError) as raised:
        transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, [])
    assert not getattr(raised.value, "__notes__", [])


def test_statement_timeout_is_not(alias: str) -> None:
    def slow() -> None:
        execute(alias, "SET LOCAL statement_timeout = 20")
        execute(alias, "SELECT pg_sleep(20)")

    work = Work(alias, slow)
    with pytest.raises(OperationalError):
        transaction.retrying(alias, **NOW).call(work)
    assert work.runs == 1


@ON_TWO
def test_an_error_that_the_code_has_renamed_is_not(alias: str) -> None:
    class Mine(Exception):
        pass

    def rename() -> None:
        try:
            fail(alias)
        except OperationalError as error:
            raise Mine from error

    work = Work(alias, rename)
    with pytest.raises(Mine):
        transaction.retrying(alias, **NOW).call(work)
    assert work.runs == 1
    work = Work(alias, rename)
    transaction.retrying(alias, on=Mine, **NOW).call(work)
    assert work.runs == 2


@ON_TWO
@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
def test_interrupts_are_not(alias: str, observer: Observer, kind: type[BaseException]) -> None:
    def interrupt() -> None:
        raise kind

    work = Work(alias, interrupt)
    with pytest.raises(kind):
        transaction.retrying(alias, **NOW).call(work)
    assert (work.runs, keys(observer)) == (1, [])


@ON_TWO
def test_interrupt_in_the_pause(alias: str, observer: Observer) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    work = Work(alias, lambda: fail(alias))
    with pytest.raises(KeyboardInterrupt):
        transaction.retrying(alias, sleep=interrupted).call(work)
    assert (work.runs, keys(observer)) == (1, [])
    assert not connections[alias].execute_wrappers


def test_a_full_pool_is_not(make_pool: MakePool, worker: Worker) -> None:
    """More attempts are more load."""
    alias = make_pool(size=1, POOL={"timeout": 0.3})
    taken, work = Step(), Work(alias)
    execute(alias, "SELECT 1")  # connecting may take longer than that

    def take() -> None:
        with djangos.atomic(using=alias):
            execute(alias, "SELECT 1")
            taken.wait()

    taking = worker.start(take)
    taken.reached()
    with pytest.raises(PoolExhausted) as raised:
        transaction.retrying(alias, **NOW).call(work)
    taken.go_on()
    taking.result(20)
    assert work.runs == 1
    assert not hasattr(raised.value, "__notes__")


def test_deadlock(alias: str, make_worker: Callable[[], Worker], observer: Observer) -> None:
    """Two threads that lock two rows in opposite order: the server gives one of them up, both get through."""
    first, second = (Item.objects.create(name=name).pk for name in "ab")
    together = threading.Barrier(2)
    runs: list[int] = []

    @transaction.retrying(alias)
    def add(*rows: int) -> None:
        meet = threading.get_ident() not in runs
        runs.append(threading.get_ident())
        for row in rows:
            Item.objects.using(alias).filter(pk=row).update(n=F("n") + 1)
            if meet and row == rows[0]:
                together.wait(20)

    futures = [make_worker().start(add, *rows) for rows in ((first, second), (second, first))]
    for future in futures:
        future.result(30)
    assert observer.execute("SELECT n FROM app_item").fetchall() == [(2,), (2,)]
    assert len(runs) == 3


@pytest.mark.ci
@pytest.mark.parametrize("threads", [16])
def test_every_increment_exactly_once(make_pool: MakePool, observer: Observer, threads: int) -> None:
    """Threads that read and write one row, all of them serializable."""
    options = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE}
    alias = make_pool(size=threads, OPTIONS=options, POOL={"timeout": 60})
    pk = Item.objects.create(name="a").pk
    runs: list[int] = []

    @transaction.retrying(alias, attempts=1000, total=60)
    def increment() -> None:
        runs.append(1)
        item = Item.objects.using(alias).get(pk=pk)
        Item.objects.using(alias).filter(pk=pk).update(n=item.n + 1)

    def work() -> None:
        try:
            for _ in range(20):
                increment()
        finally:
            connections[alias].close()

    started = [threading.Thread(target=work) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert observer.execute("SELECT n FROM app_item").fetchall() == [(20 * threads,)]
    assert len(runs) > 20 * threads


# -- what it says -----------------------------------------------------------------------------------------------


@ON_TWO
def test_last_error_has_a_note(alias: str, caplog: pytest.LogCaptureFixture) -> None:
    work = Work(alias, *[lambda: fail(alias)] * 9)
    pauses: list[float] = []
    with caplog.at_level(logging.INFO, "django_dbpool.transaction"), pytest.raises(OperationalError) as raised:
        transaction.retrying(alias, attempts=3, sleep=pauses.append).call(work)
    assert work.runs == 3
    assert len(pauses) == 2
    assert raised.value.__notes__[0].startswith("transaction.retrying(): after 3 attempts in 0.")
    records = [record for record in caplog.records if record.name == "django_dbpool.transaction"]
    assert [record.levelno for record in records] == [logging.INFO] * 2
    assert (
        records[0]
        .getMessage()
        .startswith(f"database {alias!r}: attempt 1 of 3 of Work() failed: SerializationFailure 40001; the next in 0.0")
    )
    assert records[1].attempt == 2


def test_what_was_repeated_is_nobody_else_s_business(make_pool: MakePool) -> None:
    """The middleware would take it for the reason of an error that comes later in the request."""
    alias = make_pool()
    work = Work(alias, lambda: fail(alias), lambda: die(alias))
    noticed: list[BaseException] = []
    token = raised_in_request.set(noticed)
    try:
        transaction.retrying(alias, **NOW).call(work)
    finally:
        raised_in_request.reset(token)
    assert work.runs == 3
    assert noticed == []


def test_between_attempts_no_connection_is_held(make_pool: MakePool, mode: str) -> None:
    alias = make_pool(mode=mode)
    held: list[int] = []
    work = Work(alias, lambda: fail(alias), lambda: die(alias))
    transaction.retrying(alias, sleep=lambda seconds: held.append(in_use(alias))).call(work)
    assert held == [0, 0]


def test_a_pinned_connection_is_kept(make_pool: MakePool) -> None:
    """What the session was given before holds in the next attempt, too."""
    alias = make_pool()
    execute(alias, "SET work_mem = '7MB'")
    before, work = backend(alias), Work(alias, lambda: fail(alias))
    transaction.retrying(alias, **NOW).call(work)
    assert backend(alias) == before
    connections[alias].close()
