"""Connections that die while nobody uses them are replaced before anybody does; those that live are kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from django_dbpool.pool.entry import PoolEntry
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.proxy import Proxy

MODES = pytest.mark.parametrize("mode", ["transaction", "session"])


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30"}) as server:
        yield server


def replaced(caplog: pytest.LogCaptureFixture, database: Database) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.name.startswith("django_dbpool") and repr(database.alias) in record.getMessage()
    ]


def heard_of_it(entries: set[PoolEntry]) -> None:
    """Wait until this side's sockets have the news; the server only promises to end its processes."""
    assert wait_until(lambda: all(entry.suspicious() for entry in entries), PATIENCE)


def statement(database: Database) -> None:
    database.fetch("SELECT 1")


def block(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")


def server_side(database: Database) -> None:
    with database.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


@pytest.mark.parametrize("use", [statement, block, server_side])
@MODES
def test_terminated_one_by_one(
    make_database: MakeDatabase, mode: str, use: Callable[[Database], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Twenty times the idle connection is killed, twenty times the next statement works, and says so once."""
    caplog.set_level(logging.INFO)
    database = make_database(mode=mode, max_size=1)
    for number in range(20):
        use(database)
        database.connection.close()
        (pid,) = database.backends()
        database.observer.execute("SELECT pg_terminate_backend(%s)", [pid])
        heard_of_it(database.pool.entries)
        use(database)
        database.connection.close()
        records = replaced(caplog, database)
        assert len(records) == number + 1
        assert records[-1].levelno == logging.INFO
        assert str(pid) in records[-1].getMessage()
        assert (records[-1].severity, records[-1].connection_terminated, records[-1].backend_pid) == (
            "expected",
            True,
            pid,
        )
    database.assert_whole()


def test_all_terminated_at_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Four threads come to four dead connections: four statements work, four lines are logged."""
    caplog.set_level(logging.INFO)
    dead = database.serve_at_once(4)
    database.settle()
    for pid in dead:
        database.observer.execute("SELECT pg_terminate_backend(%s)", [pid])
    heard_of_it(database.pool.entries)
    assert not database.serve_at_once(4) & dead
    assert [record.levelno for record in replaced(caplog, database)] == [logging.INFO] * 4
    database.assert_whole()


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_server_restarted(
    make_database: MakeDatabase, server: EmbeddedServer, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who come after the restart notice nothing of it."""
    caplog.set_level(logging.INFO)
    database = make_database(server, max_size=3)
    database.serve_at_once(3)
    entries = set(database.pool.entries)
    database.settle()
    if how == "kill":
        server.kill()
    else:
        server.stop(how)
    server.start()
    heard_of_it(entries)
    database.observer = server.connect(application_name="observer")
    database.serve_at_once(3)
    assert len(replaced(caplog, database)) == 3
    database.assert_whole()
    database.observer.close()


@contextmanager
def through(proxy: Proxy, make_database: MakeDatabase, **settings: Any) -> Iterator[Database]:
    database = make_database(HOST=proxy.host, PORT=str(proxy.port), **settings)
    yield database
    database.connection.close()
    database.connection.close_pool()


def test_reset_by_the_network(make_database: MakeDatabase, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    """A firewall or balancer resets idle connections: the next statements are served on new ones."""
    caplog.set_level(logging.INFO)
    with through(proxy, make_database, max_size=2) as database:
        database.serve_at_once(2)
        database.settle()
        proxy.drop()
        heard_of_it(database.pool.entries)
        database.serve_at_once(2)
        assert [record.levelno for record in replaced(caplog, database)] == [logging.INFO] * 2
        database.assert_whole()


def test_silent_network_is_found_by_the_check(
    make_database: MakeDatabase, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no news comes, a connection that was idle for check_idle is asked before it is lent."""
    caplog.set_level(logging.INFO)
    with through(proxy, make_database, max_size=1, check_idle=0) as database:
        before = database.backend()
        (entry,) = database.pool.entries
        assert not entry.suspicious()
        database.observer.execute("SELECT pg_terminate_backend(%s)", [before])
        assert database.backend() != before
        assert len(replaced(caplog, database)) == 1


@pytest.fixture
def listening() -> Iterator[None]:
    """Every new connection listens, by a receiver that sets it up: what is announced arrives while it is idle."""

    def listen(connection: Any, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("LISTEN faults_news")

    connection_created.connect(listen)
    yield
    connection_created.disconnect(listen)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("use", [statement, block])
def test_news_while_idle_is_no_reason_to_close(
    database: Database, use: Callable[[Database], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A message on an idle connection is read, and the connection is used on."""
    caplog.set_level(logging.INFO)
    before = database.serve_at_once(2)
    database.settle()
    for _ in range(5):
        database.observer.execute("NOTIFY faults_news")
        heard_of_it(database.pool.entries)
        use(database)
        assert database.serve_at_once(2) == before
        database.settle()
    assert replaced(caplog, database) == []


def test_reloaded_configuration_is_no_reason_to_close(
    make_database: MakeDatabase, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting that the server reports to its clients changes while they are idle."""
    caplog.set_level(logging.INFO)
    database = make_database(server, max_size=2)
    before = database.serve_at_once(2)
    database.settle()
    with server.connect() as admin:
        admin.execute("ALTER SYSTEM SET datestyle = 'ISO, DMY'")
        admin.execute("SELECT pg_reload_conf()")
    assert wait_until(lambda: database.fetch("SHOW DateStyle") == "ISO, DMY", PATIENCE)
    assert database.serve_at_once(2) == before
    assert replaced(caplog, database) == []
    database.assert_whole()


def test_kills_under_load(make_database: MakeDatabase) -> None:
    """A hundred connections are killed, each while it is idle, beside four threads at work: no error at all."""
    database = make_database(max_size=5)  # one more than threads at work, so that one is idle
    database.serve_at_once(5)
    stop = threading.Event()

    def work() -> int:
        rounds = 0
        while not stop.is_set():
            statement(database)
            block(database)
            rounds += 1
        return rounds

    def kill_one() -> bool:
        """Take a free connection out, kill it, and put it back when the news has come."""
        gate = database.pool.gate
        try:
            entry = gate.free.pop()
        except IndexError:
            return False
        database.observer.execute("SELECT pg_terminate_backend(%s)", [entry.backend_pid])
        heard_of_it({entry})
        gate.give(entry)
        return True

    tasks = [Task(work) for _ in range(4)]
    try:
        for _ in range(100):
            assert wait_until(kill_one, PATIENCE)
    finally:
        stop.set()
    assert all(task.result() for task in tasks)
    database.assert_whole()


def test_looked_at_while_lent(database: Database) -> None:
    """After a loss all idle connections are looked at, by whoever met it, while others take them and look too."""
    database.serve_at_once(4)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            database.pool.check()

    def work() -> None:
        for _ in range(1000):
            statement(database)

    looking = [Task(look) for _ in range(2)]
    working = [Task(work) for _ in range(2)]
    try:
        assert [task.error() for task in working] == [None, None]
    finally:
        stop.set()
    assert [task.error() for task in looking] == [None, None]
    database.assert_whole()


def test_health_checks_setting(make_database: MakeDatabase) -> None:
    """CONN_HEALTH_CHECKS: each unit begins with a round trip, though no news has come and none is due."""
    database = make_database(max_size=1, CONN_HEALTH_CHECKS=True)
    database.backend()
    database.connection.close()
    (entry,) = database.pool.entries
    checks: list[int] = []
    pool = database.pool
    plain = pool._check
    assert plain is not None

    def counting(conn: Any) -> None:
        checks.append(conn.info.backend_pid)
        plain(conn)

    pool._check = counting
    for _ in range(3):
        for _ in range(5):
            statement(database)
        connections[database.alias].close()
    assert checks == [entry.backend_pid] * 3
