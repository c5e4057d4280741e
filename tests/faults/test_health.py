"""Readiness and its probe: what each fault looks like, and that nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic

import pytest
from django.db import connections

from django_dbpool import health
from django_dbpool.pool import dedicated, probing
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.django_db(transaction=True)

MakeDatabase = Callable[..., Database]


@pytest.fixture(autouse=True)
def closed_probes() -> Iterator[None]:
    """Every probe of a test ends with it."""
    yield
    probing.close(timeout=PATIENCE)
    assert wait_until(lambda: not probe_threads(), PATIENCE), probe_threads()


def probe_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dbpool-health")]


def of(alias: str, *, fresh: bool = True) -> health.DatabaseReady:
    began = monotonic()
    found = health.ready(fresh=fresh)
    print(f"{monotonic() - began:.3f} s, {found.status}")
    return next(each for each in found.databases if each.alias == alias)


def test_ready(database: Database) -> None:
    found = of(database.alias)
    assert found.ok and found.code == "ok", found
    assert len(database.backends()) == 1
    assert database.backends() == set(dedicated.dedicated_backends()[database.alias])
    assert database.pool.snapshot().size == 0
