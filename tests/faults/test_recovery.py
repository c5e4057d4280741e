"""After an outage: full size soon, also if nobody comes, and without a storm. Ahead of the first request: warm()."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connections

import django_dbpool
from django_dbpool.backends.warming import warm_at_start
from django_dbpool.core.config import PoolConfig
from django_dbpool.core.errors import CircuitIsOpen, Unreachable
from django_dbpool.core.ledger import Owner
from django_dbpool.core.retry import RetryPolicy
from django_dbpool.errors import PoolError
from django_dbpool.pool import filling, turns
from django_dbpool.pool.managed import ManagedPool
from testproject.postgres import EmbeddedServer, Server, free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Clock, Task

SLOW = {"options": "-c post_auth_delay=1"}
"""The server takes a second for each connection."""


class Counting:
    """Connects, and knows how many did so at the same time; waits where it is told to."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = server.port
        self.most = 0
        self.attempts = 0
        self.held = threading.Event()
        self.held.set()
        self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.attempts += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def __call__(self, kwargs: dict[str, Any]) -> psycopg.Connection[Any]:
        with self._counted():
            assert self.held.wait(PATIENCE)
            return psycopg.connect(self.server.dsn, port=self.port, autocommit=True)


@pytest.fixture
def make_pool(session_server: Server) -> Iterator[Callable[..., tuple[ManagedPool, Counting]]]:
    made: list[ManagedPool] = []

    def make(**config: Any) -> tuple[ManagedPool, Counting]:
        connect = Counting(session_server)
        pool = ManagedPool(
            PoolConfig(**{"min_size": 0, "max_size": 12, **config}),
            alias="recovering",
            connect_kwargs=dict,
            connect=connect,
            **({"clock": clock} if (clock := config.pop("clock", None)) else {}),
        )
        pool.housekeeping._started = True  # no background thread of its own accord
        made.append(pool)
        return pool, connect

    yield make
    for pool in made:
        for entry in tuple(pool.entries):
            pool.discard(entry)
        pool.close()


MakePool = Callable[..., tuple[ManagedPool, Counting]]


def test_growth_has_no_limit_but_max_size(make_pool: MakePool) -> None:
    """While all is well nobody waits for somebody else's connect."""
    pool, connect = make_pool(max_size=12)
    connect.held.clear()
    tasks = [Task(pool.lease, Owner()) for _ in range(12)]
    assert wait_until(lambda: connect.most == 12, PATIENCE)
    connect.held.set()
    for task in tasks:
        task.result()


def test_storm_after_an_outage_is_capped(make_pool: MakePool) -> None:
    """All get their connection, three at a time."""
    pool, connect = make_pool(max_size=12, timeout=PATIENCE, retry=RetryPolicy(enabled=False))
    connect.port, port = free_port(), connect.port
    with pytest.raises(Unreachable):
        pool.lease(Owner())
    connect.port, connect.most = port, 0
    connect.held.clear()
    tasks = [Task(pool.lease, Owner()) for _ in range(12)]
    assert wait_until(lambda: len(pool.connector.turns._busy) == turns.AT_ONCE == connect.most, PATIENCE)
    assert wait_until(lambda: pool.gate.size == 12, PATIENCE)
    connect.held.set()
    for task in tasks:
        task.result()
    assert connect.most == turns.AT_ONCE
    assert len(pool.entries) == 12
    assert not pool.connector.turns._busy


def test_whoever_waits_for_a_turn_hears_that_the_circuit_is_open(make_pool: MakePool) -> None:
    pool, connect = make_pool(timeout=600, retry=RetryPolicy(enabled=False))
    pool.connector.turns.trouble()
    connect.held.clear()
    tasks = [Task(pool.lease, Owner()) for _ in range(turns.AT_ONCE)]
    assert wait_until(lambda: connect.most == turns.AT_ONCE, PATIENCE)
    waiting = Task(pool.lease, Owner())
    assert wait_until(lambda: pool.gate.size == turns.AT_ONCE + 1, PATIENCE)
    pool.connector.breaker.isolate()
    assert isinstance(waiting.error(), CircuitIsOpen)
    connect.held.set()
    for task in tasks:
        task.result()
    assert wait_until(lambda: pool.gate.size == turns.AT_ONCE, PATIENCE)


