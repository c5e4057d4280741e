"""A pool in an overload, its reserve, and the limits of groups; with threads that really wait for a real server."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from io import BytesIO
from time import monotonic
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.handlers.wsgi import WSGIHandler
from django.db import transaction
from django.test import override_settings

from django_dbpool import transaction as admission
from django_dbpool.core.gate import CROWD
from django_dbpool.errors import PoolExhausted, PoolOverloaded, ServerConnectionsExhausted
from django_dbpool.pool import housekeeping
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults import urls
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

CROWDED = {"max_size": 1, "timeout": PATIENCE, "queue_target": 0.01, "queue_interval": 0.1}


def waits(database: Database, count: int) -> bool:
    return database.pool.gate.waiting == count


@contextmanager
def overloaded(database: Database) -> Iterator[list[Task]]:
    """A crowd in front of a connection that is not given back; nobody has been told yet."""
    with database.holding():
        tasks = [Task(database.backend) for _ in range(CROWD + 2)]
        yield tasks
    for task in tasks:
        task.join(PATIENCE)


# -- overload --------------------------------------------------------------------------------------------------------


def test_a_crowd_that_stands_too_long_is_shed_and_newcomers_are_refused_at_once(make_database: MakeDatabase) -> None:
    database = make_database(**CROWDED)
    with overloaded(database) as tasks:
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        start = monotonic()
        with pytest.raises(PoolOverloaded) as caught:
            database.backend()
        assert monotonic() - start < PATIENCE / 3
    error = caught.value
    assert isinstance(error, PoolExhausted)
    assert (error.alias, error.in_use, error.max_size, error.waiting) == (database.alias, 1, 1, 1)
    assert error.waited < PATIENCE / 3
    assert error.cycle == ()
    assert "overloaded, refused after" in str(error)
    assert 'queue_target"] = 0.01 s' in str(error)
    assert str(error.holders[0]) in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (PoolOverloaded, str(error), vars(error))
    served = [task for task in tasks if task.error() is None]
    assert len(served) == 1, "as many as there are connections are kept, and served"
    assert all(isinstance(task.error(), PoolOverloaded) for task in tasks if task not in served)
    database.assert_whole()


def test_without_a_target_nobody_is_shed(make_database: MakeDatabase) -> None:
    database = make_database(**{**CROWDED, "queue_target": None})
    with overloaded(database) as tasks:
        assert wait_until(lambda: waits(database, len(tasks)), PATIENCE)
        assert database.pool.gate.codel is None
    assert all(task.result() for task in tasks)


def test_the_queue_of_an_outage_is_no_overload(make_database: MakeDatabase, server: EmbeddedServer) -> None:
    """However many wait for a server that comes back after more than an interval: all are served."""
    retry = {"total": PATIENCE, "attempts": 1000, "max_delay": 0.1}
    database = make_database(server, max_size=1, timeout=PATIENCE, queue_target=0.05, queue_interval=1.5, retry=retry)
    database.backend()
    server.stop()
    tasks = [Task(database.backend) for _ in range(4 * CROWD)]
    since = monotonic()
    assert wait_until(lambda: monotonic() - since > 3.0 or any(not task.is_alive() for task in tasks), PATIENCE)
    server.start()
    assert [task.error() for task in tasks] == [None] * len(tasks)


def test_one_beyond_the_longest_queue_is_refused_at_once(make_database: MakeDatabase) -> None:
    database = make_database(max_size=1, max_waiting=1, timeout=PATIENCE)
    with database.holding():
        task = Task(database.backend)
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        start = monotonic()
        with pytest.raises(PoolOverloaded, match=r'callers wait as POOL\["max_waiting"\] = 1 allows'):
            database.backend()
        assert monotonic() - start < PATIENCE / 3
    assert task.result()


def test_holders_are_looked_at_once_a_second_however_many_are_refused(make_database: MakeDatabase) -> None:
    """What the others are told says how old it is."""
    database = make_database(max_size=2, max_waiting=1, timeout=PATIENCE)
    database.serve_at_once(2)
    with database.holding(2):
        waiter = Task(database.backend)
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        began = monotonic()
        errors = [task.error() for task in [Task(database.backend) for _ in range(200)]]
        seconds = monotonic() - began
        assert database.pool.captured.captures <= seconds + 1
        with pytest.raises(PoolOverloaded) as caught:
            database.backend()
    assert waiter.result()
    assert all(isinstance(error, PoolOverloaded) and len(error.holders) == 2 for error in errors)
    old = caught.value
    assert 0 < old.holders_age < 1
    assert f"The holders {old.holders_age:.1f} s ago:" in str(old)
    assert all("holding" in "".join(holder.stack) for holder in old.holders)


# -- the reserve -----------------------------------------------------------------------------------------------------


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


# -- groups ----------------------------------------------------------------------------------------------------------


def in_group(name: str, call: Any) -> Any:
    with admission.group(name):
        return call()


def hold(database: Database, held: threading.Semaphore, release: threading.Event) -> None:
    with transaction.atomic(using=database.alias):
        database.backend()
        held.release()
        release.wait(PATIENCE)


@contextmanager
def group_in_use(database: Database, name: str, count: int) -> Iterator[None]:
    """So many members of a group in transactions."""
    held, release = threading.Semaphore(0), threading.Event()
    tasks = [Task(in_group, name, partial(hold, database, held, release)) for _ in range(count)]
    try:
        for _ in tasks:
            assert held.acquire(timeout=PATIENCE)
        yield
    finally:
        release.set()
        for task in tasks:
            task.result()


def test_a_group_takes_no_more_than_its_limit_and_is_in_nobodys_way(make_database: MakeDatabase) -> None:
    database = make_database(max_size=4, timeout=PATIENCE, groups={"limits": {"batch": 2}})
    with group_in_use(database, "batch", 2):
        batches = [Task(in_group, "batch", database.backend) for _ in range(3)]
        assert wait_until(lambda: waits(database, 3), PATIENCE)
        database.serve_at_once(2)  # everybody else goes on
        assert database.pool.snapshot().waiting == 3
        database.pool.config = database.pool.config.__class__.from_mapping({"timeout": 0.05})
        with pytest.raises(PoolExhausted) as caught:
            in_group("batch", database.backend)
        assert "group 'batch' may have 2 connections (POOL[\"groups\"]) and has 2, 3 more of it waiting" in str(
            caught.value
        )
        assert [holder.group for holder in caught.value.holders] == ["batch", "batch"]
        assert "group 'batch'" in str(caught.value.holders[0])
    assert all(task.result() for task in batches)
    assert database.pool.gate.members() == set()
    database.assert_whole()


def environ(path: str, query: str, **more: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "wsgi.input": BytesIO(),
        "wsgi.url_scheme": "http",
        **more,
    }


def request(path: str, database: Database, **more: str) -> bytes:
    response = WSGIHandler()(environ(path, f"alias={database.alias}", **more), lambda *started: len)  # type: ignore[arg-type]
    body = b"".join(response)
    response.close()
    return body


def client_of(unit: Any) -> str | None:
    """The function of the next test but one."""
    return unit and unit.get("REMOTE_ADDR")


SITE = override_settings(ROOT_URLCONF="tests.faults.urls", ALLOWED_HOSTS=["*"])


@SITE
def test_requests_are_grouped_by_their_route(make_database: MakeDatabase) -> None:
    database = make_database(max_size=4, timeout=PATIENCE, groups={"limits": {"hold/*": 2}})
    urls.gate.clear()
    tasks = [Task(request, f"/hold/{number}/", database) for number in range(3)]
    try:
        for _ in range(2):
            assert urls.arrived.acquire(timeout=PATIENCE)
        assert wait_until(lambda: waits(database, 1), PATIENCE)
        assert b"backend" in request("/query/", database)
        assert {holder.group for holder in database.pool.holders()} == {"hold/*"}
    finally:
        urls.gate.set()
        assert all(b"backend" in task.result() for task in tasks)
    assert urls.arrived.acquire(timeout=PATIENCE)


@SITE
def test_one_client_does_not_take_all(make_database: MakeDatabase) -> None:
    groups = {"by": f"{__name__}.client_of", "default": 1}
    database = make_database(max_size=4, timeout=PATIENCE, groups=groups)
    urls.gate.clear()
    tasks = [Task(lambda: request("/hold/1/", database, REMOTE_ADDR="10.0.0.1")) for _ in range(3)]
    try:
        assert urls.arrived.acquire(timeout=PATIENCE)
        assert wait_until(lambda: waits(database, 2), PATIENCE)
        assert b"backend" in request("/query/", database, REMOTE_ADDR="10.0.0.2")
        assert database.backend(), "outside of any request"
    finally:
        urls.gate.set()
        assert all(b"backend" in task.result() for task in tasks)
    for _ in range(2):
        assert urls.arrived.acquire(timeout=PATIENCE)
    assert database.pool.gate.members() == set()


def test_a_commit_hook_does_not_wait_for_itself(make_database: MakeDatabase) -> None:
    database = make_database(max_size=2, timeout=1, groups={"limits": {"batch": 1}})
    answers: list[int] = []
    with admission.group("batch"), transaction.atomic(using=database.alias):
        transaction.on_commit(lambda: answers.append(database.backend()), using=database.alias)
        database.backend()
    assert len(answers) == 1


def test_a_holder_that_waits_for_its_own_group_is_told_so(make_database: MakeDatabase) -> None:
    """A thread that holds the group's only place waits for a thread that needs it."""
    database = make_database(max_size=4, timeout=0.2, groups={"limits": {"batch": 1}})

    def outer() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            inner = Task(in_group, "batch", database.backend)
            inner.join(PATIENCE)
            inner.result()

    error = Task(in_group, "batch", outer).error()
    assert isinstance(error, PoolExhausted)
    assert "group 'batch' may have 1 connection (POOL[\"groups\"]) and has 1" in str(error)
    assert len(error.cycle) == 2
    assert f"waits for '{database.alias}, group batch', held by" in error.cycle[0]
    database.assert_whole()


