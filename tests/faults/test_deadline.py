"""transaction.deadline(): everything that a block asks of its databases ends in time, and nothing is left unknown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections
from django.db import transaction as djangos

from django_dbpool import transaction
from django_dbpool.core import blocks
from django_dbpool.errors import DatabaseUnavailable, LeaseTimedOut, PoolExhausted
from django_dbpool.pool import command as commands
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

NAP = "SELECT pg_sleep(600)"
LATE = 1.0
"""Seconds after a deadline when everything has ended, whatever the server does."""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert blocks.deadline() is None
    assert wait_until(lambda: not commands.running, PATIENCE), commands.running
    assert wait_until(lambda: not any(t.name == "dbpool-cancel" for t in threading.enumerate()), PATIENCE)


@pytest.fixture
def frozen(server: EmbeddedServer, make_database: MakeDatabase) -> Iterator[tuple[EmbeddedServer, Database]]:
    """A server to be frozen in the test, with an alias that has a connection."""
    database = make_database(server, max_size=2)
    database.backend()
    try:
        yield server, database
    finally:
        server.thaw()


def execute(alias: str, sql: str, params: Any = None) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)


@contextmanager
def ended_by(seconds: float, kind: type[BaseException] = LeaseTimedOut, patience: float = LATE) -> Iterator[list[Any]]:
    found: list[Any] = []
    began = monotonic()
    with pytest.raises(kind) as raised, transaction.deadline(seconds):
        yield found
    assert monotonic() - began < seconds + patience
    found.append(raised.value)


def pass_by() -> None:
    """Wait until the deadline has passed."""
    threading.Event().wait(max(0.0, blocks.seconds_left()) + 0.01)


# -- statements -------------------------------------------------------------------------------------------------


def alone(alias: str) -> None:
    execute(alias, NAP)


def in_block(alias: str) -> None:
    with djangos.atomic(using=alias):
        execute(alias, "SELECT 1")
        execute(alias, NAP)


def fetched(alias: str) -> None:
    with djangos.atomic(using=alias), connections[alias].chunked_cursor() as cursor:
        cursor.execute("SELECT n, CASE WHEN n > 3 THEN pg_sleep(600) END FROM generate_series(1, 9) AS n")
        while cursor.fetchmany(2):
            pass


@pytest.mark.parametrize("work", [alone, in_block, fetched])
def test_slow_statement_is_cancelled(database: Database, work: Callable[[str], None]) -> None:
    with ended_by(0.3) as found:
        work(database.alias)
    (error,) = found
    assert (error.setting, error.limit, error.maybe_committed) == ("deadline", 0.3, False)
    assert "was stopped after" in str(error)
    assert "transaction.deadline(0.3) has passed" in str(error)
    assert isinstance(error.__cause__, psycopg.errors.QueryCanceled)
    assert database.fetch("SELECT 1") == 1
    database.assert_whole()


def test_statements_share_the_time(database: Database) -> None:
    with ended_by(0.5):
        for _ in range(100):
            execute(database.alias, "SELECT pg_sleep(0.1)")


@pytest.mark.parametrize(("command_timeout", "setting"), [(0.2, "command_timeout"), (5, "deadline")])
def test_the_shorter_limit_holds(make_database: MakeDatabase, command_timeout: float, setting: str) -> None:
    database = make_database(command_timeout=command_timeout)
    with ended_by(0.6) as found:
        execute(database.alias, NAP)
    assert found[0].setting == setting
    assert f"{found[0].limit:g}" in str(found[0])


def test_a_late_statement_is_not_sent(database: Database, table: str) -> None:
    with ended_by(0.05) as found:
        pass_by()
        execute(database.alias, f"INSERT INTO {table} VALUES ('late')")
    assert "was not sent" in str(found[0])
    assert not found[0].maybe_committed
    assert database.fetch(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("warm", [True, False])
def test_no_time_at_all(database: Database, warm: bool) -> None:
    """Nobody even connects."""
    if warm:
        database.backend()
    before = database.pool.snapshot().size
    with ended_by(0):
        execute(database.alias, "SELECT 1")
    assert database.pool.snapshot().size == before == int(warm)


def test_frozen_server(frozen: tuple[EmbeddedServer, Database]) -> None:
    server, database = frozen
    server.freeze()
    with ended_by(0.4) as found:
        execute(database.alias, "INSERT INTO somewhere VALUES (1)")
    assert found[0].maybe_committed
    assert "was cut" in str(found[0])


def test_frozen_in_a_transaction(frozen: tuple[EmbeddedServer, Database]) -> None:
    """ROLLBACK isn't waited for either."""
    server, database = frozen
    with ended_by(0.4) as found, djangos.atomic(using=database.alias):
        execute(database.alias, "SELECT 1")
        server.freeze()
        execute(database.alias, "SELECT 1")
    assert not found[0].maybe_committed