def test_turns_end_with_the_recovery() -> None:
    """Five seconds after the last failure nobody waits any more, whatever became of those who connect."""
    clock = Clock()
    queue = turns.Turns(clock)
    queue.trouble()
    hold = threading.Event()

    def attempt() -> None:
        with queue.one(clock.now + 1000, lambda: False):
            hold.wait(PATIENCE)

    tasks = [Task(attempt) for _ in range(turns.AT_ONCE)]
    assert wait_until(lambda: len(queue._busy) == turns.AT_ONCE, PATIENCE)
    late = Task(attempt)
    late.join(0.2)
    assert len(queue._busy) == turns.AT_ONCE
    clock.advance(turns.RECOVERY)
    assert wait_until(lambda: len(queue._busy) == turns.AT_ONCE + 1, PATIENCE)
    hold.set()
    for task in (*tasks, late):
        task.result()
    assert not queue._busy


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_interrupted_wait_for_a_turn_keeps_none(interrupt: type[BaseException]) -> None:
    queue = turns.Turns(monotonic)

    def interrupted() -> bool:
        raise interrupt

    queue.trouble()
    queue._busy.update(object() for _ in range(turns.AT_ONCE))
    with pytest.raises(interrupt), queue.one(monotonic() + PATIENCE, interrupted):
        pass
    assert len(queue._busy) == turns.AT_ONCE


def test_filling_is_parallel_and_capped(make_pool: MakePool) -> None:
    pool, connect = make_pool(min_size=10, max_size=10)
    connect.held.clear()
    task = Task(pool.housekeeping.tick)
    assert wait_until(lambda: connect.most == filling.AT_ONCE, PATIENCE)
    connect.held.set()
    task.result()
    assert pool.snapshot().idle == 10
    assert connect.most == filling.AT_ONCE
    assert connect.attempts == 10


def test_filling_stops_at_the_first_failure(make_pool: MakePool) -> None:
    pool, connect = make_pool(min_size=10, max_size=10)
    connect.port = free_port()
    pool.housekeeping.tick()
    assert 1 <= connect.attempts <= filling.AT_ONCE
    assert pool.gate.size == 0


def test_refused_credentials_are_not_tried_again(make_pool: MakePool, session_server: Server) -> None:
    """To repeat them could lock the account. A caller who gets in says that they are good again."""
    with session_server.connect() as superuser:
        superuser.execute("CREATE ROLE nobody_yet NOLOGIN")
    pool, connect = make_pool(min_size=2, max_size=4)
    original, connect.server = connect.server, Server.from_dsn(session_server.dsn)
    connect.server.user = "nobody_yet"
    try:
        pool.housekeeping.tick()
        attempts = connect.attempts
        assert 1 <= attempts <= 2
        for _ in range(3):
            assert pool.housekeeping.tick() > 1
        assert connect.attempts == attempts
        connect.server = original
        owner = Owner()
        pool.release(pool.lease(owner), owner)
        pool.housekeeping.tick()
        assert pool.snapshot().idle == 2
    finally:
        with session_server.connect() as superuser:
            superuser.execute("DROP ROLE nobody_yet")


@pytest.mark.parametrize("circuit", [True, False])
def test_full_size_without_traffic(make_database: MakeDatabase, server: EmbeddedServer, circuit: bool) -> None:
    """Nobody comes after the outage; min_size is there again within five seconds all the same."""
    server.start()
    database = make_database(server, min_size=4, max_size=8, breaker={"minimum_throughput": 2})
    assert django_dbpool.warm(using=database.alias)
    server.kill()
    for _ in range(3 if circuit else 1):
        with pytest.raises(PoolError):
            database.backend()
    server.start()
    accepts = monotonic()
    pool = connections[database.alias].pool
    assert wait_until(lambda: pool.snapshot().idle == len(live(pool)) == 4, PATIENCE), pool.snapshot()
    assert monotonic() - accepts < 5
    database.observer.close()
    database.observer = server.connect(application_name="observer")
    assert len(database.backends()) == 4
    database.observer.close()
    connections[database.alias].close_pool()


def live(pool: ManagedPool) -> list[Any]:
    return [entry for entry in tuple(pool.entries) if not entry.suspicious()]


def test_warm(make_database: MakeDatabase) -> None:
    """It opens as many as the pool keeps, at the same time: one after the other would take four seconds."""
    database = make_database(min_size=4, max_size=6, OPTIONS=SLOW)
    start = monotonic()
    assert django_dbpool.warm(timeout=PATIENCE, using=database.alias)
    assert monotonic() - start < 3
    assert len(database.backends()) == database.settle().idle == 4
    assert django_dbpool.warm(timeout=0, using=database.alias)  # there is nothing left to do
    database.assert_whole()


def test_warm_without_a_server(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """It says so, in time."""
    database = make_database(min_size=2, PORT=str(free_port()), warm=True)
    start = monotonic()
    assert not django_dbpool.warm(timeout=0.3, using=database.alias)
    assert monotonic() - start < 3
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        assert not warm_at_start(0.1)
    assert f"database {database.alias!r}: 0 of min_size = 2 connections open" in caplog.text
    connections[database.alias].close_pool()


def test_only_marked_aliases_are_warmed_at_the_start(make_database: MakeDatabase) -> None:
    marked, other = make_database(min_size=2, warm=True), make_database(min_size=2)
    off = make_database(enabled=False)
    assert warm_at_start(PATIENCE)
    assert len(marked.backends()) == 2
    assert not other.backends()
    assert django_dbpool.warm(using=off.alias)
    assert not off.backends()
