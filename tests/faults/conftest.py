"""Aliases whose connections can be told apart on the server."""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.test import override_settings

from django_dbpool.pool import command as commands
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.helpers import PATIENCE, Database
from tests.faults.others import Other, other
from tests.faults.timeouts import LIMIT
from tests.fixtures.aliases import MakeAlias

MakeDatabase = Callable[..., Database]
StartOther = Callable[..., Other]
_numbers = itertools.count(1)


@pytest.fixture
def make_database(make_alias: MakeAlias, session_server: Server) -> Iterator[MakeDatabase]:
    """A function: ``make(server=None, mode=..., max_size=..., OPTIONS=...)``; lower case goes to POOL."""
    observers: list[psycopg.Connection[Any]] = []

    def make(server: Server | None = None, **settings: Any) -> Database:
        application = f"faults-{next(_numbers)}"
        pool = {key: settings.pop(key) for key in list(settings) if key.islower()}
        options = {"application_name": application, **settings.pop("OPTIONS", {})}
        observer = (server or session_server).connect(application_name="observer")
        observers.append(observer)
        # Without a second attempt, and everybody may wait; tests of attempts, circuits and overload say so.
        plain = {"min_size": 0, "max_size": 4, "timeout": 20, "retry": False, "breaker": False, "queue_target": None}
        pool = {**plain, **pool}
        alias = make_alias(server, POOL=pool, OPTIONS=options, **settings)
        return Database(alias, application, observer)

    yield make
    for observer in observers:
        observer.close()


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    """Up to four connections on the session's server, opened when needed."""
    return make_database()


@pytest.fixture
def table(session_server: Server) -> Iterator[str]:
    """The name of a table with one text column, key, in the server's own database."""
    name = f"faults_{next(_numbers)}"
    with session_server.connect() as connection:
        connection.execute(f"CREATE TABLE {name} (key text)")
        yield name
        connection.execute(f"DROP TABLE {name}")


@pytest.fixture
def limited(make_database: MakeDatabase) -> Database:
    """Two connections, whose statements may take ``LIMIT`` seconds."""
    return make_database(command_timeout=LIMIT, max_size=2)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread hangs in a cancellation, no statement is watched for ever."""
    yield
    assert wait_until(lambda: not commands.running, PATIENCE), commands.running
    assert wait_until(lambda: not any(t.name == "dbpool-cancel" for t in threading.enumerate()), PATIENCE)


@pytest.fixture
def sockets() -> Iterator[Path]:
    """Where processes of this test listen, and nobody else; DBPOOL["SOCKET"]."""
    with tempfile.TemporaryDirectory(prefix="dbp") as directory, override_settings(DBPOOL={"SOCKET": directory}):
        yield Path(directory)
        # Whoever acts there is done, with the database, too.
        names = ("dbpool-act", "dbpool-locate")
        assert wait_until(lambda: not any(t.name in names for t in threading.enumerate()), PATIENCE)


@pytest.fixture
def start_other(sockets: Path, session_server: Server) -> Iterator[StartOther]:
    """A function that starts another process of the project; what it is given goes into its environment."""
    with ExitStack() as started:
        yield lambda **environment: started.enter_context(other(session_server, sockets, **environment))
