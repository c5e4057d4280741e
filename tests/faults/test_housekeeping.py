"""What a pool does by itself: sizes kept, old connections retired, long leases reported. Time passes when told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from django_dbpool.core.config import PoolConfig
from django_dbpool.core.ledger import Owner
from django_dbpool.pool.entry import PoolEntry
from django_dbpool.pool.housekeeping import REOPEN_DELAY
from django_dbpool.pool.managed import ManagedPool
from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Clock, Task

APPLICATION = "faults-housekeeping"

MakePool = Callable[..., "Pool"]


class Pool:
    """A pool on its own: no wrapper, no background thread, time by hand."""

    def __init__(self, server: Server, observer: psycopg.Connection[Any], **config: Any) -> None:
        self.clock = Clock()
        self.observer = observer
        self.owner = Owner()
        self.checked: list[psycopg.Connection[Any]] = []
        self.port = server.port
        settings = {"min_size": 0, "max_size": 4, **config}
        self.pool = ManagedPool(
            PoolConfig(**settings),
            alias="kept",
            connect_kwargs=lambda: {
                **psycopg.conninfo.conninfo_to_dict(server.dsn),
                "port": self.port,
                "application_name": APPLICATION,
                "autocommit": True,
            },
            clock=self.clock,
        )
        self.pool._check = self._check

    def _check(self, conn: psycopg.Connection[Any]) -> None:
        self.checked.append(conn)
        ManagedPool.check_connection(conn)

    def lease(self, count: int) -> list[PoolEntry]:
        return [self.pool.lease(self.owner) for _ in range(count)]

    def release(self, *entries: PoolEntry) -> None:
        for entry in entries:
            self.pool.release(entry, self.owner)

    def open(self, count: int) -> list[PoolEntry]:
        """Have ``count`` free connections; the first of the list is the next to be lent."""
        entries = self.lease(count)
        self.release(*reversed(entries))
        return entries

    def tick(self) -> float:
        return self.pool.housekeeping.tick()

    def backends(self) -> set[int]:
        rows = self.observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [APPLICATION])
        return {pid for (pid,) in rows}

    def assert_open(self, *entries: PoolEntry) -> None:
        """Exactly these connections exist, for the pool and for the server."""
        assert self.pool.entries == set(entries)
        assert self.pool.gate.size == len(entries)
        pids = {entry.backend_pid for entry in entries}
        assert wait_until(lambda: self.backends() == pids, PATIENCE), (self.backends(), pids)


@pytest.fixture
def make_pool(session_server: Server) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []
    with session_server.connect(application_name="observer") as observer:

        def make(**config: Any) -> Pool:
            made.append(Pool(session_server, observer, **config))
            return made[-1]

        yield make
        for pool in made:
            pool.pool.close()


def test_idle_connections_go_down_to_min_size(make_pool: MakePool) -> None:
    """Those unused for max_idle are closed, oldest first, and the last min_size stay for good."""
    pool = make_pool(min_size=1, max_idle=300)
    newest, *older = pool.open(4)
    pool.clock.advance(299)
    assert pool.tick() == pytest.approx(1)
    pool.assert_open(newest, *older)
    pool.release(*pool.lease(1))  # the newest is used again
    pool.clock.advance(1)
    pool.tick()
    pool.assert_open(newest)
    pool.clock.advance(10 * 300)
    pool.tick()
    pool.assert_open(newest)


def test_idle_pool_of_min_size_zero_ends_empty(make_pool: MakePool) -> None:
    """A database that scales to zero may sleep."""
    pool = make_pool(max_idle=300)
    pool.open(3)
    pool.clock.advance(301)
    pool.tick()
    pool.assert_open()


def test_lifetime_has_jitter(make_pool: MakePool) -> None:
    """Connections that were opened together don't all end together."""
    pool = make_pool(max_size=20, max_lifetime=1000)
    lifetimes = [entry.expires_at - pool.clock() for entry in pool.open(20)]
    assert all(950 <= lifetime <= 1000 for lifetime in lifetimes)
    assert len(set(lifetimes)) > 10


def test_old_connections_are_retired_though_idle(make_pool: MakePool) -> None:
    """max_lifetime ends a free connection without anybody leasing it, and min_size is filled anew."""
    pool = make_pool(min_size=2, max_idle=5000, max_lifetime=1000)
    old = set(pool.open(2))
    pool.clock.advance(1000)
    pool.tick()
    assert len(pool.pool.entries) == 2
    assert not pool.pool.entries & old
    pool.assert_open(*pool.pool.entries)


def test_old_connection_is_not_lent_again(make_pool: MakePool) -> None:
    """Between two rounds of upkeep too."""
    pool = make_pool(max_lifetime=1000)
    (old,) = pool.open(1)
    pool.clock.advance(1000)
    (entry,) = pool.lease(1)
    assert entry is not old
    pool.assert_open(entry)
    pool.release(entry)


def test_connection_that_grows_old_in_use_ends_with_its_lease(make_pool: MakePool) -> None:
    """Nobody is interrupted by max_lifetime."""
    pool = make_pool(max_lifetime=1000)
    (entry,) = pool.lease(1)
    pool.clock.advance(5000)
    pool.tick()
    pool.assert_open(entry)
    pool.release(entry)
    pool.assert_open()


def test_min_size_is_filled_and_filled_again(make_pool: MakePool) -> None:
    """Also after a connection was lost with what it was used for."""
    pool = make_pool(min_size=3)
    pool.tick()
    assert pool.pool.snapshot().idle == 3
    pool.pool.discard(pool.lease(1)[0])
    assert pool.pool.snapshot().size == 2
    pool.tick()
    pool.assert_open(*pool.pool.entries)
    assert pool.pool.snapshot().idle == 3


