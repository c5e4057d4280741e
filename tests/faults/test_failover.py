"""A primary that has become a standby is recognised by the writes that it refuses; nothing else is taken for that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import Error, connections, transaction
from psycopg.errors import ReadOnlySqlTransaction

from django_dbpool.pool import standby
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Clock, Database
from tests.fixtures.proxy import Proxy

SIGNAL = "standby.signal"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30", "wal_level": "replica"}) as server:
        yield server


@pytest.fixture
def primary(server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    with server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (key text)")
    yield server
    assert server.data_dir is not None
    if (server.data_dir / SIGNAL).exists():
        server.stop()
        (server.data_dir / SIGNAL).unlink()
        server.start()


def become_standby(server: EmbeddedServer) -> None:
    server.stop()
    assert server.data_dir is not None
    (server.data_dir / SIGNAL).touch()
    (server.data_dir / SIGNAL).chmod(0o666)  # the server, which is another user, opens it for writing
    server.start()


def write(database: Database) -> None:
    with database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes VALUES ('a')")


def refused(database: Database, work: Callable[[Database], None] = write) -> None:
    """Django's own error: the middleware answers it by its SQLSTATE."""
    with pytest.raises(Error) as raised:
        work(database)
    assert isinstance(raised.value.__cause__, ReadOnlySqlTransaction)
    assert type(raised.value).__module__ == "django.db.utils"


def warnings(caplog: pytest.LogCaptureFixture) -> list[int]:
    return [record.levelno for record in caplog.records if "standby" in record.getMessage()]


def in_atomic(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
        write(database)


@pytest.mark.parametrize("work", [write, in_atomic])
def test_failover(
    make_database: MakeDatabase,
    primary: EmbeddedServer,
    session_server: Server,
    work: Callable[[Database], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The address goes on leading to the old primary for a while; once it doesn't, one refused write is enough."""
    caplog.set_level(logging.INFO, "django_dbpool.pool")
    with session_server.connect() as connection, Proxy(primary.host, primary.port) as address:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (key text)")
        database = make_database(primary, HOST=address.host, PORT=str(address.port), max_size=3, retry=True)
        clock = Clock()
        work(database)
        become_standby(primary)
        database.serve_at_once(3)
        database.pool.clock = clock
        old = {entry.backend_pid for entry in database.pool.entries}
        refused(database, work)
        assert warnings(caplog) == [logging.WARNING]
        assert len(database.pool.entries) == 0, "all were replaced"
        database.serve_at_once(2)
        assert not old & {entry.backend_pid for entry in database.pool.entries}
        refused(database, work)
        refused(database, work)
        assert len(database.pool.entries) == 2, "one drain in a while is enough"

        address._target = (session_server.host, session_server.port)
        clock.advance(standby.DRAIN_EVERY)
        refused(database, work)
        work(database)
        database.serve_at_once(3)
        work(database)
        assert warnings(caplog) == [logging.WARNING, logging.INFO]
        database.connection.close()
        database.connection.close_pool()
        connection.execute("DROP TABLE notes")
        database.observer.close()


def test_a_server_that_names_every_host(
    make_database: MakeDatabase, primary: EmbeddedServer, session_server: Server
) -> None:
    """``target_session_attrs``: connections that were lost in the failover come back on the one that takes writes."""
    with session_server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (key text)")
        database = make_database(
            primary,
            HOST=f"{primary.host},{session_server.host}",
            PORT=f"{primary.port},{session_server.port}",
            OPTIONS={"target_session_attrs": "read-write"},
            retry=True,
        )
        write(database)
        become_standby(primary)
        write(database)
        assert database.fetch("SELECT inet_server_port()") == session_server.port
        database.connection.close()
        database.connection.close_pool()
        connection.execute("DROP TABLE notes")
        database.observer.close()


# -- and what it is not ----------------------------------------------------------------------------------------


def declared_read_only(database: Database) -> None:
    with transaction.atomic(using=database.alias):
        database.fetch("SELECT 1")
        with database.connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
        write(database)


@pytest.mark.parametrize(
    ("options", "work"),
    [
        ({}, declared_read_only),
        ({"options": "-c default_transaction_read_only=on"}, write),
        ({"options": "-c default_transaction_read_only=on"}, in_atomic),
    ],
)
def test_read_only_on_purpose(
    make_database: MakeDatabase,
    primary: EmbeddedServer,
    options: dict[str, Any],
    work: Callable[[Database], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = make_database(primary, max_size=3, OPTIONS=options)
    before = database.serve_at_once(3)
    for _ in range(3):
        refused(database, work)
        database.connection.close()
    assert database.serve_at_once(3) == before
    assert not warnings(caplog)


def test_read_only_role(make_database: MakeDatabase, primary: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    with primary.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN SUPERUSER")
        connection.execute("ALTER ROLE reader SET default_transaction_read_only = on")
        database = make_database(primary, max_size=2, USER="reader")
        before = database.serve_at_once(2)
        refused(database)
        assert database.serve_at_once(2) == before
        assert not warnings(caplog)
        connections[database.alias].close_pool()
        assert wait_until(lambda: not database.backends(), PATIENCE)
        connection.execute("DROP ROLE reader")


def test_alias_of_a_standby(
    make_database: MakeDatabase, primary: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It was never a primary: a write that strays there costs nobody their connections."""
    become_standby(primary)
    database = make_database(primary, max_size=3)
    before = database.serve_at_once(3)
    refused(database)
    refused(database, in_atomic)
    assert database.serve_at_once(3) == before
    assert not warnings(caplog)
    database.observer.close()
    connections[database.alias].close_pool()
