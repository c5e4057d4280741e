"""
A server that is frozen, a network that swallows everything, an address that accepts and never answers: whoever waits
is told by the deadline and a second, by the name of what happened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from django_dbpool.errors import DatabaseUnavailable, LeaseTimedOut, PoolError
from testproject.postgres import EmbeddedServer, Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database, Task
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.ci

TIMEOUT = 2.5
"""Seconds to wait for a connection."""
LIMIT = 1.0
"""Seconds for a statement, where there is a limit."""
MORE = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with Server.embedded({"max_connections": "30"}) as server:
        yield server


@pytest.fixture(params=["deaf", "blackhole", "freeze"])
def silence(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[Silence]:
    with Proxy(server.host, server.port) as proxy:
        yield Silence(request.param, server, proxy)
        server.thaw()


class Silence:
    """How a server stops answering; ``deaf`` is for new connections only."""

    def __init__(self, how: str, server: EmbeddedServer, proxy: Proxy) -> None:
        self.how = how
        self.server = server
        self.proxy = proxy

    def begin(self) -> None:
        self.server.freeze() if self.how == "freeze" else getattr(self.proxy, self.how)()

    def end(self) -> None:
        self.server.thaw() if self.how == "freeze" else self.proxy.start()

    def database(self, make_database: MakeDatabase, **pool: Any) -> Database:
        # The kernel acknowledges for whom it has stopped, so tcp_user_timeout sees nothing here.
        pool = {"timeout": TIMEOUT, "connect_timeout": 2, "tcp_user_timeout": 0, "retry": True, **pool}
        return make_database(self.server, HOST=self.proxy.host, PORT=str(self.proxy.port), **pool)


def close(database: Database) -> None:
    connections[database.alias].close()
    connections[database.alias].close_pool()
    database.observer.close()


def told(work: Callable[[], Any], kind: type[PoolError], limit: float) -> PoolError:
    began = monotonic()
    with pytest.raises(PoolError) as raised:
        work()
    seconds = monotonic() - began
    assert type(raised.value) is kind, repr(raised.value)
    assert isinstance(raised.value.__cause__, psycopg.Error)
    assert seconds <= limit + MORE, seconds
    return raised.value


def test_connecting(make_database: MakeDatabase, silence: Silence) -> None:
    """Eight threads that need new connections; then the server is back, and so is every place in the pool."""
    database = silence.database(make_database, max_size=4)
    silence.begin()
    tasks = [Task(told, database.backend, DatabaseUnavailable, TIMEOUT) for _ in range(8)]
    for task in tasks:
        task.result()
    silence.end()
    database.assert_whole()
    close(database)


@pytest.mark.parametrize("silence", ["blackhole", "freeze"], indirect=True)
@pytest.mark.parametrize("pool", [{}, {"command_timeout": LIMIT}], ids=["unlimited", "limited"])
def test_check_of_an_idle_connection(make_database: MakeDatabase, silence: Silence, pool: dict[str, Any]) -> None:
    """Part of waiting for a connection, so it ends with that, also where statements have no limit."""
    database = silence.database(make_database, check_idle=0, max_size=2, **pool)
    database.serve_at_once(2)
    silence.begin()
    tasks = [Task(told, database.backend, DatabaseUnavailable, TIMEOUT) for _ in range(2)]
    for task in tasks:
        task.result()
    silence.end()
    database.assert_whole()
    close(database)


def alone(sql: str) -> Callable[[Database, threading.Event, list[int]], None]:
    def work(database: Database, silent: threading.Event, begun: list[int]) -> None:
        silent.wait()
        database.fetch(sql)

    return work


def in_block(end: Callable[[Database], None]) -> Callable[[Database, threading.Event, list[int]], None]:
    def work(database: Database, silent: threading.Event, begun: list[int]) -> None:
        with transaction.atomic(using=database.alias):
            database.fetch("SELECT 1")
            begun.append(1)
            silent.wait()
            end(database)

    return work


def fail(database: Database) -> None:
    raise ZeroDivisionError


WORKS: dict[str, tuple[Callable[[Database, threading.Event, list[int]], None], bool | None]] = {
    "read": (alone("SELECT 1"), False),
    "write": (alone("CREATE TABLE never (id int)"), True),
    "statement in a transaction": (in_block(lambda database: database.fetch("CREATE TABLE never (id int)")), False),
    "COMMIT": (in_block(lambda database: None), True),
    "ROLLBACK": (in_block(fail), None),
}
"""And whether anything may have been committed; None: the error that led to ROLLBACK comes through."""


@pytest.mark.parametrize("silence", ["blackhole", "freeze"], indirect=True)
def test_statements(make_database: MakeDatabase, silence: Silence) -> None:
    """All of them at once end by their limit, and say what is known."""
    database = silence.database(make_database, command_timeout=LIMIT, max_size=len(WORKS))
    database.serve_at_once(len(WORKS))
    silent = threading.Event()
    seconds: list[float] = []
    begun: list[int] = []
    """Who has the answer to the first statement of its transaction."""

    def run(work: Callable[[Database, threading.Event, list[int]], None]) -> None:
        try:
            work(database, silent, begun)
        finally:
            seconds.append(monotonic() - began)
            connections[database.alias].close()

    tasks = {name: Task(run, work) for name, (work, _) in WORKS.items()}
    blocks = sum(name not in ("read", "write") for name in WORKS)
    assert wait_until(lambda: len(begun) == blocks, PATIENCE)
    silence.begin()
    began = monotonic()
    silent.set()
    for name, (_, doubt) in WORKS.items():
        error = tasks[name].error()
        if doubt is None:
            assert type(error) is ZeroDivisionError, (name, error)
        else:
            assert isinstance(error, LeaseTimedOut), (name, error)
            assert error.maybe_committed is doubt, name
    assert max(seconds) <= LIMIT + MORE, seconds
    assert database.pool.in_use == 0
    silence.end()
    database.assert_whole()
    close(database)
