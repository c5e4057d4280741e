"""Readiness on an event loop, liveness, and the connectivity of one database."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import ConnectionDoesNotExist

from django_dbpool import health
from django_dbpool.health import readiness
from django_dbpool.pool import probing, registry
from testproject.postgres import EmbeddedServer
from testproject.processes import wait_until
from tests.faults.health.probes import MakeDatabase, of, row
from tests.faults.helpers import PATIENCE, Database, Task

pytestmark = pytest.mark.django_db(transaction=True)


# -- event loops ---------------------------------------------------------------------------------------------


def test_the_event_loop_goes_on(
    server: EmbeddedServer,
    make_database: MakeDatabase,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a frozen server is waited for, and every thread of the loop's executor as well."""
    database = make_database(server)
    release = threading.Event()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def main() -> tuple[health.Ready, health.Connectivity]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocked = loop.run_in_executor(None, release.wait, PATIENCE)
        ticking = asyncio.create_task(tick())
        try:
            with monkeypatch.context() as patch:
                patch.setattr(readiness, "TIMEOUT", PATIENCE)
                found = await health.aready(fresh=True)
            assert row(found, database).ok
            assert found.seconds < PATIENCE / 2, "it has waited for a thread"
            probing.close(timeout=PATIENCE)
            server.freeze()
            return await asyncio.gather(health.aready(fresh=True), health.aconnectivity(database.alias))
        finally:
            release.set()
            ticking.cancel()
            await blocked
            with suppress(asyncio.CancelledError):
                await ticking

    try:
        ready, found = asyncio.run(main())
    finally:
        server.thaw()
    assert (row(ready, database).code, found.code) == ("timeout", "timeout")
    assert ticks > 5
    # The loop has ended in which the answer was waited for; that is nobody's error.
    assert wait_until(lambda: of(database).ok, PATIENCE)
    probing.close(timeout=PATIENCE)  # its thread has told everybody
    assert not [record for record in caplog.records if record.name == "concurrent.futures"]


def test_cancelled_while_waiting(server: EmbeddedServer, make_database: MakeDatabase) -> None:
    """Of the callers that share a question one leaves."""
    database = make_database(server)
    server.freeze()

    async def main() -> health.Connectivity:
        first = asyncio.create_task(health.aconnectivity(database.alias, PATIENCE))
        second = asyncio.create_task(health.aconnectivity(database.alias, PATIENCE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        server.thaw()
        return await second

    try:
        assert asyncio.run(main()).ok
    finally:
        server.thaw()


# -- liveness ------------------------------------------------------------------------------------------------


def test_live_takes_no_lock(database: Database) -> None:
    """Every lock of ours that a thread could hang in is held by somebody else."""
    assert of(database).ok
    pool, probe = database.pool, probing._probes[database.alias]
    locks: list[Any] = [registry._lock, pool.gate._lock, pool.breaker._lock, probe._changed]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        assert Task(health.live).result().ok
    assert set(health.live().to_json()) == {"pid", "timestamp", "status"}


# -- one alias -----------------------------------------------------------------------------------------------


def test_connectivity(make_database: MakeDatabase) -> None:
    database = make_database(max_size=7, retry={"attempts": 3}, breaker={"break_duration": 9})
    found = health.connectivity(database.alias)
    assert found.ok and found.pooling
    assert found.sizes == {"min": 0, "max": 7, "reserve": 1}
    assert found.lifetimes == {"max_lifetime": 3600.0, "max_idle": 300.0, "check_idle": 30.0}
    assert found.retry["attempts"] == 3
    assert (found.breaker["break_duration"], found.breaker["state"]) == (9.0, "closed")
    database.pool.resize(1, 3)
    assert health.connectivity(database.alias).sizes["max"] == 3
    json.dumps(found.to_json(), allow_nan=False)


def test_a_pool_that_nobody_has_used(make_database: MakeDatabase) -> None:
    database = make_database(max_size=7)
    assert health.saturation(database.alias).max == 7
    assert health.circuit(database.alias).state == "closed"
    assert not [pool for pool in registry.pools() if pool.alias == database.alias], "asking makes none"


def test_mistakes(make_database: MakeDatabase) -> None:
    with pytest.raises(ConnectionDoesNotExist):
        health.saturation("nowhere")
    with pytest.raises(ImproperlyConfigured, match="no engine of django_dbpool"):
        health.circuit(make_database(ENGINE="django.db.backends.postgresql").alias)
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        health.connectivity("default", timeout="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        health.connectivity("default", timeout=-1)