def test_frozen_between_two_statements(frozen: tuple[EmbeddedServer, Database]) -> None:
    """The block fails by itself; its ROLLBACK is cut soon after the deadline."""
    server, database = frozen
    began = monotonic()
    with pytest.raises(ZeroDivisionError), transaction.deadline(0.3), djangos.atomic(using=database.alias):
        execute(database.alias, "SELECT 1")
        server.freeze()
        raise ZeroDivisionError
    assert monotonic() - began < 0.3 + blocks.GRACE + LATE


# -- ends of transactions ---------------------------------------------------------------------------------------


def test_a_late_commit_is_not_sent(database: Database, table: str) -> None:
    """So everybody knows what became of it; and the connection is as good as before."""
    before = database.backend()
    with ended_by(0.2) as found, djangos.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('late')")
        pass_by()
    assert (found[0].setting, found[0].maybe_committed) == ("deadline", False)
    assert database.backend() == before
    assert database.fetch(f"SELECT count(*) FROM {table}") == 0
    database.assert_whole()


def slow_commit(observer: Any, table: str, seconds: float) -> None:
    observer.execute(
        f"CREATE OR REPLACE FUNCTION nap_{table}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;"
        f"CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION nap_{table}()"
    )


def test_a_commit_that_was_sent_in_time_may_end(database: Database, table: str) -> None:
    slow_commit(database.observer, table, 0.4)
    with transaction.deadline(0.3), djangos.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('in time')")
    assert database.fetch(f"SELECT count(*) FROM {table}") == 1
    database.observer.execute(f"DROP FUNCTION nap_{table} CASCADE")


def test_frozen_in_commit(frozen: tuple[EmbeddedServer, Database]) -> None:
    server, database = frozen
    with ended_by(0.3, patience=blocks.GRACE + LATE) as found, djangos.atomic(using=database.alias):
        execute(database.alias, "SELECT 1")
        server.freeze()
    assert found[0].maybe_committed


def test_savepoints_go_with_their_transaction(database: Database, table: str) -> None:
    with ended_by(0.2), djangos.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('late')")
        with djangos.atomic(using=database.alias):
            execute(database.alias, "SELECT 1")
            pass_by()
    assert database.fetch(f"SELECT count(*) FROM {table}") == 0
    database.assert_whole()


# -- connections ------------------------------------------------------------------------------------------------


def test_waiting_for_a_connection(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=30)
    with database.holding(), ended_by(0.3, PoolExhausted) as found:
        execute(database.alias, "SELECT 1")
    assert "transaction.deadline(0.3) has ended the wait." in str(found[0])
    assert 0.25 < found[0].waited < 0.3 + LATE


def test_the_pools_own_patience_is_not_lengthened(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=0.2)
    with database.holding(), ended_by(20, PoolExhausted) as found:
        execute(database.alias, "SELECT 1")
    assert found[0].waited < 5
    assert "deadline" not in str(found[0])


def test_connecting_with_its_repetitions(make_database: MakeDatabase, server: EmbeddedServer) -> None:
    database = make_database(server, retry={"total": 30, "attempts": 1000}, breaker=False)
    database.backend()
    server.stop()
    try:
        with ended_by(0.4, DatabaseUnavailable):
            while True:
                execute(database.alias, "SELECT 1")
    finally:
        server.start()


