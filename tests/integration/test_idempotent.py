"""transaction.idempotent(): raw SQL that may run again when its connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections
from django.db import transaction as djangos

from django_dbpool import transaction
from django_dbpool.core import blocks
from tests.app.models import Log
from tests.fixtures.pools import execute, in_use

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
SQL = "SELECT die(1)"
"""Loses its connection once, then gives the number of its call."""


@pytest.fixture(autouse=True)
def function(observer: Observer) -> Iterator[None]:
    """die(n): ends its own session in its first n calls, which are counted in a sequence that no rollback resets."""
    observer.execute("CREATE SEQUENCE dbpool_calls")
    observer.execute(
        "CREATE FUNCTION die(times int) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$"
        " DECLARE n bigint := nextval('dbpool_calls'); BEGIN"
        " IF n <= times THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF;"
        " RETURN n; END $$"
    )
    yield
    observer.execute("DROP FUNCTION die")
    observer.execute("DROP SEQUENCE dbpool_calls")


def calls(observer: Observer) -> int:
    row = observer.execute("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM dbpool_calls").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def alias(make_pool: MakePool, mode: str) -> str:
    return make_pool(size=2, mode=mode)


def test_repeated_as_a_block(alias: str) -> None:
    with transaction.idempotent():
        assert execute(alias, SQL) == [(2,)]
    assert not blocks.is_idempotent()


def test_repeated_in_a_decorated_function(alias: str) -> None:
    @transaction.idempotent
    def bare() -> Any:
        return execute(alias, SQL)

    @transaction.idempotent()
    def called() -> Any:
        return execute(alias, "SELECT die(3)")

    assert bare() == [(2,)]
    assert called() == [(4,)]


def test_repeated_in_coroutines_and_their_threads(alias: str) -> None:
    @transaction.idempotent
    async def work() -> Any:
        return await sync_to_async(execute)(alias, SQL)

    async def main() -> list[Any]:
        try:
            async with transaction.idempotent():
                return [await work(), await sync_to_async(execute)(alias, "SELECT die(3)")]
        finally:
            await sync_to_async(lambda: connections[alias].close())()

    assert asyncio.run(main()) == [[(2,)], [(4,)]]


def test_a_write_is_repeated_too(alias: str, observer: Observer) -> None:
    with transaction.idempotent():
        execute(alias, "INSERT INTO app_log (key) SELECT 'call ' || die(1)")
    assert [log.key for log in Log.objects.all()] == ["call 2"]


def test_a_cursor_goes_on(alias: str) -> None:
    with transaction.idempotent(), connections[alias].cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.execute(SQL)
        assert cursor.fetchone() == (2,)


def plainly(alias: str) -> None:
    execute(alias, SQL)


def in_block(alias: str) -> None:
    with transaction.idempotent(), djangos.atomic(using=alias):
        execute(alias, SQL)


def in_raw_transaction(alias: str) -> None:
    with transaction.idempotent(), connections[alias].cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(SQL)


def in_manual_transaction(alias: str) -> None:
    djangos.set_autocommit(False, using=alias)
    with transaction.idempotent():
        execute(alias, SQL)


def pinned(alias: str) -> None:
    with transaction.idempotent():
        execute(alias, "SET work_mem = '7MB'")
        execute(alias, SQL)


def many(alias: str) -> None:
    with transaction.idempotent(), connections[alias].cursor() as cursor:
        cursor.executemany("SELECT die(%s)", [(1,)])


def streamed(alias: str) -> None:
    with transaction.idempotent(), connections[alias].cursor() as cursor:
        list(cursor.stream(SQL))


def afterwards(alias: str) -> None:
    with transaction.idempotent():
        execute(alias, "SELECT 1")
    execute(alias, SQL)


@pytest.mark.parametrize(
    "work", [plainly, in_block, in_raw_transaction, in_manual_transaction, pinned, many, streamed, afterwards]
)
def test_not_repeated(alias: str, observer: Observer, work: Callable[[str], None]) -> None:
    """Where something was promised on that connection, where rows may have been delivered, where nobody has said so."""
    with pytest.raises((DatabaseError, InterfaceError)):
        work(alias)
    connections[alias].close()
    assert calls(observer) == 1


@pytest.mark.parametrize(("retry", "ran"), [({"attempts": 2}, 2), ({"attempts": 1}, 1), (False, 1)])
def test_attempts_are_limited(make_pool: MakePool, observer: Observer, retry: Any, ran: int) -> None:
    alias = make_pool(POOL={"retry": retry})
    with pytest.raises(DatabaseError), transaction.idempotent():
        execute(alias, "SELECT die(100)")
    assert calls(observer) == ran
    assert in_use(alias) == 0


def test_errors_of_the_statement_are_not_repeated(alias: str, observer: Observer) -> None:
    with pytest.raises(DatabaseError, match="division"), transaction.idempotent():
        execute(alias, "SELECT die(0) / 0")
    assert calls(observer) == 1


def test_pool_switched_off(make_pool: MakePool, observer: Observer) -> None:
    """Exactly as with Django's own engine; but retrying() knows."""
    alias = make_pool(POOL={"enabled": False})
    sql = "INSERT INTO app_log (key) SELECT 'call ' || die(1)"
    with pytest.raises(DatabaseError), transaction.idempotent():
        execute(alias, sql)
    connections[alias].close()
    observer.execute("SELECT setval('dbpool_calls', 1, false)")
    with transaction.idempotent():
        transaction.retrying(alias, atomic=False, sleep=lambda seconds: None).call(execute, alias, sql)
    assert [log.key for log in Log.objects.all()] == ["call 2"]


def test_generators_are_refused() -> None:
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        transaction.idempotent(rows)
