"""Pools that are small enough for two threads to meet in them, and the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections
from psycopg import sql

from django_dbpool import batch
from django_dbpool.backends.leases import LeaseMixin
from django_dbpool.batch import Start, starting
from testproject.postgres import Server, free_port
from testproject.processes import wait_until
from tests.app import failing
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import hold
from tests.fixtures.workers import PATIENCE, Worker


@pytest.fixture(params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_pool(make_alias: MakeAlias) -> Callable[..., str]:
    """
    Adds an alias on the test database of alias default and returns its name.

    Keyword arguments: `size` and `mode` of its pool, entries of DATABASES[alias].
    """

    def make(size: int = 1, mode: str = "transaction", **entry: Any) -> str:
        pool = {"max_size": size, "min_size": 0, "mode": mode, "timeout": 2, **entry.pop("POOL", {})}
        name = connections["default"].settings_dict["NAME"]
        return make_alias(**{"NAME": name, "POOL": pool, **entry})

    return make


@pytest.fixture
def single(make_pool: Callable[..., str]) -> str:
    """An alias in transaction mode whose pool has one connection."""
    return make_pool()


@pytest.fixture
def make_worker(make_alias: MakeAlias) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def make() -> Worker:
        workers.append(Worker(f"worker-{len(workers) + 1}"))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


@pytest.fixture
def worker(make_worker: Callable[[], Worker]) -> Worker:
    """Another thread."""
    return make_worker()


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why connections were pinned, from now on."""
    seen: list[str] = []
    original = LeaseMixin._pin

    def note(self: Any, reason: str) -> None:
        seen.append(reason)
        original(self, reason)

    monkeypatch.setattr(LeaseMixin, "_pin", note)
    return seen


@pytest.fixture
def failing_alias(
    make_pool: Callable[..., str],
    make_worker: Callable[[], Worker],
    observer: psycopg.Connection[Any],
    session_server: Server,
) -> Iterator[Callable[..., str]]:
    """An alias on which one of the failures of ``tests.app.failing`` happens."""

    def make(failure: str, **entry: Any) -> str:
        observer.execute(failing.RAISE)
        pool: dict[str, Any] = {
            "timeout": 0.2 if failure == "exhausted" else 5,
            "retry": False,
            "breaker": failure == "open",
        }
        if failure == "down":
            return make_pool(PORT=str(free_port()), POOL=pool, **entry)
        if failure == "full":
            observer.execute("DROP ROLE IF EXISTS crowded")
            password = sql.Literal(session_server.password or "-")
            observer.execute(sql.SQL("CREATE ROLE crowded LOGIN CONNECTION LIMIT 0 PASSWORD {}").format(password))
            return make_pool(USER="crowded", POOL=pool, **entry)
        if failure == "slow":
            return make_pool(POOL={**pool, "command_timeout": 0.05}, **entry)
        if failure == "overloaded":
            pool |= {"timeout": 20, "max_waiting": 1}
        alias = make_pool(POOL=pool, **entry)
        if failure == "open":
            connections[alias].pool.connector.breaker.isolate()
        if failure in ("exhausted", "overloaded"):
            make_worker()(hold, alias)
        if failure == "overloaded":
            make_worker().start(hold, alias)
            assert wait_until(lambda: connections[alias].pool.snapshot().waiting == 1, PATIENCE)
        if failure == "55P03":
            observer.execute("SELECT pg_advisory_lock(4711)")
        return alias

    yield make
    observer.execute("DROP ROLE IF EXISTS crowded")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """What is sent again of the runs whose task begins with "tests."; nobody sends others."""
    monkeypatch.setattr(starting, "_starters", {})
    starts: list[Start] = []
    batch.register_starter("tests.", starts.append)
    return starts
