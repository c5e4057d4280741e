"""Readiness: of the pool, the circuit, the settings and the process."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

import django_dbpool
from django_dbpool import health
from django_dbpool.fleet import server as fleet_server
from django_dbpool.health.asking import _connect_to
from django_dbpool.pool import dedicated, stopping
from testproject.processes import wait_until
from tests.faults.health.probes import HAND, MakeDatabase, asked, backends, of, row
from tests.faults.helpers import PATIENCE, Child, Database, Task

pytestmark = pytest.mark.django_db(transaction=True)


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
