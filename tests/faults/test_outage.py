"""Short outages are hidden, long ones are answered at once, and the first to know of the end is not a user."""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import Client
from django.urls import path

from django_dbpool.core import sqlstate
from django_dbpool.core.breaker import Rejected, State
from django_dbpool.errors import CircuitOpen, DatabaseUnavailable, PoolError, ServerConnectionsExhausted
from testproject.postgres import EmbeddedServer, Server, free_port
from testproject.processes import wait_until
from tests.app.models import Item
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Clock, Database, Task

ON = {"retry": True, "breaker": True, "queue_target": 0.05}
FAST = {"retry": {"attempts": 2, "base_delay": 0.01, "total": 0.5}}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "60"}) as server:
        yield server


@pytest.fixture
def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """The module's server with a table of three items, up before the test and after it."""
    server.start()
    with server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS app_item (id int PRIMARY KEY, name text, n int)")
        connection.execute("INSERT INTO app_item SELECT n, 'x', n FROM generate_series(1, 3) n ON CONFLICT DO NOTHING")
        connection.execute("CHECKPOINT")  # or a kill takes the rows with it
    yield server
    server.start()


def circuit(database: Database) -> State:
    return database.pool.connector.breaker.state


def read(database: Database) -> int:
    return len(list(Item.objects.using(database.alias)))


def refused(database: Database) -> PoolError:
    with pytest.raises(PoolError) as caught:
        database.backend()
    return caught.value


@pytest.mark.ci
@pytest.mark.alone
@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_restart_of_two_seconds_is_hidden(make_database: MakeDatabase, running: EmbeddedServer, how: str) -> None:
    """32 threads read through the ORM all the time; none of them sees an error."""
    database = make_database(running, max_size=8, timeout=20, **ON)
    stop = threading.Event()

    counts = [0] * 32

    def reader(number: int) -> None:
        try:
            while not stop.is_set():
                assert read(database) == 3
                counts[number] += 1
        finally:
            connections[database.alias].close()

    def all_read() -> bool:
        """Whoever hasn't is still in the last outage, which the next would lengthen."""
        before = list(counts)
        done = lambda: all(now > then for now, then in zip(counts, before, strict=True))  # noqa: E731
        return wait_until(lambda: done() or not all(task.is_alive() for task in tasks), PATIENCE) and done()

    tasks = [Task(reader, number) for number in range(32)]
    assert all_read()
    for _ in range(2):
        if how == "kill":
            running.kill()
        else:
            running.stop(how)
        threading.Event().wait(2.0)  # the length of the outage, which is what is tested
        running.start()
        if not all_read():
            break
    stop.set()
    for task in tasks:
        task.result()
    assert circuit(database) is State.CLOSED


def test_fifth_failure_opens_the_circuit(make_database: MakeDatabase) -> None:
    """From then on an answer takes next to nothing and says when to come back."""
    database = make_database(PORT=str(free_port()), **{**ON, **FAST})
    first = [refused(database) for _ in range(5)]
    assert {type(error) for error in first} == {DatabaseUnavailable}
    assert circuit(database) is State.OPEN
    seconds = []
    for _ in range(50):
        start = monotonic()
        error = refused(database)
        seconds.append(monotonic() - start)
        assert isinstance(error, CircuitOpen)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert error.retry_after == pytest.approx(1, abs=1)  # a probe will end it long before the break does
    assert statistics.median(seconds) < 0.005, seconds
    assert "circuit of database" in str(error)
    assert database.settle().size == 0


