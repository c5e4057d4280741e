"""The upkeep of pools: on a clock of the test's own, and the one thread that calls it."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import psycopg
import pytest

from django_dbpool.core.config import PoolConfig
from django_dbpool.core.ledger import Owner
from django_dbpool.pool import background, registry
from django_dbpool.pool.entry import PoolEntry
from django_dbpool.pool.housekeeping import LOST_AFTER, REOPEN_DELAY
from django_dbpool.pool.managed import ManagedPool
from testproject.postgres import Server, free_port
from testproject.processes import wait_until

LONG = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


MakePool = Callable[..., ManagedPool]


@pytest.fixture
def make_pool(session_server: Server, clock: Clock) -> Iterator[MakePool]:
    """Pools that the background thread doesn't know of."""
    made: list[ManagedPool] = []

    def make(*, port: int | None = None, **config: Any) -> ManagedPool:
        kwargs = psycopg.conninfo.conninfo_to_dict(session_server.dsn) | ({"port": port} if port else {})
        pool = ManagedPool(
            PoolConfig(**{"min_size": 0, "timeout": 5.0, **config}),
            alias="unit",
            connect_kwargs=lambda: dict(kwargs),
            clock=clock,
        )
        pool.housekeeping._started = True
        made.append(pool)
        return pool

    yield make
    for pool in made:
        for entry in tuple(pool.entries):
            pool.discard(entry)
        pool.close()


def opened(pool: ManagedPool, number: int) -> list[PoolEntry]:
    """So many connections, all free; the last in the list was used last."""
    entries = [pool.lease(Owner()) for _ in range(number)]
    for entry in entries:
        pool.release(entry, entry.owner)
    return entries


def sizes(pool: ManagedPool) -> tuple[int, int, int, int]:
    """Size, in use, idle, being opened."""
    now = pool.snapshot()
    return now.size, now.in_use, now.idle, now.opening


def in_thread(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, name="gone")
    thread.start()
    thread.join(LONG)
    return thread


# -- retiring and filling ------------------------------------------------------------------------------------------


