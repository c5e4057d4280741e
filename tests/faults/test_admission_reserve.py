"""Reserved work has a connection though all of the pool are taken, and costs nobody else one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial

import pytest
from asgiref.sync import sync_to_async
from django.db import transaction

from django_dbpool import transaction as admission
from django_dbpool.errors import PoolExhausted, ServerConnectionsExhausted
from django_dbpool.pool import housekeeping
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Task
from tests.faults.test_admission import waits


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_reserved_work_runs_though_every_connection_is_taken(make_database: MakeDatabase, mode: str) -> None:
    database = make_database(max_size=2, timeout=0.3, mode=mode)
    with database.holding(2):
        with pytest.raises(PoolExhausted):
            database.backend()
        with admission.reserved():
            assert database.backend() in database.backends()
        assert len(database.backends()) == 3
        snapshot = database.pool.snapshot()
        assert (snapshot.max_size, snapshot.reserve_size, snapshot.size, snapshot.reserved) == (2, 1, 3, 1)
        database.connection.close()
        with pytest.raises(PoolExhausted) as caught:
            database.backend()
        assert (caught.value.in_use, caught.value.max_size) == (2, 2)
        assert len(database.backends()) == 3, "the same connection serves the next statement"
    database.connection.close()


def test_the_holder_of_a_reserved_connection_is_named_as_such(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=0.3)
    with database.holding(), admission.reserved(), transaction.atomic(using=database.alias):
        database.backend()
        with pytest.raises(PoolExhausted) as caught:
            Task(database.backend).result()
        assert [holder.reserved for holder in caught.value.holders] == [False, True]
        assert "in the reserve" in str(caught.value)
        assert (caught.value.in_use, database.pool.snapshot().in_use) == (1, 2)


def test_more_than_the_reserve_has_wait_in_front_of_all_others(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=PATIENCE)
    order: list[str] = []

    def use(name: str) -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            order.append(name)

    def use_reserved() -> None:
        with admission.reserved():
            use("reserved")

    def use_first() -> None:
        with admission.priority():
            use("priority")

    with database.holding():
        with admission.reserved(), transaction.atomic(using=database.alias):
            database.backend()
            tasks = []
            calls: list[Callable[[], object]] = [partial(use, "ordinary"), use_first, use_reserved]
            for number, call in enumerate(calls, 1):
                tasks.append(Task(call))
                assert wait_until(partial(waits, database, number), PATIENCE)
        tasks.pop().result()  # got the reserve
        assert order == ["reserved"]
    for task in tasks:
        task.result()
    assert order == ["reserved", "priority", "ordinary"]


def test_an_idle_reserve_costs_no_connection(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "RESERVE_LINGER", 0.0)
    database = make_database(max_size=1)
    with database.holding():
        with admission.reserved():
            database.backend()
        assert wait_until(lambda: len(database.backends()) == 1, PATIENCE)
        assert database.pool.snapshot().reserved == 0
    database.assert_whole()


def test_a_reserved_connection_that_dies_frees_its_place(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=PATIENCE)
    with database.holding(), admission.reserved():
        for _ in range(3):
            first = database.backend()
            database.observer.execute("SELECT pg_terminate_backend(%s)", [first])
            (entry,) = database.pool.gate.reserve_free
            assert wait_until(entry.suspicious, PATIENCE)
            assert database.backend() != first
            assert database.pool.gate.reserve_used == 1
    database.pool.drain()
    assert wait_until(lambda: database.pool.snapshot().reserved == 0, PATIENCE)
    database.assert_whole()


def test_a_thread_that_dies_with_a_reserved_connection_loses_it(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, timeout=PATIENCE)

    def leave_it() -> None:
        admission.reserved().__enter__()
        transaction.atomic(using=database.alias).__enter__()
        database.backend()

    with database.holding():
        Task(leave_it).result()
        with admission.reserved():
            assert database.backend()
        assert database.pool.gate.reserve_used == 1


def test_a_full_server_lets_reserved_work_wait_for_an_ordinary_connection(
    make_database: MakeDatabase, session_server: Server
) -> None:
    with session_server.connect() as superuser:
        superuser.execute("CREATE ROLE lonely LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    database = make_database(max_size=1, timeout=PATIENCE, USER="lonely", PASSWORD="x", breaker=True)
    try:
        with database.holding():
            ordinary = Task(database.backend)
            assert wait_until(lambda: waits(database, 1), PATIENCE)

            def reserved() -> int:
                with admission.reserved():
                    return database.backend()

            task = Task(reserved)
            assert wait_until(lambda: waits(database, 2), PATIENCE)
        assert task.result()
        assert ordinary.result()
        database.connection.close_pool()
    finally:
        assert wait_until(lambda: not database.backends(), PATIENCE)
        with session_server.connect() as superuser:
            superuser.execute("DROP ROLE lonely")


def test_a_full_server_that_has_only_our_reserve_is_not_waited_for(
    make_database: MakeDatabase, session_server: Server
) -> None:
    """An ordinary caller is never given the reserve's connection; to ask again and again would go on for ever."""
    with session_server.connect() as superuser:
        superuser.execute("CREATE ROLE lonely LOGIN PASSWORD 'x' CONNECTION LIMIT 2")
        retry = {"attempts": 3, "total": 1}
        database = make_database(max_size=1, timeout=1, USER="lonely", PASSWORD="x", retry=retry)
        release, held = threading.Event(), threading.Event()

        def hold_reserve() -> None:
            with admission.reserved(), transaction.atomic(using=database.alias):
                database.backend()
                held.set()
                release.wait(PATIENCE)

        try:
            with database.holding():
                task = Task(hold_reserve)
                assert held.wait(PATIENCE)
                superuser.execute("ALTER ROLE lonely CONNECTION LIMIT 1")
                database.pool.drain()  # the ordinary one is closed when it comes back
            assert wait_until(lambda: len(database.backends()) == 1, PATIENCE)
            permits = database.pool.gate.permits
            assert isinstance(Task(database.backend).error(), ServerConnectionsExhausted)
            assert database.pool.gate.permits == permits + 1
            release.set()
            task.result()
            database.connection.close_pool()
        finally:
            release.set()
            assert wait_until(lambda: not database.backends(), PATIENCE)
            superuser.execute("DROP ROLE lonely")


