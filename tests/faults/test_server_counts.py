"""The server's own count of our connections: asked by one, on a connection outside of the pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import transaction
from django.test.utils import teardown_test_environment
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from django_dbpool import server_counts
from django_dbpool.contrib import opentelemetry
from django_dbpool.core import reporter
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.faults.test_opentelemetry import collect, value

HOUR = 3600.0
SHORT = 0.05


@pytest.fixture(autouse=True)
def nobody_asks() -> Iterator[None]:
    yield
    server_counts.unwatch("test")
    assert not any(thread.name == "dbpool-server-counts" for thread in threading.enumerate())


@pytest.fixture
def role(make_database: MakeDatabase) -> Iterator[dict[str, str]]:
    """One that nobody else connects as: its counts are those of the test."""
    observer = make_database().observer
    observer.execute("CREATE ROLE counted LOGIN")
    try:
        yield {"USER": "counted"}
    finally:
        observer.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'counted'")
        observer.execute("DROP ROLE counted")


def latest(database: Database) -> server_counts.ServerCounts | None:
    return server_counts.latest(database.alias)


def asking(database: Database) -> bool | None:
    """None if nobody has tried yet."""
    watch = server_counts._watches.get(database.alias)
    return None if watch is None else watch.asking()


def answered(database: Database) -> bool:
    """In the place of the reporter's thread, which leaves a test environment alone."""
    server_counts.look()
    return latest(database) is not None


def begin(database: Database, interval: float = HOUR) -> None:
    database.fetch("SELECT 1")
    server_counts.watch("test", interval=interval)
    server_counts.look()


def test_counts_are_the_servers(make_database: MakeDatabase, role: dict[str, str]) -> None:
    """Of this role in this database, without the session that asks."""
    database = make_database(max_size=4, **role)
    with database.holding(2):
        begin(database)
        assert wait_until(lambda: answered(database), PATIENCE)
        found = latest(database)
    assert found is not None
    assert (found.active, found.idle, found.idle_in_transaction, found.total) == (0, 1, 2, 3)
    row = database.observer.execute("SHOW max_connections").fetchone()
    assert row is not None
    assert found.max_connections == int(row[0])
    assert found.total < found.all_roles < found.max_connections
    assert found.to_json()["idle_in_transaction"] == 2


def test_the_workers_of_a_parallel_query_are_no_connections(make_database: MakeDatabase, role: dict[str, str]) -> None:
    database = make_database(max_size=2, **role)
    version = database.observer.info.server_version
    setting = "debug_parallel_query" if version >= 160000 else "force_parallel_mode"

    def parallel() -> None:
        with transaction.atomic(using=database.alias), database.connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL {setting} = on")
            cursor.execute("SELECT pg_sleep(60)")

    task = Task(parallel)
    workers = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'counted' AND backend_type = 'parallel worker'"
    try:
        assert wait_until(lambda: database.observer.execute(workers).fetchone() == (1,), PATIENCE)
        begin(database)
        assert wait_until(lambda: answered(database), PATIENCE)
        found = latest(database)
        assert found is not None
        assert (found.active, found.total) == (1, 2)
        # Of the server's own an ordinary role can't tell the launcher of logical replication.
        others = (
            "SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND backend_type <> 'parallel worker'"
        )
        assert database.observer.execute(others).fetchone() == (found.all_roles,)
    finally:
        database.observer.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'counted'"
        )
        assert task.error()


def test_one_of_several_processes_asks(make_database: MakeDatabase, role: dict[str, str]) -> None:
    """And when it is gone another one does."""
    database = make_database(**role)
    begin(database)
    assert wait_until(lambda: answered(database), PATIENCE)

    def child() -> bool:
        assert latest(database) is None  # the parent's
        begin(database)
        (watch,) = server_counts._watches.values()
        assert watch._thread is not None
        watch._thread.join(PATIENCE)  # it ends: another has the lock
        return latest(database) is None

    assert Child(child).result() is True
    server_counts.unwatch("test")

    def next_child() -> bool:
        begin(database)
        return wait_until(lambda: answered(database), PATIENCE)

    assert Child(next_child).result() is True


def test_no_connection_of_the_pool_is_used(make_database: MakeDatabase, role: dict[str, str]) -> None:
    """It works while the pool is exhausted, and counts as nobody's lease."""
    database = make_database(max_size=1, reserve_size=0, **role)
    with database.holding():
        server_counts.watch("test", interval=HOUR)
        server_counts.look()
        assert wait_until(lambda: answered(database), PATIENCE)
        assert (database.pool.snapshot().size, database.pool.snapshot().waiting) == (1, 0)


