"""transaction.retrying() and servers that go away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connections

from django_dbpool import transaction
from django_dbpool.errors import CircuitOpen, DatabaseUnavailable
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task

KINDS: list[Any] = [
    pytest.param({}, id="pooled"),
    pytest.param({"enabled": False}, id="off"),
    pytest.param({"ENGINE": "django.db.backends.postgresql"}, id="stock"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30"}) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE journal (key text)")
            connection.execute("CHECKPOINT")
        yield server


@pytest.fixture
def mortal(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """The module's server; up before the test and after it."""
    yield server
    server.start()


def write(alias: str, key: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("INSERT INTO journal VALUES (%s)", [key])


def rows(server: Server, key: str) -> int:
    with server.connect() as connection:
        row = connection.execute("SELECT count(*) FROM journal WHERE key = %s", [key]).fetchone()
    assert row is not None
    return int(row[0])


def start_in_pause(server: EmbeddedServer) -> Callable[[float], None]:
    """A sleep in whose third pause the server comes back."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            server.start()

    return sleep


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("form", ["call", "loop"])
def test_a_server_that_comes_back(
    server: EmbeddedServer, make_database: MakeDatabase, settings: dict[str, Any], form: str, request: Any
) -> None:
    """Whether connecting fails where the block begins, as on Django's engine, or with its first statement."""
    database = make_database(server, **settings)
    server.stop()
    retrying = transaction.retrying(database.alias, sleep=start_in_pause(server), total=60)
    key = request.node.name
    try:
        if form == "call":
            retrying.call(write, database.alias, key)
        else:
            for attempt in retrying:
                with attempt:
                    write(database.alias, key)
            assert attempt.number == 4
    finally:
        server.start()
    assert rows(server, key) == 1


@pytest.mark.parametrize("settings", KINDS)
def test_a_persistent_connection_that_is_found_dead(
    server: EmbeddedServer, make_database: MakeDatabase, settings: dict[str, Any], request: Any
) -> None:
    """By Django's health check, which a transaction begins with."""
    if settings:
        settings = {**settings, "CONN_MAX_AGE": None}
    database = make_database(server, CONN_HEALTH_CHECKS=True, **settings)
    database.fetch("SELECT 1")
    database.connection.close_if_unusable_or_obsolete()
    server.stop()
    try:
        transaction.retrying(database.alias, sleep=start_in_pause(server), total=60).call(
            write, database.alias, request.node.name
        )
    finally:
        server.start()
    assert rows(server, request.node.name) == 1


@pytest.mark.parametrize("settings", KINDS)
def test_a_server_that_goes_in_the_middle(
    server: EmbeddedServer, make_database: MakeDatabase, settings: dict[str, Any], request: Any
) -> None:
    database = make_database(server, **settings)
    key, runs = request.node.name, []

    def work() -> None:
        runs.append(1)
        write(database.alias, key)
        if len(runs) == 1:
            server.stop("immediate")
        write(database.alias, key)

    try:
        transaction.retrying(database.alias, sleep=start_in_pause(server), total=60).call(work)
    finally:
        server.start()
    assert len(runs) >= 2
    assert rows(server, key) == 2


def test_a_server_that_stays_away(mortal: EmbeddedServer, make_database: MakeDatabase) -> None:
    database = make_database(mortal)
    mortal.stop()
    with pytest.raises(DatabaseUnavailable) as raised:
        transaction.retrying(database.alias, attempts=3).call(write, database.alias, "never")
    assert "after 3 attempts" in raised.value.__notes__[0]


@pytest.mark.parametrize("settings", KINDS)
def test_refused_credentials_are_asked_for_once(
    server: EmbeddedServer, make_database: MakeDatabase, settings: dict[str, Any]
) -> None:
    """Repeating locks accounts."""
    database = make_database(server, NAME="no_such_database", **settings)
    pauses: list[float] = []
    with pytest.raises(DatabaseError):
        transaction.retrying(database.alias, sleep=pauses.append).call(write, database.alias, "never")
    assert pauses == []


@pytest.mark.parametrize("probe_interval", [None, 0.1])
def test_an_open_circuit(mortal: EmbeddedServer, make_database: MakeDatabase, probe_interval: float | None) -> None:
    """Not waited for when it is going to stay open for longer than there is time; else until it closes."""
    breaker = {"minimum_throughput": 2, "break_duration": 30, "probe_interval": probe_interval}
    database = make_database(mortal, breaker=breaker)
    mortal.stop()
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            write(database.alias, "never")
    pauses: list[float] = []
    if probe_interval is None:
        with pytest.raises(CircuitOpen):
            transaction.retrying(database.alias, sleep=pauses.append).call(write, database.alias, "never")
        assert pauses == []
        return

    def until_closed(seconds: float) -> None:
        mortal.start()
        assert wait_until(lambda: database.pool.connector.breaker.state.value == "closed", PATIENCE)

    transaction.retrying(database.alias, sleep=until_closed, total=60).call(write, database.alias, "after the outage")
    assert rows(mortal, "after the outage") == 1


@pytest.mark.ci
def test_writes_under_random_kills(database: Database, table: str) -> None:
    """Every block that has succeeded has written one row; every one that has not, none or an outcome unknown."""
    stop, done, unknown = threading.Event(), list[str](), dict[str, str]()

    def write_rows(thread: int) -> None:
        for number in range(60):
            key = f"{thread}-{number}"
            try:
                transaction.retrying(database.alias, total=30, attempts=100).call(insert, key)
            except DatabaseError as error:
                unknown[key] = "".join(getattr(error, "__notes__", ()))
            else:
                done.append(key)
        connections[database.alias].close()

    def insert(key: str) -> None:
        with connections[database.alias].cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (%s)", [key])
            cursor.execute("SELECT pg_sleep(0.005)")

    def kill() -> int:
        kills = 0
        while not stop.wait(0.03):
            kills += len(
                database.observer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
                    " ORDER BY random() LIMIT 1",
                    [database.application],
                ).fetchall()
            )
        return kills

    killer = Task(kill)
    try:
        for task in [Task(write_rows, n) for n in range(4)]:
            task.result(120)
    finally:
        stop.set()
    assert killer.result() > 5
    counts = dict(database.observer.execute(f"SELECT key, count(*) FROM {table} GROUP BY key").fetchall())
    assert {key: counts.get(key, 0) for key in done} == dict.fromkeys(done, 1)
    assert set(counts) - set(done) <= set(unknown)
    assert all("nobody knows" in notes for notes in unknown.values())
    assert len(done) + len(unknown) == 240
    database.assert_whole()