def test_the_mark_goes_where_the_context_goes(make_database: MakeDatabase) -> None:
    """As a decorator of both kinds of functions, through sync_to_async, and not beyond its block."""
    database = make_database(max_size=1, timeout=0.3)

    @admission.reserved()
    def plainly() -> int:
        return database.backend()

    @admission.reserved()
    async def asynchronously() -> int:
        return await sync_to_async(database.backend, thread_sensitive=False)()

    with database.holding():
        assert plainly() in database.backends()
        assert asyncio.run(asynchronously()) in database.backends()
        with pytest.raises(PoolExhausted):
            database.backend()
        with admission.reserved():
            assert copy_context().run(database.backend)
            with pytest.raises(PoolExhausted):
                Task(database.backend).result()


def test_a_generator_cant_be_decorated() -> None:
    def rows() -> Iterator[int]:
        yield 1

    for mark in (admission.reserved(), admission.priority(), admission.group("batch")):
        with pytest.raises(TypeError, match="generator"):
            mark(rows)
    with pytest.raises(TypeError, match=r"name of a group, .*, not 7"):
        admission.group(7)  # type: ignore[arg-type]


def test_a_block_in_a_generator_ends_with_the_generator(make_database: MakeDatabase) -> None:
    """In whatever order blocks are left, none of them outlives its end."""
    database = make_database(max_size=1, timeout=0.3)

    def rows() -> Iterator[int]:
        with admission.reserved():
            yield 1

    with database.holding():
        generator = rows()
        next(generator)
        with admission.group("other"):
            generator.close()
            with pytest.raises(PoolExhausted):
                database.backend()
        with pytest.raises(PoolExhausted):
            database.backend()
