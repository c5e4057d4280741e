"""Limits of groups: by name, by route and by client, with threads that really wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import transaction
from django.test import override_settings

from django_dbpool import transaction as admission
from django_dbpool.errors import PoolExhausted
from testproject.processes import wait_until
from tests.faults import urls
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.faults.test_admission import waits


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
