"""Pools that are small enough for two threads to meet in them, and the threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from tests.fixtures.aliases import MakeAlias
from tests.fixtures.workers import Worker


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
