"""POOL["reset"]: what a function has set unseen reaches the next borrower with "dirty", and not with "always"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from django_dbpool.pool.managed import ManagedPool
from django_dbpool.pool.resetting import ResettingPool
from testproject.processes import wait_until
from tests.fixtures.pools import alive, backend, execute, in_use, rows_of, size, value
from tests.fixtures.workers import Step, Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]

ROLE = "dbpool_reset"
# What each leaves is not in the text of the statement that calls it.
FUNCTIONS = {
    "setting": "PERFORM set_config('statement_timeout', '777s', false)",
    "own setting": "PERFORM set_config('app.left', 'yes', false)",
    "role": f"PERFORM set_config('role', '{ROLE}', false)",
    "search path": "PERFORM set_config('search_path', 'pg_catalog', false)",
    "read only": "PERFORM set_config('default_transaction_read_only', 'on', false)",
    "advisory lock": "PERFORM pg_advisory_lock(77)",
    "temporary table": "CREATE TEMP TABLE left_behind (n int)",
    "channel": "LISTEN jobs",
    "prepared statement": "EXECUTE 'PREPARE left_behind AS SELECT 1'",
    "held cursor": "EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1'",
    "sequence": "PERFORM nextval('public.reset_numbers')",
}
PROBES = {
    "setting": "SHOW statement_timeout",
    "own setting": "SELECT coalesce(current_setting('app.left', true), '')",
    "role": "SELECT current_user",
    "search path": "SHOW search_path",
    "read only": "SHOW default_transaction_read_only",
    "advisory lock": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary table": "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
    "channel": "SELECT count(*) FROM pg_listening_channels()",
    "prepared statement": "SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_behind'",
    "held cursor": "SELECT count(*) FROM pg_cursors WHERE is_holdable",
    "sequence": "SELECT public.has_lastval()",
}


@pytest.fixture(autouse=True)
def functions(observer: Observer) -> Iterator[None]:
    names = [f"leave_{number}()" for number in range(len(FUNCTIONS))]
    observer.execute(f"CREATE ROLE {ROLE}; CREATE SEQUENCE reset_numbers")
    observer.execute(
        "CREATE FUNCTION has_lastval() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM lastval(); RETURN true; "
        "EXCEPTION WHEN object_not_in_prerequisite_state THEN RETURN false; END $$"
    )
    for name, body in zip(names, FUNCTIONS.values(), strict=True):
        observer.execute(f"CREATE FUNCTION {name} RETURNS int LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN 1; END $$")
    yield
    observer.execute(f"DROP FUNCTION has_lastval(), {', '.join(names)}; DROP SEQUENCE reset_numbers; DROP ROLE {ROLE}")


def leave(alias: str, state: str) -> None:
    execute(alias, f"SELECT public.leave_{list(FUNCTIONS).index(state)}()")


@pytest.mark.parametrize("reset", ["always", "dirty"])
@pytest.mark.parametrize("state", FUNCTIONS)
def test_state_from_inside_a_function(
    make_pool: MakePool, mode: str, worker: Worker, observer: Observer, state: str, reset: str
) -> None:
    """Gone on the same connection with "always"; with "dirty" it is the documented limit of looking at texts."""
    alias = make_pool(mode=mode, POOL={"reset": reset, "prepare": None})

    def look() -> tuple[object, int]:
        try:
            return value(alias, PROBES[state]), backend(alias)
        finally:
            connections[alias].close()

    neutral = worker(look)
    leave(alias, state)
    connections[alias].close()
    found, pid = worker(look)
    assert pid == neutral[1]
    assert (found == neutral[0]) is (reset == "always")
    connections[alias].close_pool()  # what "dirty" has left must not outlive the test


def test_no_cost_when_off(make_pool: MakePool) -> None:
    """Another class of pool, not a question on the hot path."""
    assert type(connections[make_pool()].pool) is ManagedPool
    assert type(connections[make_pool(POOL={"reset": "always"})].pool) is ResettingPool


def test_what_the_connection_began_with_survives(make_pool: MakePool) -> None:
    """Time zone, role and given options are in the start-up packet; what receivers set is set again."""

    def set_path(connection: Any, **kwargs: Any) -> None:
        seen.append(connection.alias)
        execute(connection.alias, "SET search_path = pg_catalog, public")

    seen: list[str] = []
    alias = make_pool(
        TIME_ZONE="Asia/Tokyo",
        OPTIONS={"assume_role": ROLE, "options": "-c statement_timeout=12345"},
        POOL={"reset": "always"},
    )
    connection_created.connect(set_path)
    try:
        for _ in range(3):
            assert value(alias, "SHOW TimeZone") == "Asia/Tokyo"
            assert value(alias, "SELECT current_user") == ROLE
            assert value(alias, "SHOW statement_timeout") == "12345ms"
            assert value(alias, "SHOW search_path") == "pg_catalog, public"
    finally:
        connection_created.disconnect(set_path)
        connections[alias].close_pool()
    assert seen == [alias] * 12


def test_what_was_set_for_a_pooler_is_set_again(make_pool: MakePool) -> None:
    """Behind PgBouncer time zone and role are set after connecting: RESET undoes that."""
    alias = make_pool(TIME_ZONE="Asia/Tokyo", OPTIONS={"assume_role": ROLE}, POOL={"reset": "always"})
    template = connections[alias].pool._prepare.__self__
    template._startup_options = False
    for _ in range(2):
        assert value(alias, "SHOW TimeZone") == "Asia/Tokyo"
        assert value(alias, "SELECT current_user") == ROLE
    assert size(alias) == 1


def test_statements_that_psycopg_prepared_stay(make_pool: MakePool) -> None:
    """Its memory of them and the server's don't part; what somebody else prepared goes."""
    alias = make_pool(OPTIONS={"prepare_threshold": 1, "server_side_binding": True}, POOL={"reset": "always"})
    pid = backend(alias)
    for number in range(8):
        assert value(alias, "SELECT %s::int + 1", [number]) == number + 1
    leave(alias, "prepared statement")
    names = [name for (name,) in execute(alias, "SELECT name FROM pg_prepared_statements")]
    assert [name for name in names if name.startswith("_pg3_")] == names != []
    assert value(alias, "SELECT %s::int + 1", [1]) == 2
    assert backend(alias) == pid


def test_failed_reset_closes(make_pool: MakePool, observer: Observer) -> None:
    """A connection that can't be reset is nobody's any more; the borrower's work is done and raises nothing."""
    alias = make_pool(POOL={"reset": "always"})
    with transaction.atomic(using=alias):
        execute(alias, "INSERT INTO app_log (key) VALUES ('a')")
        pid = backend(alias)
        pool = connections[alias].pool
        pool._prepare = lambda connection, in_time: connection.execute("SELECT 1 / 0")
    assert wait_until(lambda: not alive(observer, pid), 5)
    pool._prepare = None
    assert rows_of(observer, "app_log") == 1
    assert backend(alias) != pid


