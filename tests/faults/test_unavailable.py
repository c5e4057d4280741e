"""A server that is down is told from a pool that is full: at once, with the driver's error, without a secret."""

from __future__ import annotations

import pickle
import threading
import traceback
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from django_dbpool.errors import DatabaseUnavailable, PoolExhausted, ServerConnectionsExhausted
from testproject.postgres import EmbeddedServer, Server, free_port
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.proxy import Proxy

PASSWORD = "s3cret-Parole"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of this module's own, which also asks one role for a password."""
    with Server.embedded({"max_connections": "30"}) as server:
        assert server.data_dir is not None
        rules = server.data_dir / "pg_hba.conf"
        rules.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        with server.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
            connection.execute("CHECKPOINT")  # or a kill right away takes the role with it
        yield server


@pytest.fixture
def running(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """The module's server, up before the test and after it."""
    server.start()
    yield server
    server.start()


def all_texts(error: BaseException) -> str:
    """What a log shows of an exception and its causes, and all that the pool's own error carries."""
    parts = ["".join(traceback.format_exception(error)), repr(vars(error))]
    link: BaseException | None = error
    while link is not None:
        parts += [str(link), repr(link), repr(link.args)]
        link = link.__cause__ or link.__context__
    return "\n".join(parts)


def refusal_of(database: Database) -> DatabaseUnavailable:
    with pytest.raises(DatabaseUnavailable) as caught:
        database.backend()
    return caught.value


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_refused_at_once(make_database: MakeDatabase, mode: str) -> None:
    """The first error comes within 50 ms although callers may wait twenty seconds for a lease."""
    seconds = []
    for _ in range(7):
        database = make_database(mode=mode, timeout=20, PORT=str(free_port()))
        start = monotonic()
        error = refusal_of(database)
        seconds.append(monotonic() - start)
        assert isinstance(error, OperationalError)
        assert isinstance(error.__cause__, psycopg.OperationalError)
        assert "refused" in str(error.__cause__)
        assert "The driver says: connection failed" in str(error)
        assert (error.alias, error.in_use, error.waiting, error.holders) == (database.alias, 0, 0, ())
        assert database.pool.snapshot().size == 0
    assert min(seconds) < 0.05, seconds  # of the others some may have waited for the machine


def test_every_caller_learns_it_at_once(make_database: MakeDatabase) -> None:
    """Thirty threads on four connections: none of them waits for the deadline."""
    database = make_database(timeout=PATIENCE, PORT=str(free_port()))
    errors = [task.error() for task in [Task(database.backend) for _ in range(30)]]
    assert {type(error) for error in errors} == {DatabaseUnavailable}
    assert max(error.waited for error in errors if isinstance(error, DatabaseUnavailable)) < PATIENCE / 2
    assert database.settle().size == 0


def test_pickles(make_database: MakeDatabase) -> None:
    """Results of Celery and multiprocessing carry the error with its numbers and its text."""
    error = refusal_of(make_database(PORT=str(free_port())))
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is DatabaseUnavailable
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)
    assert copied.retry_after > 0


@pytest.mark.parametrize("fault", ["refused", "wrong password", "unknown host"])
def test_tells_no_password(make_database: MakeDatabase, running: EmbeddedServer, fault: str) -> None:
    """Neither in its text, nor in its attributes, nor in the texts of its causes."""
    settings: dict[str, Any] = {
        "refused": {"PORT": str(free_port())},
        "wrong password": {"USER": "locked"},
        "unknown host": {"HOST": "nowhere.invalid"},
    }[fault]
    error = refusal_of(make_database(running, PASSWORD=PASSWORD, **settings))
    text = all_texts(error)
    assert {"refused": "refused", "wrong password": "password authentication", "unknown host": "nowhere"}[fault] in text
    assert PASSWORD not in text
    assert PASSWORD not in pickle.dumps(error).decode("latin-1")