def test_credentials_do_not_open_it(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """A refused role or database says that the server is there; it is asked once for each caller, not again."""
    database = make_database(running, NAME="no_such_database", retry=True, breaker={"minimum_throughput": 2})
    start = monotonic()
    for _ in range(6):
        assert isinstance(refused(database), DatabaseUnavailable)
    assert monotonic() - start < 3  # no attempt was repeated
    assert circuit(database) is State.CLOSED


@dataclasses.dataclass
class Outage:
    """What one client saw of it: errors with their time since the server went, and what an answer took."""

    length: float
    errors: list[tuple[float, float, PoolError]]
    served_after: float = math.inf
    """Seconds from the moment at which the server accepts connections."""
    full_after: float = math.inf

    @property
    def opened(self) -> float:
        """When the circuit was open, after the fifth failed operation."""
        fifth = self.errors[4][0]
        return next(at for at, _, error in self.errors if isinstance(error, CircuitOpen)) - fifth


def endure(database: Database, server: EmbeddedServer, length: float) -> Outage:
    """A client that asks all the time, before, during and after an outage of so many seconds."""
    assert len(database.serve_at_once(6)) == 6
    server.kill()
    began = monotonic()
    outage = Outage(length, [])
    while monotonic() < began + length:
        start = monotonic()
        error = refused(database)
        outage.errors.append((start - began, monotonic() - start, error))
        threading.Event().wait(0.02)  # its pause between two requests
    server.start()
    accepts = monotonic()
    while outage.served_after == math.inf:
        try:
            database.backend()
            outage.served_after = monotonic() - accepts
        except CircuitOpen:  # and no other: nobody pays for the trial
            threading.Event().wait(0.01)
    pool = database.pool
    assert wait_until(lambda: pool.snapshot().idle == 6, PATIENCE), pool.snapshot()
    outage.full_after = monotonic() - accepts
    database.observer = server.connect(application_name="observer")
    assert len(database.backends()) == 6  # the server agrees: none of them is a dead one
    database.observer.close()
    connections[database.alias].close()
    return outage


@pytest.mark.ci
@pytest.mark.alone
def test_long_outages(make_database: MakeDatabase) -> None:
    """Of 5, 20 and 60 seconds alike: answered at once, and served and whole again soon after."""
    with ExitStack() as stack:
        tasks = []
        for length in (5.0, 20.0, 60.0):
            server = stack.enter_context(Server.embedded({"max_connections": "20"}))
            database = make_database(server, min_size=6, max_size=6, **{**ON, **FAST})
            tasks.append(Task(endure, database, server, length))
        outages = [task.result(60 + 3 * PATIENCE) for task in tasks]
        for outage in outages:
            assert isinstance(outage.errors[0][2], DatabaseUnavailable)
            assert outage.opened < 1.0  # not always later than the fifth: of what was opened before half has to fail
            rejected = [(at, took, error) for at, took, error in outage.errors if isinstance(error, CircuitOpen)]
            assert len(outage.errors) - len(rejected) < 8
            assert statistics.median(took for _, took, _ in rejected) < 0.005
            opened_at = rejected[0][0]
            for at, _, error in rejected:
                # A sixth of the outage's age, from one to ten seconds; the circuit opened a moment before it was seen.
                expected = min(max(1.0, (at - opened_at) / 6), 10.0)
                assert expected - 0.05 <= error.retry_after <= expected + 0.5
            assert outage.served_after < 1.0
            assert outage.full_after < 5.0


def test_probe_ends_with_its_pool(make_database: MakeDatabase) -> None:
    database = make_database(PORT=str(free_port()), **{**ON, **FAST})
    pool = database.pool
    for _ in range(5):
        refused(database)
    name = f"dbpool-probe-{database.alias}"

    def probes() -> int:
        return sum(thread.name == name for thread in threading.enumerate())

    assert probes() == 1
    pool.close()
    assert wait_until(lambda: probes() == 0, PATIENCE)


def test_without_probes_one_caller_is_the_trial(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """After break_duration, by the clock; everybody else is refused meanwhile."""
    clock = Clock()
    database = make_database(running, breaker={"probe_interval": None}, **FAST)
    breaker = database.pool.connector.breaker
    breaker._clock = clock
    breaker.forget()
    breaker.trip(psycopg.OperationalError("tripped"))
    clock.advance(59.9)
    assert isinstance(refused(database), CircuitOpen)
    assert refused(database).retry_after == pytest.approx(0.1)
    clock.advance(0.2)
    assert database.backend()
    assert circuit(database) is State.CLOSED
    assert [t.after for t in breaker.snapshot().timeline] == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_queue_is_told_when_the_circuit_opens(make_database: MakeDatabase) -> None:
    """Nobody waits for a deadline behind a server that is known to be away."""
    database = make_database(max_size=1, timeout=600, **ON)
    with database.holding(1):
        queued = [Task(database.backend) for _ in range(5)]
        assert wait_until(lambda: database.pool.gate.waiting == 5, PATIENCE)
        database.pool.breaker.isolate()
        assert {type(task.error()) for task in queued} == {CircuitOpen}
        assert isinstance(refused(database), CircuitOpen)
    assert isinstance(refused(database), CircuitOpen)  # though a good connection is free: somebody said so
    database.pool.breaker.reset()
    assert database.backend()
    database.assert_whole()


def test_refused_while_the_circuit_closes(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back, but not at once together with all the others."""
    database = make_database(**ON)

    def refuse() -> None:
        raise Rejected(State.OPEN, 1.0, psycopg.OperationalError("gone a moment ago"))

    monkeypatch.setattr(database.pool.connector, "refuse_if_open", refuse)
    error = refused(database)
    assert isinstance(error, CircuitOpen)
    assert circuit(database) is State.CLOSED
    assert error.retry_after == 1.0


def test_open_circuit_serves_from_what_is_alive(make_database: MakeDatabase) -> None:
    """A free connection that works needs no server that accepts new ones."""
    database = make_database(breaker={"probe_interval": None}, retry=True)
    pid = database.backend()
    database.pool.connector.breaker.trip(psycopg.OperationalError("no new ones"))
    assert database.backend() == pid
    with database.holding(1):
        assert isinstance(refused(database), CircuitOpen)


@pytest.mark.parametrize("others", [True, False])
def test_full_server(make_database: MakeDatabase, running: EmbeddedServer, others: bool) -> None:
    """Taken by others: served from what the pool has; if it has nothing, by the name of the failure."""
    with running.connect() as superuser:
        superuser.execute("DROP ROLE IF EXISTS crowded")
        superuser.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 2")
    database = make_database(running, USER="crowded", max_size=4, timeout=5, **{**ON, **FAST})
    if others:
        taken = [running.connect(user="crowded") for _ in range(2)]
        error = refused(database)
        assert isinstance(error, ServerConnectionsExhausted)
        assert "no connection left" in str(error)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert circuit(database) is State.CLOSED
        for connection in taken:
            connection.close()
        assert wait_until(lambda: _serves(database), PATIENCE)
    else:

        def use() -> int:
            for _ in range(20):
                database.fetch("SELECT pg_sleep(0.001)")
            return database.backend()

        database.serve_at_once(2)
        assert {task.result() for task in [Task(use) for _ in range(8)]} <= database.backends()
        assert len(database.backends()) == 2
        assert database.pool.gate.ceiling < 4
        with running.connect() as superuser:
            superuser.execute("ALTER ROLE crowded CONNECTION LIMIT 10")
        # The background thread looks for more room, one connection at a time.
        assert wait_until(lambda: database.pool.gate.ceiling == 4, PATIENCE)
        database.assert_whole()
    connections[database.alias].close_pool()


@contextmanager
def filled(server: EmbeddedServer, leave: int) -> Iterator[list[psycopg.Connection[Any]]]:
    """Others take what max_connections allows, but for so many."""
    others: list[psycopg.Connection[Any]] = []
    with server.connect() as superuser:
        superuser.execute("DROP ROLE IF EXISTS others")
        superuser.execute("CREATE ROLE others LOGIN")
        try:
            while True:
                others.append(server.connect(user="others"))
        except psycopg.OperationalError as error:
            if not sqlstate.is_server_full(sqlstate.of_refused_connection(str(error))):
                raise
        for _ in range(leave):
            others.pop().close()
        assert wait_until(lambda: _clients(superuser) == len(others), PATIENCE)
        try:
            yield others
        finally:
            for other in others:
                other.close()


def _clients(observer: psycopg.Connection[Any]) -> int:
    row = observer.execute("SELECT count(*) FROM pg_stat_activity WHERE usename IN ('others', 'site')").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture(scope="module")
def small() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "12", "superuser_reserved_connections": "3"}) as server:
        yield server


@pytest.fixture
def crowded(small: EmbeddedServer) -> EmbeddedServer:
    small.start()
    with small.connect() as superuser:
        superuser.execute("DO $$ BEGIN CREATE ROLE site LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    return small


@pytest.mark.ci
@pytest.mark.alone
def test_others_take_max_connections_while_the_pool_grows(make_database: MakeDatabase, crowded: EmbeddedServer) -> None:
    """Room for two: sixteen clients are served by two connections, none of them sees an error; later by four."""
    database = make_database(crowded, USER="site", max_size=4, timeout=20, **{**ON, **FAST})
    with filled(crowded, leave=2) as others:

        def client() -> set[int]:
            seen = {database.fetch("SELECT pg_backend_pid() FROM pg_sleep(0.002)") for _ in range(30)}
            connections[database.alias].close()
            return seen

        seen = set().union(*(task.result() for task in [Task(client) for _ in range(16)]))
        assert len(seen) == 2
        assert database.pool.gate.ceiling == 2 or database.pool.gate.size <= 3
        assert circuit(database) is State.CLOSED
        for _ in range(4):
            others.pop().close()
        assert wait_until(lambda: database.pool.gate.ceiling == 4, PATIENCE)
        database.observer.close()
    database.observer = crowded.connect(application_name="observer")
    database.assert_whole()
    connections[database.alias].close_pool()
    database.observer.close()


@pytest.mark.ci
@pytest.mark.alone
def test_others_take_max_connections_during_a_restart(
    make_database: MakeDatabase, crowded: EmbeddedServer, settings: Any
) -> None:
    """The pool comes back to nothing: 503 by name, never 500; served as soon as there is one place."""
    database = make_database(crowded, USER="site", max_size=4, timeout=5, **{**ON, **FAST})
    database.serve_at_once(4)
    urls = types.ModuleType("crowded_urls")
    urls.urlpatterns = [path("", lambda request: HttpResponse(str(database.backend())))]  # type: ignore[attr-defined]
    settings.ROOT_URLCONF = urls
    settings.MIDDLEWARE = ["django_dbpool.middleware.DatabasePoolMiddleware"]
    browser = Client(raise_request_exception=False)
    assert browser.get("/").status_code == 200
    database.observer.close()
    crowded.stop("fast")
    crowded.start()
    with filled(crowded, leave=0) as others:
        for _ in range(8):
            response = browser.get("/")
            assert response.status_code == 503
            assert int(response.headers["Retry-After"]) >= 1
        assert isinstance(refused(database), ServerConnectionsExhausted)
        assert circuit(database) is State.CLOSED
        others.pop().close()
        start = monotonic()
        assert wait_until(lambda: browser.get("/").status_code == 200, PATIENCE)
        assert monotonic() - start < 5
        tasks = [Task(database.fetch, "SELECT 1 FROM pg_sleep(0.01)") for _ in range(8)]
        assert [task.result() for task in tasks] == [1] * 8
        assert {browser.get("/").status_code for _ in range(8)} == {200}
    connections[database.alias].close()
    connections[database.alias].close_pool()


def _serves(database: Database) -> bool:
    try:
        return bool(database.backend())
    except PoolError:
        return False


def test_transitions_are_logged(make_database: MakeDatabase, caplog: pytest.LogCaptureFixture) -> None:
    database = make_database(PORT=str(free_port()), **{**ON, **FAST})
    with caplog.at_level(logging.WARNING, "django_dbpool.pool"):
        for _ in range(5):
            refused(database)
    assert [record.getMessage() for record in caplog.records] == [
        f"database {database.alias!r}: circuit open: too many failures"
    ]


def test_a_log_that_is_broken_keeps_nobody_from_looking_for_the_server(
    make_database: MakeDatabase, break_log: Callable[[str], None]
) -> None:
    database = make_database(PORT=str(free_port()), **{**ON, **FAST})
    break_log("django_dbpool.pool")
    for _ in range(5):
        refused(database)
    assert f"dbpool-probe-{database.alias}" in [thread.name for thread in threading.enumerate()]