def test_connections_idle_for_max_idle_are_retired_down_to_min_size(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(min_size=1, max_idle=10.0)
    first, second, third = opened(pool, 3)
    clock.now += 6
    assert pool.lease(Owner()) is third
    pool.release(third, third.owner)
    assert pool.housekeeping.retire() == pytest.approx(4.0), "the others are due then"
    clock.now += 4
    assert pool.housekeeping.retire() == pytest.approx(10.0), "nobody is left to be retired"
    assert (list(pool.gate.free), sizes(pool)) == ([third], (1, 0, 1, 0))
    assert first.conn.closed and second.conn.closed
    clock.now += 100
    pool.housekeeping.retire()
    assert sizes(pool) == (1, 0, 1, 0)
    assert not third.conn.closed


def test_old_connections_are_retired_even_below_min_size_and_filled_again(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(min_size=2, max_lifetime=100.0)
    before = opened(pool, 2)
    assert all(1095.0 <= entry.expires_at <= 1100.0 for entry in before), "jitter: not all at once"
    clock.now += 94
    pool.housekeeping.tick()
    assert not any(entry.conn.closed for entry in before)
    clock.now += 6
    pool.housekeeping.tick()
    assert all(entry.conn.closed for entry in before)
    assert sizes(pool) == (2, 0, 2, 0)


def test_a_leased_connection_is_never_retired(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_idle=1.0, max_lifetime=2.0)
    entry = pool.lease(Owner())
    clock.now += 1000
    pool.housekeeping.retire()
    assert not entry.conn.closed
    pool.release(entry, entry.owner)
    pool.housekeeping.retire()
    assert entry.conn.closed


def test_a_tick_fills_up_to_min_size(make_pool: MakePool) -> None:
    pool = make_pool(min_size=3)
    pool.housekeeping.tick()
    assert sizes(pool) == (3, 0, 3, 0)


def test_filling_is_tried_again_soon_while_the_server_is_away(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(min_size=2, port=free_port())
    with caplog.at_level(logging.INFO, "django_dbpool.pool"):
        assert 0 < pool.housekeeping.tick() <= REOPEN_DELAY
    assert "can't fill the pool to min_size" in caplog.text
    assert sizes(pool) == (0, 0, 0, 0), "a failed attempt keeps no permit"


def test_resize_takes_effect_in_both_directions(make_pool: MakePool) -> None:
    pool = make_pool(max_size=4)
    opened(pool, 4)
    pool.resize(0, 1)
    pool.housekeeping.tick()
    assert sizes(pool) == (1, 0, 1, 0)
    pool.resize(3, 3)
    pool.housekeeping.tick()
    assert sizes(pool) == (3, 0, 3, 0)


def test_drain_replaces_every_connection(make_pool: MakePool) -> None:
    pool = make_pool()
    free, leased = opened(pool, 2)
    assert pool.lease(Owner()) is leased
    pool.drain()
    assert free.conn.closed and not leased.conn.closed
    pool.release(leased, leased.owner)
    fresh = pool.lease(Owner())
    assert leased.conn.closed and fresh not in (free, leased)
    pool.release(fresh, fresh.owner)


def test_check_closes_what_the_server_has_dropped(make_pool: MakePool, session_server: Server) -> None:
    pool = make_pool()
    dead, alive = opened(pool, 2)
    with session_server.connect() as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", [dead.backend_pid])
    assert wait_until(dead.suspicious, LONG)
    pool.check()
    assert list(pool.gate.free) == [alive]
    assert sizes(pool) == (1, 0, 1, 0)


# -- leases whose holder is gone -----------------------------------------------------------------------------------


def test_the_clean_connection_of_a_dead_thread_is_lent_on(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(max_size=1)
    in_thread(lambda: pool.lease(Owner()))
    assert sizes(pool) == (1, 1, 0, 0)
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        pool.housekeeping.reclaim_lost()
    assert sizes(pool) == (1, 0, 1, 0)
    (record,) = caplog.records
    assert "reclaimed the lease of a holder that is gone: thread 'gone'" in record.getMessage()


@pytest.mark.parametrize("why", ["transaction", "pinned", "stream"])
def test_any_other_connection_of_a_dead_thread_is_closed(make_pool: MakePool, why: str) -> None:
    pool = make_pool(max_size=1)
    entries: list[PoolEntry] = []

    def run() -> None:
        entry = pool.lease(Owner())
        entries.append(entry)
        if why == "transaction":
            entry.conn.execute("BEGIN")
        elif why == "pinned":
            entry.pinned = "SET ROLE"
        else:
            entry.streams = 1

    in_thread(run)
    pool.housekeeping.reclaim_lost()
    assert entries[0].conn.closed
    assert sizes(pool) == (0, 0, 0, 0)


def test_a_waiter_gets_the_connection_of_a_dead_thread(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    in_thread(lambda: pool.lease(Owner()))
    pool.clock = pool.gate._clock = time.monotonic
    entry = pool.lease(Owner(), timeout=LONG)
    assert sizes(pool) == (1, 1, 0, 0)
    pool.release(entry, entry.owner)


def test_a_later_lease_of_the_same_connection_is_not_reclaimed(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1)
    entry = pool.lease(Owner())
    generation = entry.generation
    pool.release(entry, entry.owner)
    assert pool.lease(Owner()) is entry
    pool.housekeeping.reclaim(entry, generation)
    assert sizes(pool) == (1, 1, 0, 0)
    pool.housekeeping.reclaim(entry, entry.generation)
    assert sizes(pool) == (1, 0, 1, 0)


def test_a_living_holder_keeps_its_lease(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool()
    entry = pool.lease(Owner())
    for _ in range(3):
        pool.housekeeping.reclaim_lost()
        clock.now += 10 * LOST_AFTER
    assert sizes(pool) == (1, 1, 0, 0)
    pool.release(entry, entry.owner)


def test_a_connection_lost_between_two_hands_is_closed_after_a_while(
    make_pool: MakePool, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """As an exception leaves it that strikes between the free stack and the owner's name."""
    pool = make_pool(max_size=1)
    opened(pool, 1)
    entry = pool.gate.free.pop()
    pool.housekeeping.reclaim_lost()
    clock.now += LOST_AFTER - 1
    pool.housekeeping.reclaim_lost()
    assert not entry.conn.closed
    clock.now += 1
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        pool.housekeeping.reclaim_lost()
    assert entry.conn.closed
    assert sizes(pool) == (0, 0, 0, 0)
    assert f"backend {entry.backend_pid} was lost" in caplog.text


def test_a_connection_that_moves_on_is_not_lost(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(max_size=1)
    opened(pool, 1)
    for _ in range(4):
        entry = pool.gate.free.pop()
        pool.housekeeping.reclaim_lost()
        clock.now += LOST_AFTER
        pool.release(entry, entry.owner)  # a lease went by; the next look sees another generation
    assert not entry.conn.closed


# -- warnings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pinned", "what"), [(None, "a lease"), ("SET ROLE", "a pin")])
def test_a_long_lease_and_a_long_pin_are_reported_once(
    make_pool: MakePool, clock: Clock, caplog: pytest.LogCaptureFixture, pinned: str | None, what: str
) -> None:
    pool = make_pool(leak_after=1000.0 if pinned else 20.0, pin_max=20.0)
    entry = pool.lease(Owner())
    entry.pinned, entry.pinned_at = pinned, clock.now
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        clock.now += 19
        pool.housekeeping.tick()
        assert not caplog.records
        for _ in range(3):
            clock.now += 1
            pool.housekeeping.tick()
        (record,) = caplog.records
        assert record.getMessage().startswith(f"database 'unit': {what} is held for long: thread ")
        assert "20.0 s" in record.getMessage()
        entry.pinned = None
        pool.release(entry, entry.owner)
        assert pool.lease(Owner()) is entry
        clock.now += 1000
        pool.housekeeping.tick()
    assert len(caplog.records) == 2, "the next lease is another matter"
    pool.release(entry, entry.owner)


def test_the_next_tick_comes_in_time_for_the_warning(make_pool: MakePool) -> None:
    pool = make_pool(leak_after=7.0, max_idle=300.0)
    entry = pool.lease(Owner())
    assert pool.housekeeping.tick() <= 7.0
    pool.config = dataclasses.replace(pool.config, leak_after=60.0, pin_max=3.0)
    assert pool.housekeeping.tick() <= 3.0
    pool.release(entry, entry.owner)


# -- the thread ----------------------------------------------------------------------------------------------------


def background_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dbpool-background"]


def test_one_daemon_thread_for_all_pools_started_by_the_first_lease(make_pool: MakePool) -> None:
    for _ in range(3):
        pool = make_pool()
        pool.housekeeping._started = False
        opened(pool, 1)
        opened(pool, 1)
    (thread,) = background_threads()
    assert thread.daemon


def test_an_abandoned_lease_is_reclaimed_by_the_thread(make_pool: MakePool) -> None:
    background.start()
    pool = make_pool(max_size=1)
    entry = pool.lease(Owner())
    background.abandon(pool, entry, entry.generation)
    assert wait_until(lambda: sizes(pool) == (1, 0, 1, 0), LONG)


def test_the_thread_survives_what_goes_wrong(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    background.start()
    bad, good = make_pool(max_size=1), make_pool(max_size=1)
    bad.housekeeping.reclaim = lambda *_: 1 / 0  # type: ignore[assignment]
    with caplog.at_level(logging.ERROR, "django_dbpool.pool"):
        for pool in (bad, good):
            entry = pool.lease(Owner())
            background.abandon(pool, entry, entry.generation)
        assert wait_until(lambda: sizes(good) == (1, 0, 1, 0), LONG)
    assert "reclaiming an abandoned lease failed" in caplog.text
    assert len(background_threads()) == 1


def test_one_bad_pool_does_not_stop_the_upkeep_of_the_others(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = make_pool(min_size=1), make_pool(min_size=1, max_idle=5.0)
    bad.housekeeping.tick = lambda: 1 / 0  # type: ignore[method-assign]
    monkeypatch.setattr(registry, "pools", lambda: (bad, good))
    with caplog.at_level(logging.ERROR, "django_dbpool.pool"):
        assert background._tick() == 5.0
    assert "upkeep of database 'unit' failed" in caplog.text
    assert sizes(good) == (1, 0, 1, 0)


def test_without_pools_the_thread_sleeps_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "pools", lambda: ())
    assert background._tick() == background.LONGEST_SLEEP


def test_connection_that_came_too_late_took_its_time(make_pool: MakePool, clock: Clock) -> None:
    """Its caller has given up; how long it took to connect is counted nevertheless."""
    pool = make_pool()
    connect = pool.connector._connect

    def slowly(deadline: float) -> psycopg.Connection[Any]:
        clock.now += 3.0
        return connect(deadline)

    pool.connector._connect = slowly  # type: ignore[method-assign]
    given_up: Future[psycopg.Connection[Any]] = Future()
    given_up.cancel()
    before = pool.tally.read().connect
    pool.connector._connect_later(given_up, clock.now + LONG)
    since = pool.tally.read().connect.since(before)
    assert since.count == 1
    assert since.total == pytest.approx(3.0)