def test_full_server_is_named_by_its_error(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """max_connections used up: the cause says so."""
    others = []
    with pytest.raises(psycopg.OperationalError):
        for _ in range(100):
            others.append(running.connect(user="locked", password="another"))
    try:
        database = make_database(running, USER="locked", PASSWORD="another")
        with pytest.raises(ServerConnectionsExhausted) as caught:
            database.backend()
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert "connection slots" in str(caught.value.__cause__)
    finally:
        for connection in others:
            connection.close()
    assert wait_until(lambda: _serves(database), PATIENCE)


def _serves(database: Database) -> bool:
    try:
        return bool(database.backend())
    except ServerConnectionsExhausted:
        return False


def test_queued_callers_learn_that_the_server_went_down(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """As soon as the holders have noticed, everybody behind them is refused, long before the deadline."""
    database = make_database(running, max_size=2, timeout=600)
    holders = [Task(sleep_in_block, database) for _ in range(2)]
    assert wait_until(lambda: database.pool.snapshot().in_use == 2, PATIENCE)
    queued = [Task(database.backend) for _ in range(10)]
    assert wait_until(lambda: database.pool.gate.waiting == 10, PATIENCE)
    running.stop("immediate")
    assert all(isinstance(task.error(), OperationalError) for task in holders)
    errors = [task.error() for task in queued]
    assert {type(error) for error in errors} == {DatabaseUnavailable}
    assert all(isinstance(error.__cause__, psycopg.OperationalError) for error in errors if error)
    assert database.settle().size == 0


def sleep_in_block(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT pg_sleep(600)")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_back_at_once(make_database: MakeDatabase, running: EmbeddedServer, mode: str) -> None:
    """No back-off, no new process: the first lease after the server's return is served, in every thread."""
    database = make_database(running, mode=mode, max_size=3)
    database.serve_at_once(3)
    database.settle()
    for how in ("fast", "kill"):
        if how == "kill":
            running.kill()
        else:
            running.stop(how)
        for _ in range(5):
            refusal_of(database)
        running.start()
        assert database.backend()
        database.connection.close()
        database.observer = running.connect(application_name="observer")
        database.assert_whole()
        database.observer.close()


def test_block_whose_server_went_down(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """The block fails with Django's error, not with the pool's, and nothing of it stays."""
    database = make_database(running)
    with pytest.raises(OperationalError) as caught, transaction.atomic(using=database.alias):
        database.backend()
        running.kill()
        database.backend()
    assert not isinstance(caught.value, (DatabaseUnavailable, PoolExhausted))
    assert not connections[database.alias].in_atomic_block
    assert database.settle().size == 0
    running.start()
    assert database.backend()


def test_down_while_the_pool_is_partly_leased(make_database: MakeDatabase, running: EmbeddedServer) -> None:
    """Who needs a new connection hears of the server, not of a full pool."""
    database = make_database(running, max_size=2, timeout=PATIENCE)
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=database.alias):
            database.backend()
            held.set()
            release.wait(PATIENCE)

    holder = Task(hold)
    assert held.wait(PATIENCE)
    running.kill()
    try:
        error = refusal_of(database)
    finally:
        release.set()
    assert error.in_use == 1
    assert "1 older connections in use" in str(error)
    assert isinstance(holder.error(), OperationalError)
    assert database.settle().size == 0


def test_connection_that_comes_too_late_is_kept(make_database: MakeDatabase, proxy: Proxy) -> None:
    """psycopg gives an attempt two seconds. A caller who has less doesn't wait for that; the next one profits."""
    database = make_database(HOST=proxy.host, PORT=str(proxy.port), timeout=0.2)
    seconds = []
    # On a busy machine the two seconds may be over before the proxy lets the attempt pass.
    while not database.pool.entries:
        proxy.deaf()
        start = monotonic()
        with pytest.raises(DatabaseUnavailable) as raised:
            database.backend()
        seconds.append(monotonic() - start)
        assert isinstance(raised.value.__cause__, psycopg.errors.ConnectionTimeout)
        proxy.start()
        assert wait_until(lambda: database.pool.snapshot().idle == 1 or not _tries_to_connect(), PATIENCE)
        assert len(seconds) < 10, seconds
    assert min(seconds) < 1.2, seconds
    (kept,) = database.pool.entries
    assert database.backend() == kept.backend_pid
    database.assert_whole()
    database.connection.close()
    database.connection.close_pool()


def _tries_to_connect() -> bool:
    return any(thread.name.startswith("dbpool-connect") for thread in threading.enumerate())


@pytest.fixture
def slow_to_begin(session_server: Server) -> Iterator[str]:
    """A role whose new connections wait for a lock when the pool looks which server they have reached."""
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE slow_to_begin SUPERUSER LOGIN")
        connection.execute("CREATE SCHEMA slow_to_begin")
        connection.execute("ALTER ROLE slow_to_begin SET search_path = slow_to_begin, pg_catalog")
        connection.execute(
            "CREATE FUNCTION slow_to_begin.pg_control_system(OUT system_identifier text) LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_lock(98); END $$"
        )
        connection.execute("SELECT pg_advisory_lock(98)")
        yield "slow_to_begin"
        connection.execute("SELECT pg_advisory_unlock(98)")
        connection.execute("DROP SCHEMA slow_to_begin CASCADE")
        connection.execute("DROP ROLE slow_to_begin")


@pytest.mark.parametrize("silent", [False, True])
def test_no_answer_after_connecting(
    make_database: MakeDatabase, proxy: Proxy, slow_to_begin: str, silent: bool
) -> None:
    """A pooler accepts everybody while its server is away; a server may freeze in this moment."""
    database = make_database(
        HOST=proxy.host, PORT=str(proxy.port), USER=slow_to_begin, timeout=1, retry=True, commit_status=True
    )
    task = Task(database.backend)
    assert wait_until(lambda: _waits_for_the_lock(database), PATIENCE)
    if silent:
        proxy.blackhole()
    start = monotonic()
    error = task.error()
    assert monotonic() - start < 5  # without a limit it would be for ever
    assert isinstance(error, DatabaseUnavailable)
    assert isinstance(error.__cause__, psycopg.errors.ConnectionTimeout)
    assert database.settle().size == 0
    proxy.start()
    database.connection.close_pool()


def _waits_for_the_lock(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 98 AND NOT granted"
    return database.observer.execute(query).fetchone() == (1,)
