"""What took long is said once, in one line, without its values; what goes wrong in saying it stays there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.signals import request_finished, request_started
from django.db import OperationalError, connections, transaction
from django.test import override_settings
from psycopg import sql as composing

from django_dbpool.backends import activity, sampler
from django_dbpool.core import events
from django_dbpool.core.ledger import unit_labels
from django_dbpool.core.statements import SlowStatement, Throttle
from django_dbpool.pool.measures import measures
from django_dbpool.statements import slow_statements
from testproject.processes import wait_until
from tests.fixtures.pools import execute, in_use, value
from tests.fixtures.workers import PATIENCE, Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
SECRET = "hunter2"
LOGGER = "django_dbpool.statements"


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    sampler.reset()
    yield
    sampler.reset()


@pytest.fixture
def limit() -> Iterator[None]:
    """Everything above 30 ms is slow; on a busy machine that may be any statement."""
    with override_settings(DBPOOL={"SLOW_STATEMENT": 0.03}):
        yield


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, LOGGER)

    def of_the_test() -> list[str]:
        said = [record.getMessage() for record in caplog.records if record.name == LOGGER]
        return [line for line in said if "pg_" in line or "Composed" in line]

    return of_the_test


def slow(sql: str) -> SlowStatement:
    return next(row for row in slow_statements() if row.sql == sql)


def test_one_line_with_all_that_helps(single: str, limit: None, lines: Any, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/nowhere/{SECRET}/"}
    request_started.send(object, environ=environ)
    execute(single, f"SELECT pg_sleep(%s), '{SECRET}' AS token", [0.05])
    request_finished.send(object)
    (line,) = lines()
    assert re.fullmatch(
        rf"database '{single}': a statement took \d\.\d\d s \(GET \(no route\), backend \d+\): "
        r"SELECT pg_sleep\(%s\), \? AS token",
        line,
    )
    record = next(record for record in caplog.records if "pg_sleep" in record.getMessage())
    assert (record.levelname, record.alias, record.failed) == ("WARNING", single, False)
    assert 0.05 <= record.seconds < PATIENCE
    row = slow("SELECT pg_sleep(%s), ? AS token")
    assert (row.alias, row.count, row.failed, row.unit, row.name) == (single, 1, 0, "GET (no route)", None)
    assert row.total == pytest.approx(record.seconds)
    assert next(each for each in measures() if each.alias == single).slow >= 1


def test_what_is_fast_is_not_told(single: str, lines: Any) -> None:
    execute(single, "SELECT pg_sleep(0.05)")
    assert (lines(), slow_statements()) == ([], ())


def test_settings_are_followed_at_once(single: str, lines: Any) -> None:
    execute(single, "SELECT 1")
    with override_settings(DBPOOL={"SLOW_STATEMENT": 0.03}):
        execute(single, "SELECT pg_sleep(0.05)")
        with override_settings(DBPOOL={"SLOW_STATEMENT": None}):
            execute(single, "SELECT pg_sleep(0.05), 1")
        with transaction.atomic(using=single):
            execute(single, "SELECT pg_sleep(0.05), 2, 3")
    execute(single, "SELECT pg_sleep(0.05), 4, 5, 6")
    assert {row.sql: row.count for row in slow_statements() if "pg_" in row.sql} == {
        "SELECT pg_sleep(?)": 1,
        "SELECT pg_sleep(?), ?, ...": 1,
    }


def test_the_same_is_said_once_and_counted_always(single: str, limit: None, lines: Any) -> None:
    for number in range(5):
        execute(single, f"SELECT pg_sleep(0.05), {number}")
    assert len(lines()) == 1
    assert slow("SELECT pg_sleep(?), ?").count == 5


def test_a_statement_that_fails(single: str, limit: None, lines: Any) -> None:
    with pytest.raises(OperationalError), transaction.atomic(using=single):
        execute(single, "SET LOCAL statement_timeout = '50ms'")
        execute(single, f"SELECT pg_sleep(20), '{SECRET}'")
    assert re.search(r"a statement failed after \d\.\d\d s", lines()[0])
    row = slow("SELECT pg_sleep(?), ?")
    assert (row.count, row.failed, SECRET in lines()[0]) == (1, 1, False)
    with pytest.raises(Exception, match="division"):
        execute(single, "SELECT 1 / 0")
    assert len(lines()) == 1
    assert in_use(single) == 0


def test_a_slow_statement_that_fails_counts_once(single: str, limit: None) -> None:
    """Whether its connection is held any longer or not."""
    execute(single, "SELECT 1")
    (before,) = (each.slow for each in measures() if each.alias == single)
    with pytest.raises(Exception, match="division"):
        execute(single, "SELECT 1 / (pg_sleep(0.05) IS NULL)::int")
    with pytest.raises(Exception, match="division"), transaction.atomic(using=single):
        execute(single, "SELECT 1 / (pg_sleep(0.05) IS NULL)::int")
    (after,) = (each.slow for each in measures() if each.alias == single)
    assert after == before + 2
    row = slow("SELECT ? / (pg_sleep(?) IS NULL)::int")
    assert (row.count, row.failed) == (2, 2)


def test_every_way_to_execute(single: str, limit: None) -> None:
    """Each is one statement; a FETCH is named with the query of its cursor, a COMMIT is a statement too."""
    connection = connections[single]
    execute(single, "CREATE TABLE IF NOT EXISTS slow_rows (id int)")
    execute(
        single,
        "CREATE OR REPLACE FUNCTION slow_check() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$",
    )
    execute(
        single,
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON slow_rows DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow_check()",
    )
    execute(single, "CREATE OR REPLACE FUNCTION slow_call() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_sleep(0.05)'")
    sampler.reset()
    try:
        with connection.cursor() as cursor:
            cursor.executemany("SELECT pg_sleep(%s), 'many'", [[0.05], [0.0]])
            cursor.callproc("slow_call")
        with transaction.atomic(using=single):
            execute(single, "INSERT INTO slow_rows VALUES (1)")
        with transaction.atomic(using=single):
            cursor = connection.chunked_cursor()
            cursor.execute("SELECT pg_sleep(0.05) FROM generate_series(1, 2)")
            cursor.fetchmany(1)
            cursor.close()
        with connection.cursor() as cursor, cursor.copy("COPY (SELECT pg_sleep(0.05)) TO STDOUT") as copy:
            list(copy)
        told = {row.sql for row in slow_statements()}
    finally:
        execute(single, "DROP TABLE slow_rows")
        execute(single, "DROP FUNCTION slow_check, slow_call")
    assert {
        "SELECT pg_sleep(%s), ?",
        "SELECT slow_call()",
        "COMMIT",
        "FETCH: SELECT pg_sleep(?) FROM generate_series(?, ...)",
        "COPY (SELECT pg_sleep(?)) TO STDOUT",
    } <= told


def test_python_before_the_statement_is_not_its_time(single: str, limit: None, lines: Any) -> None:
    """A cursor may be made, and the connection leased, long before anything is executed."""
    for _ in range(3):
        with connections[single].cursor() as cursor:
            sleep(0.1)
            cursor.execute("SELECT pg_backend_pid()")
    with transaction.atomic(using=single):
        execute(single, "SELECT pg_backend_pid()")
        sleep(0.1)
        execute(single, "SELECT pg_backend_pid()")
        sleep(0.1)
    assert not [row for row in slow_statements() if row.longest > 0.09]


def test_threads_and_coroutines(make_pool: MakePool, limit: None, make_worker: Callable[[], Worker]) -> None:
    alias = make_pool(size=3)
    workers = [make_worker() for _ in range(2)]
    for future in [worker.start(execute, alias, "SELECT pg_sleep(0.05), 'thread'") for worker in workers]:
        future.result(PATIENCE)

    async def view() -> None:
        await sync_to_async(execute)(alias, "SELECT pg_sleep(0.05) AS coroutine")

    async_to_sync(view)()
    assert slow("SELECT pg_sleep(?), ?").count == 2
    assert slow("SELECT pg_sleep(?) AS coroutine").count == 1


@pytest.mark.parametrize(
    "statement",
    [
        f"SELECT pg_sleep(0.05), E'{SECRET}\\n', $$ {SECRET} $$ /* {SECRET} */ -- {SECRET}",
        f"SELECT pg_sleep(0.05) AS \"a\n2026-01-01 CRITICAL forged\x1b[2J\", '{SECRET}'",
        f"SELECT pg_sleep(0.05), '{'x' * 2_000_000}{SECRET}'",
        f"SELECT pg_sleep(0.05){', 1' * 1500} /* {' ' * 1_000_000} */, '{SECRET}'",
        composing.SQL("SELECT pg_sleep(0.05), {}").format(composing.Literal(SECRET)),
        f"SELECT pg_sleep(0.05), '{SECRET}'".encode(),
    ],
    ids=["literals", "control", "megabytes", "long", "composed", "bytes"],
)
def test_hostile_sql(single: str, limit: None, lines: Any, statement: Any) -> None:
    execute(single, statement)
    (line,) = lines()
    (row,) = (row for row in slow_statements() if row.sql in line)
    assert SECRET not in line and SECRET not in repr(row)
    assert line.isprintable()
    assert len(line) < 1500


def test_hostile_units(single: str, limit: None, lines: Any) -> None:
    """A path goes nowhere; a method may be anything."""
    environ = {"REQUEST_METHOD": "GET\nCRITICAL forged", "PATH_INFO": f"/x\n{SECRET}/"}
    request_started.send(object, environ=environ)
    execute(single, "SELECT pg_sleep(0.05)")
    request_finished.send(object)
    (line,) = lines()
    assert line.isprintable() and SECRET not in line and "forged" not in line


class Unit:
    pass


def test_what_goes_wrong_in_the_report_stays_there(
    single: str, limit: None, monkeypatch: pytest.MonkeyPatch, break_log: Callable[[str], None]
) -> None:
    """A unit that can't be named, a filter of the log that raises: the statement has succeeded."""

    def refuse(*_: object) -> str:
        raise RuntimeError("no")

    monkeypatch.setitem(unit_labels, Unit, refuse)
    request_started.send(object, environ=Unit())
    try:
        assert value(single, "SELECT 7 FROM pg_sleep(0.05)") == 7
        assert slow("SELECT ? FROM pg_sleep(?)").unit is None
        break_log(LOGGER)
        with transaction.atomic(using=single):
            assert value(single, "SELECT 8 FROM pg_sleep(0.05) AS slept") == 8
    finally:
        request_finished.send(object)
    assert in_use(single) == 0