def test_filling_waits_for_the_server(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    """While it is away the attempts are rare and quiet, and no place is lost by them."""
    caplog.set_level(logging.INFO, logger="django_dbpool")
    pool = make_pool(min_size=2)
    port, pool.port = pool.port, free_port()
    for _ in range(3):
        assert pool.tick() <= REOPEN_DELAY
        assert pool.pool.gate.size == 0
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    pool.port = port
    pool.clock.advance(REOPEN_DELAY)
    assert pool.tick() > REOPEN_DELAY
    assert pool.pool.snapshot().idle == 2


def test_round_trip_only_after_check_idle(make_pool: MakePool) -> None:
    """A connection that was used a moment ago is lent as it is."""
    pool = make_pool(check_idle=30)
    (entry,) = pool.open(1)
    pool.clock.advance(29)
    pool.release(*pool.lease(1))
    pool.clock.advance(29)
    pool.release(*pool.lease(1))
    assert pool.checked == []
    pool.clock.advance(30)
    pool.release(*pool.lease(1))
    assert pool.checked == [entry.conn]


def test_resize(make_pool: MakePool) -> None:
    """Up: room at once. Down: free ones are closed at once, leased ones when they come back, and nobody exceeds it."""
    pool = make_pool(max_size=2)
    pool.pool.resize(3, 5)
    pool.tick()
    assert pool.pool.snapshot().idle == 3
    leased = pool.lease(5)
    pool.assert_open(*leased)
    pool.release(leased[0])
    pool.pool.resize(0, 3)
    pool.assert_open(*leased[1:])
    pool.release(leased[1])
    pool.assert_open(*leased[2:])
    pool.release(leased[2])
    pool.assert_open(*leased[2:])
    (again,) = pool.lease(1)
    assert again is leased[2]
    pool.pool.resize(0, 1)
    pool.release(again, leased[3])
    pool.assert_open(leased[4])
    pool.release(leased[4])
    pool.assert_open(leased[4])
    assert pool.pool.snapshot().max_size == 1


def test_resize_serves_those_who_wait(make_pool: MakePool) -> None:
    """A larger limit is a permit for the first in the queue."""
    pool = make_pool(max_size=1, timeout=PATIENCE)
    (entry,) = pool.lease(1)
    task = Task(pool.pool.getconn)
    assert wait_until(lambda: pool.pool.gate.waiting == 1, PATIENCE)
    pool.pool.resize(0, 2)
    pool.pool.putconn(task.result())
    pool.release(entry)


def test_drain(make_pool: MakePool) -> None:
    """Every connection of before is replaced: free ones at once, leased ones with the end of their leases."""
    pool = make_pool()
    entries = pool.lease(3)
    pool.release(entries[0])
    pool.pool.drain()
    pool.assert_open(*entries[1:])
    pool.release(*entries[1:])
    pool.assert_open()
    assert not set(pool.open(3)) & set(entries)


def test_check_closes_the_dead_alone(make_pool: MakePool) -> None:
    pool = make_pool()
    entries = pool.open(3)
    pool.observer.execute("SELECT pg_terminate_backend(%s)", [entries[1].backend_pid])
    assert wait_until(entries[1].suspicious, PATIENCE)
    pool.pool.check()
    pool.assert_open(entries[0], entries[2])


@pytest.mark.parametrize("pinned", [False, True], ids=["lease", "pin"])
def test_long_holders_are_reported_once(make_pool: MakePool, pinned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Each lease once, when leak_after or pin_max has passed; the next lease of the connection anew."""
    caplog.set_level(logging.WARNING, logger="django_dbpool")
    pool = make_pool(leak_after=1000 if pinned else 60, pin_max=60 if pinned else 1000)
    for number in range(1, 3):
        (entry,) = pool.lease(1)
        if pinned:
            entry.pinned, entry.pinned_at = "SET search_path", pool.clock()
        pool.clock.advance(59)
        pool.tick()
        assert len(caplog.records) == number - 1
        pool.clock.advance(1)
        pool.tick()
        pool.clock.advance(100)
        pool.tick()
        assert len(caplog.records) == number
        message = caplog.records[-1].getMessage()
        assert f"a {'pin' if pinned else 'lease'} is held for long" in message
        assert repr(pool.owner.thread.name) in message
        assert str(entry.backend_pid) in message
        assert ("SET search_path" in message) == pinned
        entry.pinned = None
        pool.release(entry)


def test_next_round_is_due_when_something_can_happen(make_pool: MakePool) -> None:
    """The background thread sleeps no longer than the shortest of the times that it watches."""
    assert make_pool(leak_after=7).tick() <= 7
    assert make_pool(pin_max=8).tick() <= 8
    assert make_pool(max_idle=9).tick() <= 9
    pool = make_pool(max_idle=100, max_lifetime=40)
    pool.open(1)
    assert 38 <= pool.tick() <= 40


def test_a_connection_too_many_is_closed_as_soon_as_it_is_counted(make_pool: MakePool) -> None:
    """Interrupts can leave the count too low, and the pool then opens one more. Nothing is granted above max_size."""
    pool = make_pool(max_size=2, timeout=PATIENCE)
    pool.open(2)
    gate = pool.pool.gate
    leased = pool.lease(2)
    assert gate.correct(gate.counted(), 1, 0)
    pool.release(*pool.lease(1), *leased)
    assert len(pool.pool.entries) == 3
    pool.pool.housekeeping.reclaim_lost()  # as waiting callers do, and the background thread
    assert (gate.size, len(pool.pool.entries)) == (2, 2)
    pool.release(*pool.lease(2))