def test_reserved_work_has_no_group(make_database: MakeDatabase) -> None:
    database = make_database(max_size=4, timeout=0.3, groups={"limits": {"batch": 1}})
    with group_in_use(database, "batch", 1), admission.group("batch"):
        with admission.reserved():
            assert database.backend()
        with pytest.raises(PoolExhausted):
            database.backend()


@pytest.mark.parametrize("loss", ["killed", "died", "expired"])
def test_the_groups_place_comes_back_however_the_lease_ends(make_database: MakeDatabase, loss: str) -> None:
    database = make_database(max_size=2, timeout=PATIENCE, groups={"limits": {"batch": 1}})

    def use() -> None:
        block = transaction.atomic(using=database.alias)
        block.__enter__()
        backend = database.backend()
        if loss == "killed":
            database.observer.execute("SELECT pg_terminate_backend(%s)", [backend])
            with pytest.raises(psycopg.OperationalError):
                database.pool.entries.copy().pop().conn.execute("SELECT 1")
            database.connection.close()
        elif loss == "expired":
            database.pool.drain()
            database.connection.close()

    Task(in_group, "batch", use).result()
    if loss != "died":  # a dead thread's lease is taken back by the next one who waits
        assert database.pool.gate.members() == set()
    assert Task(in_group, "batch", database.backend).result()
    assert database.pool.gate.members() == set()
    database.assert_whole()


def test_nobody_below_its_limit_starves(make_database: MakeDatabase) -> None:
    """Twelve greedy batches on one place, and pages of short transactions on the rest: no page waits for a batch."""
    database = make_database(max_size=2, timeout=PATIENCE, groups={"limits": {"batch": 1}})
    database.serve_at_once(2)
    over = threading.Event()
    waited: list[float] = []

    def batch() -> None:
        while not over.is_set():
            database.fetch("SELECT pg_sleep(0.05)")

    def page() -> None:
        for _ in range(20):
            start = monotonic()
            database.backend()
            waited.append(monotonic() - start)

    batches = [Task(in_group, "batch", batch) for _ in range(12)]
    pages = [Task(page) for _ in range(4)]
    for task in pages:
        task.result()
    over.set()
    for task in batches:
        task.result()
    assert max(waited) < 1.0
    database.assert_whole()