def test_an_event_for_observers(single: str, limit: None) -> None:
    seen: list[events.Event] = []
    subscription = events.subscribe("test", seen.append)
    try:
        execute(single, f"SELECT pg_sleep(0.05), '{SECRET}'")
        assert subscription.flush(PATIENCE)
    finally:
        subscription.close()
    (event,) = (event for event in seen if isinstance(event, events.StatementSlow) and "pg_" in event.sql)
    assert (event.alias, event.sql, event.failed) == (single, "SELECT pg_sleep(?), ?", False)
    assert SECRET not in repr(event)


# -- statements that have not ended -----------------------------------------------------------------------------------


@pytest.fixture
def lock(observer: psycopg.Connection[Any]) -> Iterator[Callable[[], None]]:
    """An advisory lock that statements wait for until this is called."""
    observer.execute("SELECT pg_advisory_lock(5150)")

    def unlock() -> None:
        observer.execute("SELECT pg_advisory_unlock_all()")

    yield unlock
    unlock()


WAIT = "SELECT 1 FROM pg_advisory_xact_lock(5150)"


def test_a_statement_that_runs_is_told_once(
    single: str, limit: None, worker: Worker, lock: Callable[[], None], lines: Any
) -> None:
    waiting = worker.start(execute, single, WAIT)
    text = "SELECT ? FROM pg_advisory_xact_lock(?)"

    def told() -> bool:
        sampler.look()
        return bool(lines())

    assert wait_until(told, PATIENCE)
    activity.kept.slow._running = Throttle(interval=0)  # not the log's restraint is looked at
    sampler.look()
    assert len(lines()) == 1
    assert re.search(
        r"a statement has been running for \d\.\d\d s \(no request or task, backend \d+\): SELECT \? FROM", lines()[0]
    )
    assert (slow(text).count, slow(text).running) == (0, 1)
    lock()
    waiting.result(PATIENCE)
    assert len(lines()) == 2 and " took " in lines()[1]
    sampler.look()
    assert (slow(text).count, slow(text).running) == (1, 0)