def test_an_idle_process_is_silent(make_database: MakeDatabase, role: dict[str, str]) -> None:
    """After one interval without a lease nothing is asked and the connection is closed; with the next it goes on."""
    database = make_database(**role)
    begin(database, SHORT)
    assert wait_until(lambda: answered(database), PATIENCE)
    assert wait_until(lambda: latest(database) is None and leaders(database) == [], PATIENCE)
    assert len(database.backends()) == 1  # the pool's
    database.fetch("SELECT 1")
    server_counts.look()
    assert wait_until(lambda: answered(database), PATIENCE)


def test_a_long_lease_is_no_idleness(make_database: MakeDatabase, role: dict[str, str]) -> None:
    database = make_database(**role)
    with database.holding():
        server_counts.watch("test", interval=SHORT)
        assert wait_until(lambda: answered(database), PATIENCE)
        watch = server_counts._watches[database.alias]
        thread = watch._thread
        times: set[float] = set()
        while len(times) < 4:
            assert watch._thread is thread
            if watch._found is not None:
                times.add(watch._found[0])
            assert thread is not None
            thread.join(SHORT / 5)


def leaders(database: Database) -> list[int]:
    """Sessions with the lock."""
    rows = database.observer.execute(
        "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND classid = %s AND granted AND application_name = %s",
        [server_counts.LOCK, database.application],
    )
    return [pid for (pid,) in rows]


def test_a_session_that_is_killed(make_database: MakeDatabase, role: dict[str, str]) -> None:
    """Nobody notices but the watch, which begins again with another."""
    database = make_database(**role)
    with database.holding():
        server_counts.watch("test", interval=SHORT)
        assert wait_until(lambda: answered(database), PATIENCE)
        (first,) = leaders(database)
        assert database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [first]).fetchone() == (True,)
        assert wait_until(lambda: latest(database) is None, PATIENCE)
        assert wait_until(lambda: answered(database) and leaders(database) != [first], PATIENCE)


def test_a_server_that_is_away(make_database: MakeDatabase) -> None:
    database = make_database(PORT=1, timeout=0.05)
    with pytest.raises(Exception, match="unavailable"):
        database.fetch("SELECT 1")
    server_counts.watch("test", interval=HOUR)
    server_counts.look()
    assert wait_until(lambda: asking(database) is False, PATIENCE)
    assert latest(database) is None


def test_whatever_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An alias that is gone, for example: nobody else would hear of what a thread raises."""
    watch = server_counts._Watch("nowhere", HOUR)
    watch.look()
    watch.close(PATIENCE)
    assert "asking the server for its connections failed" in caplog.text


def test_a_test_environment_is_left_alone(make_database: MakeDatabase) -> None:
    """A database with a session of ours could not be dropped; the same outside of it, in a process of its own."""
    database = make_database()
    database.fetch("SELECT 1")
    server_counts.watch("test", interval=HOUR)
    reporter.flush()
    assert asking(database) is None

    def child() -> bool:
        teardown_test_environment()
        database.fetch("SELECT 1")
        return wait_until(lambda: asking(database) is not None, PATIENCE)

    assert Child(child).result() is True


def test_not_behind_a_pooler_of_transactions(make_database: MakeDatabase) -> None:
    """The lock would stay with one of its sessions."""
    database = make_database(pooler="transaction", DISABLE_SERVER_SIDE_CURSORS=True)
    begin(database)
    assert database.alias not in server_counts._watches


def test_several_may_want_it(make_database: MakeDatabase, role: dict[str, str]) -> None:
    database = make_database(**role)
    begin(database)
    server_counts.watch("another", interval=HOUR)
    server_counts.unwatch("test")
    assert wait_until(lambda: answered(database), PATIENCE)
    server_counts.unwatch("another")
    assert latest(database) is None
    assert wait_until(lambda: len(database.backends()) == 1, PATIENCE)


def test_opentelemetry_tells_them(make_database: MakeDatabase, role: dict[str, str]) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    try:
        opentelemetry.install(provider, server_interval=HOUR)
        database = make_database(**role)
        with database.holding():
            server_counts.look()
            assert wait_until(lambda: answered(database), PATIENCE)
            found = collect(reader)
        state = {"db__client__connection__state": "idle in transaction"}
        assert value(found, "django_dbpool.server.connections", database.alias, **state) == 1
        assert value(found, "django_dbpool.server.total_connections", database.alias) == 1
        assert value(found, "django_dbpool.server.max_connections", database.alias) > 10
    finally:
        opentelemetry.uninstall()
        provider.shutdown()
    assert collect(reader) == {}
