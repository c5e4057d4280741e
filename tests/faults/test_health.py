"""Readiness and its neighbours: what each fault looks like, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from time import monotonic
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

import django_dbpool
from django_dbpool import health
from django_dbpool.fleet import server as fleet_server
from django_dbpool.health import readiness
from django_dbpool.health.asking import _connect_to
from django_dbpool.pool import dedicated, probing, registry, stopping
from django_dbpool.pool.entry import PoolEntry
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.django_db(transaction=True)

MakeDatabase = Callable[..., Database]

HAND = {"probe_interval": None, "break_duration": 60}
"""A circuit that nobody but a caller closes."""


@pytest.fixture(autouse=True)
def closed_probes() -> Iterator[None]:
    """Every probe of a test ends with it."""
    yield
    probing.close(timeout=PATIENCE)
    readiness._warmed.clear()
    assert wait_until(lambda: not probe_threads(), PATIENCE), probe_threads()


def probe_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dbpool-health")]


def of(database: Database, *, fresh: bool = True) -> health.DatabaseReady:
    return row(health.ready(fresh=fresh), database)


def row(found: health.Ready, database: Database) -> health.DatabaseReady:
    return next(each for each in found.databases if each.alias == database.alias)


def backends(database: Database) -> set[int]:
    """The probe's sessions on the server, in whatever process of ours."""
    sql = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    name = f"{database.application} django_dbpool-health"
    return {pid for (pid,) in database.observer.execute(sql, [name])}


def asked(database: Database) -> int:
    probe = probing._probes.get(database.alias)
    return 0 if probe is None else probe.question.asked


# -- readiness -----------------------------------------------------------------------------------------------


def test_ready(database: Database) -> None:
    found = of(database)
    assert (found.ok, found.code) == (True, "ok")
    assert backends(database) == set(dedicated.dedicated_backends()[database.alias])
    assert database.pool.snapshot().size == 0, "it is nobody's of the pool"
    (again,) = (each for each in health.ready().databases if each.alias == database.alias)
    assert asked(database) == 1
    assert again.age is not None and again.age < PATIENCE
    json.dumps(health.ready().to_json(), allow_nan=False)


