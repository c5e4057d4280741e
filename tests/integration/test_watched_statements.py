"""Whoever stands around statements (DEBUG's query log, debug-toolbar, Sentry) sees one lease from begin to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from psycopg.pq import TransactionStatus

from testproject.processes import wait_until
from tests.fixtures.pools import backend, execute, in_use
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]


class Watcher:
    """As debug-toolbar's cursor: reads the connection's state before and after, and composes the SQL for its log."""

    def execute(self: Any, sql: Any, params: Any = None) -> Any:
        raw = self.db.connection
        before, pid = raw.info.transaction_status, raw.info.backend_pid
        try:
            return super().execute(sql, params)  # type: ignore[misc]
        finally:
            self.seen.append((before, raw.info.transaction_status, pid))
            self.db.ops.last_executed_query(self.cursor, sql, params)


def watched(alias: str) -> Any:
    connection = connections[alias]
    inner = connection.cursor()
    cursor = type("Watched", (Watcher, type(inner)), {})(inner.cursor, connection)
    cursor.seen = []
    return cursor


def test_a_watcher_sees_the_connection_of_its_statement(single: str) -> None:
    cursor = watched(single)
    for _ in range(3):  # with the second one nothing is leased
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
        assert in_use(single) == 0
        assert cursor.seen.pop() == (TransactionStatus.IDLE, TransactionStatus.IDLE, pid)
    with transaction.atomic(using=single):
        cursor.execute("SELECT 1")
        cursor.execute("SELECT 1")
    assert [seen[:2] for seen in cursor.seen] == [
        (TransactionStatus.IDLE, TransactionStatus.INTRANS),
        (TransactionStatus.INTRANS, TransactionStatus.INTRANS),
    ]
    assert in_use(single) == 0
    assert backend(single) == pid


def test_errors_hold_nothing(single: str) -> None:
    cursor = watched(single)
    pid = backend(single)
    for statement in ("SELECT nothing", "SELECT 1/0"):
        with pytest.raises(Exception, match=r"nothing|zero"):
            cursor.execute(statement)
        assert in_use(single) == 0
    assert backend(single) == pid


def test_lost_connections_hold_nothing(single: str, observer: Any) -> None:
    cursor = watched(single)
    cursor.execute("SELECT 1")
    with pytest.raises(Exception, match=r"terminat|closed|lost"):
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)")
    assert in_use(single) == 0
    cursor = watched(single)
    cursor.execute("SELECT 1")
    assert in_use(single) == 0


def test_the_query_log_needs_no_second_lease(make_pool: MakePool, worker: Worker) -> None:
    """Else a write that succeeded would end in PoolExhausted, because others wait for the connection."""
    alias = make_pool(POOL={"timeout": 20}, OPTIONS={"server_side_binding": True})  # then the log composes it anew
    execute(alias, "CREATE TABLE IF NOT EXISTS logged (n int)")
    connection = connections[alias]
    connection.force_debug_cursor = True
    release = threading.Event()

    def take() -> None:
        with transaction.atomic(using=alias):
            backend(alias)
            release.wait(20)

    with connection.cursor() as cursor:
        waiting = worker.start(take)
        assert wait_until(lambda: connection.pool.snapshot().waiting == 1, 10)
        logger = threading.Timer(15, release.set)  # so that a failing test ends
        logger.start()
        cursor.execute("INSERT INTO logged VALUES (%s)", [7])
        assert not release.is_set()
    logger.cancel()
    release.set()
    waiting.result(20)
    connection.force_debug_cursor = False
    assert [entry["sql"] for entry in connection.queries_log][-1] == "INSERT INTO logged VALUES (7)"
    execute(alias, "DROP TABLE logged")


@pytest.mark.parametrize("withhold", [False, True], ids=["in a transaction", "outside of one"])
def test_a_server_side_cursor_wrapped_twice_gives_its_connection_back(single: str, withhold: bool) -> None:
    pid = backend(single)
    connection = connections[single]

    def rows() -> list[Any]:
        inner: Any = connection.chunked_cursor()
        cursor: Any = type("Watched", (type(inner),), {})(inner.cursor, connection)
        del inner
        with cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            return list(cursor.fetchall())

    if withhold:
        assert len(rows()) == 10
    else:
        with transaction.atomic(using=single):
            assert len(rows()) == 10
    assert in_use(single) == 0
    assert backend(single) == pid


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods of Django's classes replaced, as Sentry does it."""
    seen: list[str] = []

    def replace(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def replacement(self: Any, *args: Any) -> Any:
            seen.append(str(args[0]) if args else name)
            return original(self, *args)

        monkeypatch.setattr(kind, name, replacement)

    for name in ("execute", "executemany"):
        replace(CursorWrapper, name)
    for name in ("_commit", "_rollback"):
        replace(BaseDatabaseWrapper, name)
    return seen


def test_replaced_methods_of_django_see_what_happens(single: str, patched: list[str]) -> None:
    pid = backend(single)
    patched.clear()
    with transaction.atomic(using=single), connections[single].cursor() as cursor:
        cursor.execute("SELECT 1")
        rows: Any = [[1], [2]]
        cursor.executemany("SELECT %s", rows)
    with pytest.raises(InterruptedError), transaction.atomic(using=single):
        execute(single, "SELECT 2")
        raise InterruptedError
    assert patched == ["SELECT 1", "SELECT %s", "_commit", "SELECT 2", "_rollback"]
    assert in_use(single) == 0
    assert backend(single) == pid
