"""connection.pool as code that knows psycopg_pool uses it, and the background thread at work."""

from __future__ import annotations

import logging
import threading

import psycopg
import pytest
from django.db import transaction
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from django_dbpool.pool import background, registry
from testproject.postgres import free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task


def test_background_thread_keeps_the_sizes(make_database: MakeDatabase) -> None:
    """Without anybody asking: filled to min_size after the first lease, emptied to it after max_idle."""
    database = make_database(min_size=2, max_idle=0.2)
    database.backend()
    assert wait_until(lambda: database.pool.snapshot().idle == 2, PATIENCE)
    database.serve_at_once(4)
    assert wait_until(lambda: len(database.backends()) == 2, PATIENCE)
    assert database.settle().size == 2


def test_process_that_has_nothing_to_do_leaves_the_server_alone(make_database: MakeDatabase) -> None:
    """With min_size 0 the last connection goes after max_idle, and none is opened again."""
    database = make_database(min_size=0, max_idle=0.1)
    database.serve_at_once(3)
    assert wait_until(lambda: database.backends() == set(), PATIENCE)
    background.start()  # one more round
    assert wait_until(lambda: database.pool.housekeeping.tick() >= 0.1, PATIENCE)
    assert database.backends() == set()
    assert database.settle().size == 0


def test_background_thread_outlives_a_fault(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the upkeep of one pool is logged, and the other pools are kept all the same."""
    broken, healthy = make_database(), make_database(min_size=2)
    broken.backend()
    failed = threading.Event()

    def fail() -> float:
        failed.set()
        raise RuntimeError("upkeep")

    monkeypatch.setattr(broken.pool.housekeeping, "tick", fail)
    healthy.backend()
    assert failed.wait(PATIENCE)
    assert wait_until(lambda: healthy.pool.snapshot().idle == 2, PATIENCE)
    assert any(f"upkeep of database {broken.alias!r} failed" in message for message in caplog.messages)


def test_one_thread_for_all_pools(make_database: MakeDatabase) -> None:
    """A pool costs connections, not threads."""
    make_database().backend()
    before = threading.active_count()
    for _ in range(5):
        make_database().backend()
    assert threading.active_count() == before


def test_borrowing_by_hand(database: Database) -> None:
    """getconn() and putconn(), as psycopg_pool's; what the borrower did to the session is not lent on."""
    pool = database.pool
    assert isinstance(pool, ConnectionPool)
    conn = pool.getconn()
    assert conn.autocommit
    assert pool.snapshot().in_use == 1
    (holder,) = pool.holders()
    assert holder.thread == threading.current_thread().name
    conn.execute("SET statement_timeout = '4321ms'")
    before = conn.info.backend_pid
    pool.putconn(conn)
    assert pool.snapshot().in_use == 0
    with pytest.raises(ValueError, match="was not lent by it"):
        pool.putconn(conn)
    assert database.fetch("SHOW statement_timeout") == "0"
    assert database.backend() != before


def test_foreign_connection_is_not_taken(database: Database) -> None:
    foreign = database.observer
    with pytest.raises(ValueError, match="was not lent by it"):
        database.pool.putconn(foreign)
    assert not foreign.closed


def test_block_of_a_pool(database: Database, table: str) -> None:
    """``with pool.connection()``: as in psycopg."""
    for number in range(10):
        with database.pool.connection() as conn:
            assert conn.execute("SELECT %s::int", [number]).fetchone() == (number,)
    with pytest.raises(ZeroDivisionError), database.pool.connection() as conn:
        conn.autocommit = False
        conn.execute(f"INSERT INTO {table} VALUES ('x')")
        raise ZeroDivisionError
    assert database.fetch(f"SELECT count(*) FROM {table}") == 0
    database.assert_whole()


def test_errors_are_psycopg_pools(make_database: MakeDatabase) -> None:
    """Code that catches PoolTimeout or PoolClosed goes on working."""
    database = make_database(max_size=1)
    pool = database.pool
    conn = pool.getconn()
    with pytest.raises(PoolTimeout, match="couldn't get a connection after"):
        pool.getconn(timeout=0.01)
    pool.putconn(conn)
    pool.close()
    with pytest.raises(PoolClosed):
        pool.getconn()
    down = make_database(PORT=str(free_port()))
    with pytest.raises(PoolTimeout) as caught:
        down.pool.getconn()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_borrower_that_ends_without_returning(database: Database) -> None:
    """Its connection may be in other hands by now: it is closed, never lent to a second one, and no place is lost."""
    passed_on: list[psycopg.Connection] = []
    Task(lambda: passed_on.append(database.pool.getconn())).result()
    (conn,) = passed_on
    pid = conn.info.backend_pid
    database.pool.housekeeping.reclaim_lost()
    database.settle()
    assert conn.closed
    with pytest.raises(ValueError, match="was not lent by it"):
        database.pool.putconn(conn)
    assert pid not in database.serve_at_once(4)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_close(make_database: MakeDatabase, mode: str) -> None:
    """Free connections go at once, leased ones with their leases; the alias makes a new pool when asked again."""
    database = make_database(mode=mode)
    pool = database.pool
    with database.holding(2) as held:
        database.serve_at_once(2)
        assert wait_until(lambda: pool.snapshot().in_use == 2, PATIENCE)
        pool.close()
        assert wait_until(lambda: database.backends() == set(held), PATIENCE)
        assert pool not in registry.pools()
        assert database.backend() not in held
        assert database.pool is not pool
        database.connection.close()
    assert wait_until(lambda: not database.backends() & set(held), PATIENCE)
    assert (pool.snapshot().size, pool.snapshot().in_use) == (0, 0)
    pool.close()  # a second time does nothing
    database.assert_whole()


def test_close_while_others_wait(make_database: MakeDatabase) -> None:
    """Who is queued at a pool that is closed is served by the next one."""
    database = make_database(max_size=1)
    with database.holding():
        tasks = [Task(database.backend) for _ in range(5)]
        assert wait_until(lambda: database.pool.gate.waiting == 5, PATIENCE)
        database.connection.close_pool()
        assert all(task.result() for task in tasks)
    database.assert_whole()


def test_leak_of_a_django_lease_is_reported(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """By the background thread, with the holder's thread, once."""
    caplog.set_level(logging.WARNING, logger="django_dbpool.pool")
    database = make_database(leak_after=0.1, pin_max=0.1, max_idle=0.1)

    def reports() -> list[str]:
        return [message for message in caplog.messages if repr(database.alias) in message]

    with transaction.atomic(using=database.alias):
        database.backend()
        assert wait_until(lambda: bool(reports()), PATIENCE)
        database.pool.housekeeping.tick()
    (report,) = reports()
    assert "a lease is held for long" in report
    assert repr(threading.current_thread().name) in report


def test_statistics(make_database: MakeDatabase) -> None:
    """get_stats() has the gauges under psycopg_pool's names, with the pool's own exact numbers."""
    database = make_database(min_size=1, max_size=3, timeout=PATIENCE)
    database.serve_at_once(3)
    database.settle()
    with database.holding(3):
        task = Task(database.backend)
        assert wait_until(lambda: database.pool.gate.waiting == 1, PATIENCE)
        stats = database.pool.get_stats()
    task.result()
    assert {name: stats[name] for name in ("pool_min", "pool_max", "pool_size", "pool_available")} == {
        "pool_min": 1,
        "pool_max": 3,
        "pool_size": 3,
        "pool_available": 0,
    }
    assert stats["requests_waiting"] == 1
    assert stats["connections_num"] >= 3
    assert database.pool.get_stats()["requests_waiting"] == 0
