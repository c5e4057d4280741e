"""One server for the session, and what tests may ask of it."""

from __future__ import annotations

import logging
import os
import platform
import signal
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.internal.conjecture import engine

from django_dbpool.core import logs
from django_dbpool.core.ledger import current_unit, thread_units
from testproject.postgres import EmbeddedServer, Server
from tests import settings
from tests.fixtures import measured_forks
from tests.fixtures.aliases import MakeAlias, temporary_aliases
from tests.fixtures.broker import Broker, running_broker
from tests.fixtures.celery_workers import Workers, at_database, worker_starter
from tests.fixtures.leases import leases_left
from tests.fixtures.passwords import Vault, password_server
from tests.fixtures.proxy import Proxy

SERVER = pytest.StashKey[Server]()
HANGING = pytest.StashKey[bool]()

TELL = logs._tell

# An example that was slow tells of the machine.
hypothesis_settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("untimed")
engine.MAX_SHRINKING_SECONDS = 60  # of 300, longer than a test may take: what was found would never be told


def pytest_configure(config: pytest.Config) -> None:
    measured_forks.keep_whole()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has started us in the background. What is ignored here would be ignored by every process of a test.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # it only hands out tests
    server = Server.from_env_or_embedded({"max_connections": "200"})
    config.add_cleanup(server.remove)
    config.stash[SERVER] = server.__enter__()
    settings.use_server(server)
    # For the child processes of tests; DBPOOL_TEST_DSN would say that the server is not ours.
    os.environ[settings.SERVER_VARIABLE] = server.dsn


def pytest_report_header(config: pytest.Config) -> list[str]:
    server = config.stash.get(SERVER, None)
    if server is None:
        return []
    with server.connect() as connection:
        postgres = connection.execute("SELECT current_setting('server_version')").fetchone()
    origin = "embedded" if isinstance(server, EmbeddedServer) else "DBPOOL_TEST_DSN"
    names = ("Django", "psycopg", "psycopg-pool")
    return [
        f"server: PostgreSQL {postgres and postgres[0]} ({origin}), {server.host}:{server.port}",
        ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])
        + f", libpq {psycopg.pq.version_pretty(psycopg.pq.version())} ({psycopg.pq.__impl__})",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        item.stash[HANGING] = True
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """After all fixtures, pytest-django's transactions among them, are gone."""
    if item.stash.get(HANGING, False):
        end_transactions(item.config.stash[SERVER])
    yield
    # Django's test client doesn't end a request whose view has raised: the next test is none of its.
    current_unit.set(None)
    thread_units.clear()
    if left := leases_left():
        for connection in connections.all(initialized_only=True):
            connection.close_pool()  # one leak must not fail the tests after it
        pytest.fail("leases left by the test:\n" + "\n".join(f"  {h.alias}: {h}" for h in left), pytrace=False)


def end_transactions(server: Server) -> None:
    """Those that hang in a thread of the test, or the clean-up behind it would wait for their locks."""
    with server.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


@pytest.fixture(scope="session")
def session_server(pytestconfig: pytest.Config) -> Server:
    """The server of all tests; only to be looked at and connected to."""
    return pytestconfig.stash[SERVER]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of the module's own, to be restarted, killed and frozen; started."""
    with Server.embedded({"max_connections": "30"}) as server:
        yield server


@pytest.fixture
def observer(session_server: Server, django_db_setup: None) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to the test database of alias default that no pool knows of."""
    with session_server.connect(
        dbname=connections["default"].settings_dict["NAME"], application_name="observer"
    ) as connection:
        yield connection


@pytest.fixture
def make_alias(session_server: Server, django_db_blocker: Any) -> Iterator[MakeAlias]:
    with django_db_blocker.unblock(), temporary_aliases(session_server) as make:
        yield make


@pytest.fixture
def proxy(session_server: Server) -> Iterator[Proxy]:
    """A proxy in front of the session's server, started."""
    with Proxy(session_server.host, session_server.port) as proxy:
        yield proxy


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker for Celery workers; the test is skipped where there is none to be had."""
    with running_broker() as broker:
        yield broker


@pytest.fixture
def workers(broker: Broker, session_server: Server, django_db_setup: None, tmp_path: Path) -> Iterator[Workers]:
    """Starts Celery workers on the test database of alias default; they are gone after the test."""
    database = at_database(session_server, connections["default"].settings_dict["NAME"])
    with worker_starter(broker, database, tmp_path) as workers:
        yield workers


@pytest.fixture(scope="module")
def strict_server() -> Iterator[EmbeddedServer]:
    """A server of the module's own that wants a password of one role."""
    with password_server() as server:
        yield server


@pytest.fixture
def vault(strict_server: EmbeddedServer) -> Vault:
    """Where that role's password is kept."""
    return Vault(strict_server)


def _raise(error: Exception) -> None:
    raise error


@pytest.fixture(autouse=True)
def errors_of_logging_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that can't be formatted fails its test: pytest's handler raises then."""
    monkeypatch.setattr(logs, "_tell", _raise)


@pytest.fixture
def break_log(monkeypatch: pytest.MonkeyPatch, errors_of_logging_fail: None) -> Iterator[Callable[[str], None]]:
    """Give a logger a filter of a project's that raises: nobody catches that, unlike a handler's errors."""
    monkeypatch.setattr(logs, "_tell", TELL)
    broken: list[logging.Logger] = []

    def raise_always(record: logging.LogRecord) -> bool:
        raise RuntimeError("the log is broken")

    def break_(name: str) -> None:
        logger = logging.getLogger(name)
        logger.addFilter(raise_always)
        broken.append(logger)

    yield break_
    for logger in broken:
        logger.removeFilter(raise_always)