def test_a_commit_that_runs(make_pool: MakePool, limit: None, worker: Worker, lock: Any, lines: Any) -> None:
    """Not the statement before it."""
    alias = make_pool(size=2)
    execute(alias, "CREATE TABLE IF NOT EXISTS slow_rows (id int)")
    execute(
        alias,
        "CREATE OR REPLACE FUNCTION slow_check() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(5150); RETURN NULL; END $$",
    )
    execute(
        alias,
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON slow_rows DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow_check()",
    )

    def insert() -> None:
        with transaction.atomic(using=alias):
            execute(alias, "INSERT INTO slow_rows VALUES (1)")

    committing = worker.start(insert)

    def running() -> list[str]:
        sampler.look()
        return [row.sql for row in slow_statements() if row.running]

    try:
        assert wait_until(lambda: bool(running()), PATIENCE)
        assert running() == ["COMMIT"]
    finally:
        lock()
        committing.result(PATIENCE)
        execute(alias, "DROP TABLE slow_rows")
        execute(alias, "DROP FUNCTION slow_check")


def test_what_does_not_run_is_not_told(
    single: str, limit: None, caplog: pytest.LogCaptureFixture, worker: Worker
) -> None:
    """A transaction that has executed something long ago, and uses its connection without a statement of Django's."""
    worker(transaction.set_autocommit, False, using=single)
    worker(execute, single, "SELECT pg_backend_pid()")

    def look_while(call: Callable[[], object]) -> None:
        asleep = worker.start(call)
        while not asleep.done():
            sampler.look()
        asleep.result(PATIENCE)

    (entry,) = connections[single].pool.entries
    look_while(lambda: entry.conn.execute("SELECT pg_sleep(0.2)"))
    look_while(lambda: connections[single].connection.execute("SELECT pg_sleep(0.2)"))
    worker(transaction.rollback, using=single)
    worker(transaction.set_autocommit, True, using=single)
    assert not [record for record in caplog.records if "running" in record.getMessage()]


def test_a_statement_that_is_not_sent_yet_has_not_ended(single: str, limit: None, lines: Any, worker: Worker) -> None:
    """A look may fall between its being noted and its being sent."""
    worker(transaction.set_autocommit, False, using=single)
    worker(execute, single, "SELECT pg_backend_pid()")
    (entry,) = connections[single].pool.entries
    entry.began = monotonic()
    sampler.look()
    asleep = worker.start(lambda: entry.conn.execute("SELECT pg_sleep(0.3)"))
    while not asleep.done():
        sampler.look()
    asleep.result(PATIENCE)
    worker(transaction.rollback, using=single)
    worker(transaction.set_autocommit, True, using=single)
    assert [line for line in lines() if "running" in line]
