"""Session state: the session that set it keeps it, and the next borrower finds nothing of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.db import Error, connections, transaction
from psycopg import sql

from testproject.processes import wait_until
from tests.fixtures.pools import alive, backend, execute, in_use, pinned, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

Observer = psycopg.Connection[Any]
MakePool = Callable[..., str]

ROLE = "dbpool_borrower"
SETUP = f"""
CREATE ROLE {ROLE};
CREATE SEQUENCE borrowed;
CREATE PROCEDURE leave_state() LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.left', 'yes', false); END $$;
CREATE FUNCTION take_lock() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(9) $$;
"""
CLEAN_UP = f"DROP ROLE {ROLE}; DROP SEQUENCE borrowed; DROP PROCEDURE leave_state; DROP FUNCTION take_lock"


@pytest.fixture(autouse=True)
def server_objects(observer: Observer) -> Iterator[None]:
    observer.execute(SETUP)
    yield
    observer.execute(CLEAN_UP)


@dataclass(frozen=True)
class State:
    """A statement that changes the session, and a question whose answer shows it."""

    statement: Any
    probe: str

    def __str__(self) -> str:
        return str(self.statement)


LEFT = "SELECT current_setting('app.left', true)"
TEMPORARY = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind <> 't'"
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
TIMEOUT = "SHOW statement_timeout"
LAST = "SELECT lastval()"

STATES = [
    State("SET statement_timeout = '777ms'", TIMEOUT),
    State("SET SESSION statement_timeout TO 777", TIMEOUT),
    State("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone"),
    State("SET search_path = pg_catalog", "SHOW search_path"),
    State("SET local.mark = 'yes'", "SELECT current_setting('local.mark', true)"),
    State("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW default_transaction_read_only"),
    State(f"SET SESSION AUTHORIZATION {ROLE}", "SELECT session_user"),
    State(f"SET ROLE {ROLE}", "SELECT current_user"),
    State("SELECT set_config('app.left', 'yes', false)", LEFT),
    State("SELECT '--', set_config('app.left', 'yes', false)", LEFT),
    State("LISTEN jobs", "SELECT count(*) FROM pg_listening_channels()"),
    State("SELECT pg_advisory_lock(1)", LOCKS),
    State("SELECT pg_advisory_lock_shared(1, 2)", LOCKS),
    State("SELECT pg_try_advisory_lock(1)", LOCKS),
    State("SELECT pg_try_advisory_lock_shared(1)", LOCKS),
    State("CREATE TEMP TABLE left_behind (n int)", TEMPORARY),
    State("CREATE TEMPORARY VIEW left_behind AS SELECT 1", TEMPORARY),
    State("CREATE TABLE pg_temp.left_behind (n int)", TEMPORARY),
    State("SELECT 1 AS n INTO TEMP left_behind", TEMPORARY),
    State("PREPARE left_behind AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements"),
    State("DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors WHERE is_holdable"),
    State("LOAD 'plpgsql'", "SELECT count(*) FROM pg_settings WHERE name = 'plpgsql.variable_conflict'"),
    State("SELECT nextval('borrowed')", LAST),
    State("DO $$ BEGIN PERFORM set_config('app.left', 'yes', false); END $$", LEFT),
    State("CALL leave_state()", LEFT),
    State("-- a comment\r/* another */ sEt statement_timeout = '777ms'", TIMEOUT),
    State("SELECT 1; LISTEN jobs", "SELECT count(*) FROM pg_listening_channels()"),
    State(b"SET statement_timeout = 777", TIMEOUT),
    State(sql.SQL("SET {} = 777").format(sql.Identifier("statement_timeout")), TIMEOUT),
]


def answer(alias: str, question: str) -> object:
    """What this session answers; an error is an answer too."""
    try:
        return value(alias, question)
    except Error as error:
        return getattr(error.__cause__, "sqlstate", error)


def end_unit(alias: str) -> None:
    connections[alias].close()


def neighbours_view(worker: Worker, alias: str, question: str) -> object:
    """What another thread's session answers in a unit of its own."""

    def look() -> object:
        try:
            return answer(alias, question)
        finally:
            end_unit(alias)

    return worker(look)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_state_ends_with_the_unit_that_set_it(
    make_pool: MakePool, mode: str, worker: Worker, observer: Observer, state: State
) -> None:
    """While pinned the session sees its state; afterwards its connection is closed and the neighbour sees none."""
    alias = make_pool(mode=mode)
    neutral = neighbours_view(worker, alias, state.probe)
    execute(alias, state.statement)
    assert pinned(alias) is not None
    mine = backend(alias)
    assert answer(alias, state.probe) != neutral
    assert backend(alias) == mine
    end_unit(alias)
    assert neighbours_view(worker, alias, state.probe) == neutral
    assert wait_until(lambda: not alive(observer, mine), 5)
    assert in_use(alias) == 0