def test_interrupted_reset_closes(make_pool: MakePool, observer: Observer) -> None:
    alias = make_pool(POOL={"reset": "always"})
    pid = backend(alias)
    pool = connections[alias].pool

    def interrupt(connection: object, in_time: object) -> None:
        raise KeyboardInterrupt

    pool._prepare = interrupt
    with pytest.raises(KeyboardInterrupt):
        execute(alias, "SELECT 1")
    pool._prepare = None
    assert wait_until(lambda: not alive(observer, pid), 5)
    assert backend(alias) != pid
    assert (in_use(alias), size(alias)) == (0, 1)


def test_waiter_gets_it_after_the_reset(make_pool: MakePool, worker: Worker) -> None:
    """While the reset runs the connection is still its borrower's, also in the eyes of housekeeping."""
    alias = make_pool(POOL={"reset": "always"})
    pid = worker(backend, alias)
    pool = connections[alias].pool
    prepare, step = pool._prepare, Step()

    def slowly(connection: Any, in_time: Any) -> None:
        step.wait()
        prepare(connection, in_time)

    pool._prepare = slowly
    releasing = worker.start(leave, alias, "own setting")
    step.reached()
    pool._prepare = prepare
    assert in_use(alias) == 1
    assert len(pool.gate.free) == 0
    assert {entry.backend_pid for entry in pool.in_transit()[1]} == {pid}
    step.go_on()
    releasing.result(20)
    assert value(alias, PROBES["own setting"]) == ""
    assert backend(alias) == pid


def test_lease_of_a_dead_thread_is_closed(make_pool: MakePool, observer: Observer) -> None:
    """Whoever notices must not wait for the server on its behalf."""
    alias = make_pool(mode="session", POOL={"reset": "always"})
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(backend(alias)))
    thread.start()
    thread.join()
    assert backend(alias) != seen[0]
    assert wait_until(lambda: not alive(observer, seen[0]), 5)