def test_a_server_that_had_no_time_to_answer_is_not_counted(
    make_database: MakeDatabase, server: EmbeddedServer
) -> None:
    """Impatient callers must not open the circuit for the others."""
    database = make_database(server, breaker={"minimum_throughput": 2}, connect_timeout=20)
    _ = database.pool
    server.freeze()
    try:
        for _ in range(2):
            with ended_by(0.2, DatabaseUnavailable):
                execute(database.alias, "SELECT 1")
    finally:
        server.thaw()
    assert database.backend()


# -- blocks -----------------------------------------------------------------------------------------------------


def test_the_earliest_holds(database: Database) -> None:
    with transaction.deadline(30):
        with transaction.deadline(0.2):
            with transaction.deadline(60):
                assert blocks.seconds_left() < 0.3
            with pytest.raises(LeaseTimedOut, match=r"deadline\(0.2\)"):
                execute(database.alias, NAP)
        assert database.fetch("SELECT 1") == 1
    assert database.fetch("SELECT 1") == 1


def test_decorators(database: Database) -> None:
    @transaction.deadline(0.2)
    def work() -> None:
        """Doc."""
        execute(database.alias, NAP)

    @transaction.deadline(0.2)
    async def later() -> None:
        await sync_to_async(work)()

    assert work.__doc__ == "Doc."
    for _ in range(2):  # each call has its own
        with pytest.raises(LeaseTimedOut):
            work()
    with pytest.raises(LeaseTimedOut):
        asyncio.run(later())


def test_tasks_have_their_own(database: Database) -> None:
    async def slow(seconds: float) -> str:
        async with transaction.deadline(seconds):
            try:
                await sync_to_async(execute)(database.alias, "SELECT pg_sleep(0.2)")
            except LeaseTimedOut:
                return "late"
            return "done"

    async def main() -> list[str]:
        try:
            return list(await asyncio.gather(slow(30), slow(0.05)))
        finally:
            await sync_to_async(lambda: connections[database.alias].close())()

    assert asyncio.run(main()) == ["done", "late"]


def test_threads_of_their_own_have_none(database: Database) -> None:
    with transaction.deadline(0):
        assert Task(database.fetch, "SELECT 1").result() == 1


def test_a_generator_that_ends_elsewhere() -> None:
    def rows() -> Iterator[int]:
        with transaction.deadline(30):
            yield 1

    generator = rows()
    next(generator)
    with transaction.deadline(10):
        generator.close()
    # It was entered in this context, so what began after it ends with it; nothing is left of either.
    assert blocks.deadline() is None


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_seconds_that_are_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        transaction.deadline(seconds)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="seconds"):
        transaction.deadline("5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator"):

        @transaction.deadline(1)
        def rows() -> Iterator[int]:
            yield 1


# -- with retrying ----------------------------------------------------------------------------------------------


def test_no_attempt_after_it(database: Database) -> None:
    runs: list[float] = []
    began = monotonic()

    @transaction.deadline(0.5)
    @transaction.retrying(database.alias, attempts=10_000, total=60)
    def work() -> None:
        runs.append(monotonic() - began)
        execute(database.alias, "SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(OperationalError) as raised:
        work()
    assert max(runs) < 0.5 + 0.1
    assert len(runs) > 2
    assert not isinstance(raised.value, PoolExhausted)


def test_a_statement_that_was_too_slow_is_not_repeated(database: Database) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        execute(database.alias, NAP)

    with ended_by(0.3):
        transaction.retrying(database.alias).call(work)
    assert runs == [1]


def test_pool_switched_off(make_database: MakeDatabase) -> None:
    """Statements are refused, though none is stopped."""
    database = make_database(enabled=False)
    with pytest.raises(LeaseTimedOut, match="not sent"), transaction.deadline(0):
        execute(database.alias, "SELECT 1")
    with transaction.deadline(30):
        assert database.fetch("SELECT 1") == 1


def test_health_check_of_a_frozen_server(server: Server, make_database: MakeDatabase) -> None:
    """The round trip that tests an idle connection is a statement as well."""
    database = make_database(server, check_idle=0, connect_timeout=2)
    database.backend()
    assert isinstance(server, EmbeddedServer)
    server.freeze()
    try:
        with ended_by(0.3, OperationalError, patience=blocks.GRACE + LATE):
            execute(database.alias, "SELECT 1")
    finally:
        server.thaw()