def test_setseed(single: str, worker: Worker, observer: Observer) -> None:
    """A seeded generator is the session's own."""
    observer.execute("SELECT setseed(0.5)")
    (seeded,) = observer.execute("SELECT random()").fetchone() or (None,)
    execute(single, "SELECT setseed(0.5)")
    assert value(single, "SELECT random()") == seeded
    execute(single, "SELECT setseed(0.5)")
    end_unit(single)
    assert neighbours_view(worker, single, "SELECT random()") != seeded


def test_currval_belongs_to_the_session(single: str) -> None:
    """nextval() pins, so that currval() and lastval() are asked of the same session."""
    first = value(single, "SELECT nextval('borrowed')")
    assert value(single, "SELECT currval('borrowed')") == first
    assert value(single, "SELECT lastval()") == first


@pytest.mark.parametrize("name", ["pg_advisory_lock", "set_config"])
def test_callproc_of_a_session_function_pins(single: str, worker: Worker, name: str) -> None:
    """The function of callproc() is looked at as it is in SELECT."""
    arguments = [5] if name == "pg_advisory_lock" else ["app.left", "yes", False]
    probe = LOCKS if name == "pg_advisory_lock" else LEFT
    neutral = neighbours_view(worker, single, probe)
    with connections[single].cursor() as cursor:
        cursor.callproc(name, arguments)
    assert answer(single, probe) != neutral
    end_unit(single)
    assert neighbours_view(worker, single, probe) == neutral


def test_executemany_pins(single: str, worker: Worker) -> None:
    with connections[single].cursor() as cursor:
        cursor.executemany("SELECT set_config(%s, 'yes', false)", [["app.left"], ["app.right"]])
    assert pinned(single) is not None
    end_unit(single)
    assert neighbours_view(worker, single, LEFT) is None


def test_state_set_inside_atomic_outlives_it_and_not_the_unit(make_pool: MakePool, mode: str, worker: Worker) -> None:
    """COMMIT keeps a SET, ROLLBACK undoes it; the connection stays with its unit in both cases."""
    alias = make_pool(mode=mode)
    neutral = neighbours_view(worker, alias, TIMEOUT)
    with transaction.atomic(using=alias):
        execute(alias, "SET statement_timeout = 777")
    assert pinned(alias) is not None
    assert answer(alias, TIMEOUT) == "777ms"
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        execute(alias, "SET statement_timeout = 888")
        raise ZeroDivisionError
    assert answer(alias, TIMEOUT) == "777ms"
    end_unit(alias)
    assert neighbours_view(worker, alias, TIMEOUT) == neutral


def test_state_set_by_a_statement_that_fails_pins(single: str, worker: Worker) -> None:
    """Of a text of several statements the first may have taken effect."""
    connection = connections[single]
    with connection.cursor() as cursor, pytest.raises(Error):
        cursor.execute("SELECT pg_advisory_lock(1); SELECT 1 / 0")
    assert pinned(single) is not None
    end_unit(single)
    assert neighbours_view(worker, single, LOCKS) == 0


def test_unit_that_ends_in_an_error_leaves_nothing(single: str, worker: Worker) -> None:
    """An exception between SET and its RESET: the usual way in which state leaks."""
    neutral = neighbours_view(worker, single, TIMEOUT)
    with pytest.raises(ZeroDivisionError):
        try:
            execute(single, "SET statement_timeout = 777")
            raise ZeroDivisionError
        finally:
            connections[single].close_if_unusable_or_obsolete()  # what Django does at the end of a request
    assert neighbours_view(worker, single, TIMEOUT) == neutral


def test_thread_that_ends_pinned_leaves_nothing(single: str, make_worker: Callable[[], Worker]) -> None:
    """A thread that never ends its unit: its connection is closed when the thread is gone."""
    other = make_worker()
    neutral = neighbours_view(other, single, TIMEOUT)
    thread = threading.Thread(target=execute, args=(single, "SET statement_timeout = 777"))
    thread.start()
    thread.join()
    assert neighbours_view(other, single, TIMEOUT) == neutral


@pytest.mark.parametrize("attribute", ["read_only", "isolation_level", "row_factory", "prepare_threshold"])
def test_attributes_of_the_raw_connection_are_not_inherited(single: str, worker: Worker, attribute: str) -> None:
    """Setting one pins; reading it does not."""

    def raw_attribute() -> object:
        connections[single].ensure_connection()
        try:
            return getattr(connections[single].connection, attribute)
        finally:
            assert pinned(single) is None
            end_unit(single)

    values = {"isolation_level": psycopg.IsolationLevel.SERIALIZABLE, "row_factory": psycopg.rows.dict_row}
    neutral = worker(raw_attribute)
    connections[single].ensure_connection()
    setattr(connections[single].connection, attribute, values.get(attribute, 7))
    assert pinned(single) == "connection.connection was used"
    end_unit(single)
    assert worker(raw_attribute) == neutral
    assert in_use(single) == 0
