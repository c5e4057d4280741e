"""Short outages are hidden, long ones are answered at once, and the first to know of the end is not a user."""

from __future__ import annotations

import logging
import statistics
import threading
from collections.abc import Iterator
from time import monotonic

import psycopg
import pytest
from django.db import connections

from django_dbpool.core.breaker import State
from django_dbpool.errors import CircuitOpen, DatabaseUnavailable, PoolError, ServerConnectionsExhausted
from testproject.postgres import EmbeddedServer, Server, free_port
from testproject.processes import wait_until
from tests.app.models import Item
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Clock, Database, Task

ON = {"retry": True, "breaker": True}
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
@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_restart_of_two_seconds_is_hidden(make_database: MakeDatabase, running: EmbeddedServer, how: str) -> None:
    """32 threads read through the ORM all the time; none of them sees an error."""
    database = make_database(running, max_size=8, timeout=20, **ON)
    stop = threading.Event()

    def reader() -> int:
        count = 0
        try:
            while not stop.is_set():
                assert read(database) == 3
                count += 1
        finally:
            connections[database.alias].close()
        return count

    tasks = [Task(reader) for _ in range(32)]
    assert wait_until(lambda: database.pool.snapshot().size == 8, PATIENCE)
    for _ in range(2):
        if how == "kill":
            running.kill()
        else:
            running.stop(how)
        threading.Event().wait(2.0)  # the length of the outage, which is what is tested
        running.start()
        with running.connect(application_name="observer") as observer:
            database.observer = observer
            assert wait_until(lambda: len(database.backends()) > 0, PATIENCE)
    stop.set()
    assert all(task.result() > 0 for task in tasks)
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
        assert 0 < error.retry_after <= 60
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


@pytest.mark.ci
@pytest.mark.parametrize("seconds", [5, 20])
def test_long_outage(make_database: MakeDatabase, running: EmbeddedServer, seconds: int) -> None:
    """Whatever its length: served within a second of the server's return, and no caller paid for the trial."""
    database = make_database(running, max_size=4, **{**ON, **FAST})
    database.serve_at_once(4)
    running.kill()
    ended = monotonic() + seconds
    errors: list[BaseException] = []
    while monotonic() < ended:
        errors.append(refused(database))
        threading.Event().wait(0.05)
    assert isinstance(errors[-1], CircuitOpen)
    running.start()
    accepts = monotonic()
    while True:
        try:
            database.backend()
            break
        except CircuitOpen:
            threading.Event().wait(0.01)
    assert monotonic() - accepts < 1.0
    database.observer = running.connect(application_name="observer")
    database.assert_whole()
    assert monotonic() - accepts < 5.0
    database.observer.close()


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