def test_probes_of_others_are_no_strangers(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that have no other work, and so publish nothing that the fleet could know them by."""
    monkeypatch.setattr(fleet_server, "SETTLED", 0.0)
    with closing(_connect_to(database.alias)()) as connection:
        strangers = {each.pid for each in fleet_server.server_of(database.alias, ()).strangers}
        assert database.observer.info.backend_pid in strangers
        assert connection.info.backend_pid not in strangers


def test_the_name_of_a_session_is_cut(make_database: MakeDatabase) -> None:
    """In front, so that the end says what it is."""
    database = make_database(OPTIONS={"application_name": "x" * 80})
    assert of(database).ok
    sql = "SELECT application_name FROM pg_stat_activity WHERE pid = %s"
    (pid,) = dedicated.dedicated_backends()[database.alias]
    row = database.observer.execute(sql, [pid]).fetchone()
    assert row == (f"{'x' * 40} django_dbpool-health",)


def test_an_exhausted_pool_is_ready(make_database: MakeDatabase) -> None:
    database = make_database(max_size=2, reserve_size=0)
    with database.holding(2):
        waiting = Task(database.backend)
        assert wait_until(lambda: database.pool.snapshot().waiting == 1, PATIENCE)
        found = of(database)
        assert found.ok
        full = found.saturation
        assert full is not None and full.is_exhausted
        assert (full.active, full.max, full.waiting, full.utilization_percent) == (2, 2, 1, 100.0)
        assert 0 < full.longest_wait < PATIENCE
    waiting.result()
    empty = health.saturation(database.alias)
    assert (empty.active, empty.waiting, empty.longest_wait, empty.is_exhausted) == (0, 0, 0.0, False)


@pytest.mark.parametrize("by_hand", [True, False], ids=["isolated", "open"])
def test_a_circuit_that_refuses(make_database: MakeDatabase, *, by_hand: bool) -> None:
    """Not ready at once, and the server is left alone."""
    database = make_database(breaker=HAND)
    breaker = database.pool.breaker
    if by_hand:
        breaker.isolate()
    else:
        breaker.trip(OSError("secret"))
    found = of(database)
    assert (found.ok, found.code) == (False, "circuit_isolated" if by_hand else "circuit_open")
    assert asked(database) == 0
    assert health.circuit(database.alias).refuses
    assert "secret" not in json.dumps(found.to_json())
    breaker.reset()
    assert of(database).ok


def test_a_circuit_whose_break_is_over(make_database: MakeDatabase) -> None:
    """It is closed by the next caller. Were it not ready there would be none, ever."""
    database = make_database(breaker={**HAND, "break_duration": 0.05})
    breaker = database.pool.breaker
    breaker.trip()
    assert wait_until(lambda: breaker.snapshot().retry_after == 0, PATIENCE)
    assert of(database).ok
    assert breaker.state.value == "open", "nobody else was the trial"
    with breaker.allow():
        assert of(database).code == "circuit_half_open"


def test_warm(make_database: MakeDatabase) -> None:
    database = make_database(warm=True, min_size=3, breaker=True)
    first = of(database)
    assert (first.ok, first.code) == (False, "warming")
    assert wait_until(lambda: of(database).ok, PATIENCE), "nobody leases, and it is filled all the same"
    assert database.pool.snapshot().size == 3
    database.pool.drain()
    assert of(database).ok, "what is replaced later makes nobody wait"


def test_a_child_and_a_new_pool_are_warmed_anew(make_database: MakeDatabase) -> None:
    """A server that asks before it forks its workers, as a check of its configuration, says nothing of theirs."""
    database = make_database(warm=True, min_size=2, breaker=True)
    assert wait_until(lambda: of(database).ok, PATIENCE)
    assert Child(lambda: of(database).code).result() == "warming"
    assert of(database).ok
    database.connection.close_pool()
    assert of(database).code == "warming"
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_a_pool_that_is_not_marked_is_not_waited_for(make_database: MakeDatabase) -> None:
    database = make_database(min_size=3)
    assert of(database).ok
    assert database.pool.snapshot().size == 0


def test_shutdown(database: Database) -> None:
    assert of(database).ok
    try:
        with database.holding():
            Task(django_dbpool.shutdown, 5.0)
            assert wait_until(lambda: stopping.announced is not None, PATIENCE)
            found = health.ready()
            assert (found.ok, found.status, row(found, database).code) == (False, "shutting_down", "shutting_down")
            assert health.connectivity(database.alias).code == "shutting_down"
        assert wait_until(lambda: not dedicated.dedicated_backends().get(database.alias), PATIENCE)
        assert wait_until(lambda: not backends(database), PATIENCE)
        assert health.ready(fresh=True).status == "shutting_down"
        assert not backends(database), "a process that ends opens nothing"
    finally:
        stopping.resume()
    assert of(database).ok


def test_closing_a_pool_closes_its_probe(database: Database) -> None:
    """Else DROP DATABASE fails after the last test."""
    assert of(database).ok
    assert backends(database)
    database.connection.close_pool()
    assert wait_until(lambda: not backends(database), PATIENCE)
    assert of(database).ok


def test_frozen_and_thawed(server: EmbeddedServer, make_database: MakeDatabase) -> None:
    """Once with a connection from before, once without."""
    database = make_database(server)
    assert of(database).ok
    with ExitStack() as stack:
        server.freeze()
        stack.callback(server.thaw)
        for _ in range(3):
            began = monotonic()
            found = of(database)
            assert (found.ok, found.code) == (False, "timeout")
            assert monotonic() - began < PATIENCE / 3
        # The probe has given its connection up, and hangs in making another.
        assert wait_until(lambda: not dedicated.dedicated_backends().get(database.alias), PATIENCE)
        assert of(database).code == "timeout"
        assert len([name for name in probe_threads() if name.endswith(database.alias)]) == 1
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_stopped_and_started(server: EmbeddedServer, make_database: MakeDatabase) -> None:
    database = make_database(server)
    assert of(database).ok
    server.stop("immediate")
    try:
        found = of(database)
        assert (found.ok, found.code) == (False, "unreachable")
    finally:
        server.start()
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_black_hole(proxy: Proxy, make_database: MakeDatabase) -> None:
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    assert of(database).ok
    proxy.blackhole()
    try:
        assert of(database).code == "timeout"
        assert len([name for name in probe_threads() if name.endswith(database.alias)]) == 1
    finally:
        proxy.start()
    assert wait_until(lambda: of(database).ok, PATIENCE)


def test_a_connection_that_was_reset(
    proxy: Proxy, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very moment in which it is used."""
    database = make_database(HOST=proxy.host, PORT=str(proxy.port))
    assert of(database).ok
    monkeypatch.setattr(PoolEntry, "suspicious", lambda self: False)
    proxy.drop()
    assert of(database).ok


def test_a_full_server(make_database: MakeDatabase, session_server: Server) -> None:
    """It answers. Who has connections can serve, who has none can't."""
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE health_limited LOGIN CONNECTION LIMIT 1")
    try:
        database = make_database(USER="health_limited", breaker=True)
        assert database.backend()
        found = of(database)
        assert (found.ok, found.code) == (True, "full")
        database.connection.close_pool()
        elsewhere = make_database(USER="health_limited")
        assert wait_until(lambda: not database.backends(), PATIENCE)
        with elsewhere.holding():
            found = of(database)
            assert (found.ok, found.code) == (False, "full")
        elsewhere.connection.close_pool()
    finally:
        probing.close(timeout=PATIENCE)
        with session_server.connect() as connection:
            assert wait_until(lambda: _dropped(connection), PATIENCE)


def _dropped(connection: Any) -> bool:
    connection.execute("DROP ROLE IF EXISTS health_limited")
    return True


def test_refused_credentials(make_database: MakeDatabase) -> None:
    database = make_database(USER="health_nobody")
    found = [of(database, fresh=False) for _ in range(3)]
    assert {each.code for each in found} == {"refused"}
    assert "health_nobody" not in json.dumps([each.to_json() for each in found])
    assert asked(database) == 1


class Vault:
    """A provider that can't be copied, as clients with a lock can't."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def password(self) -> str:
        with self._lock:
            if self.error is not None:
                raise self.error
            return "s3cret"


def test_password_as_a_function(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()
    database = make_database(PASSWORD=vault.password)
    assert of(database).ok
    database.connection.close_pool()
    vault.error = LookupError("hvs.token")
    found = of(database)
    assert (found.ok, found.code) == (False, "no_password")
    assert "hvs.token" not in json.dumps(found.to_json())
    vault.error = None
    assert of(database).ok, "nothing was sent to the server: no reason to wait"


def test_aliases_that_have_to_answer(make_database: MakeDatabase, settings: Any) -> None:
    needed, other = make_database(), make_database(PORT="1")
    settings.DBPOOL = {**settings.DBPOOL, "READINESS": {"aliases": [needed.alias]}}
    found = health.ready()
    assert found.ok
    assert [each.alias for each in found.databases] == [needed.alias]
    settings.DBPOOL = {**settings.DBPOOL, "READINESS": {"aliases": []}}
    assert health.ready().ok
    settings.DBPOOL = {**settings.DBPOOL, "READINESS": {"aliases": [needed.alias, other.alias]}}
    assert health.ready().status == "unreachable"
    settings.DBPOOL = {**settings.DBPOOL, "READINESS": {"aliases": ["nowhere"]}}
    with pytest.raises(ImproperlyConfigured, match="aliases names 'nowhere'"):
        health.ready()


def test_a_queue_that_stands_for_long(make_database: MakeDatabase, settings: Any) -> None:
    """Only where that is asked for."""
    database = make_database(max_size=1, reserve_size=0)
    settings.DBPOOL = {**settings.DBPOOL, "READINESS": {"aliases": [database.alias], "longest_wait": 0.05}}
    assert health.ready().ok
    with database.holding():
        assert health.ready().ok, "it is full, and nobody waits"
        waiting = Task(database.backend)
        assert wait_until(lambda: health.ready().status == "queueing", PATIENCE)
    waiting.result()
    assert health.ready().ok


def test_faulty_settings(make_database: MakeDatabase) -> None:
    database = make_database(max_size="many")
    found = of(database)
    assert (found.ok, found.code) == (False, "misconfigured")
    connections.settings[database.alias]["POOL"] = {"max_size": 2}
    assert of(database).ok


def test_without_a_pool(make_database: MakeDatabase) -> None:
    database = make_database(enabled=False)
    found = of(database)
    assert found.ok
    assert found.saturation is not None and not found.saturation.pooling
    assert health.connectivity(database.alias).pooling is False


def test_fork(database: Database) -> None:
    assert of(database).ok
    (pid,) = backends(database)

    def ask() -> tuple[str, list[int]]:
        code = of(database).code
        return code, dedicated.dedicated_backends()[database.alias]

    code, pids = Child(ask).result()
    assert code == "ok"
    assert pids != [pid]
    assert of(database).ok
    assert dedicated.dedicated_backends()[database.alias] == [pid]


def test_no_more_threads(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert of(database).code == "no_thread"
    assert of(database).ok


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
