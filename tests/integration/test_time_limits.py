"""The server's time limits: which connections have them, which do not, and what an exceeded one is called."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django
import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connections, transaction

from django_dbpool import conf
from django_dbpool.backends.startup import StartupMixin
from django_dbpool.errors import LeaseTimedOut
from django_dbpool.pool import registry
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pgbouncer import pgbouncer
from tests.fixtures.pools import execute, in_use, value
from tests.fixtures.workers import PATIENCE

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
LIMITS = {"statement_timeout": 12, "lock_timeout": 3.5, "idle_in_transaction_timeout": 20, "transaction_timeout": 30}
SHOWN = {
    "statement_timeout": "12s",
    "lock_timeout": "3500ms",
    "idle_in_transaction_session_timeout": "20s",
    "transaction_timeout": "30s",
}
NONE = dict.fromkeys(SHOWN, "0")


def shown(alias: str) -> dict[str, Any]:
    return {name: value(alias, f"SHOW {name}") for name in SHOWN}


@contextmanager
def started_as(monkeypatch: pytest.MonkeyPatch, *argv: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", list(argv))
        yield


# -- on each connection ----------------------------------------------------------------------------------------


def test_limits_are_the_sessions_defaults(make_pool: MakePool) -> None:
    """They came with the start-up packet: RESET ALL does not remove them, and nothing pins."""
    alias = make_pool(POOL=LIMITS)
    assert shown(alias) == SHOWN
    assert in_use(alias) == 0
    with transaction.atomic(using=alias):
        execute(alias, "RESET ALL")
        assert shown(alias) == SHOWN


@pytest.mark.parametrize("options", [True, False], ids=["in the start-up packet", "after connecting"])
def test_session_variables_and_role_go_the_same_way(
    make_pool: MakePool, session_server: Server, monkeypatch: pytest.MonkeyPatch, options: bool
) -> None:
    """Values with spaces, quotes, backslashes and commas arrive as they are; the role does not limit what is set."""
    monkeypatch.setattr(StartupMixin, "_startup_options", options)
    session = {
        "app.tenant": 'it\'s\ta \\ "name", or so',
        "search_path": ["a b", "public"],
        "log_min_duration_statement": 7,
    }
    with session_server.connect() as connection:
        connection.execute("CREATE ROLE limited_role")
    try:
        alias = make_pool(POOL={**LIMITS, "session": session}, OPTIONS={"assume_role": "limited_role"})
        assert value(alias, "SHOW app.tenant") == session["app.tenant"]
        assert value(alias, "SHOW search_path") == '"a b", "public"'
        assert value(alias, "SELECT current_user::text") == "limited_role"
        assert shown(alias) == SHOWN
        connections[alias].close_pool()
    finally:
        with session_server.connect() as connection:
            connection.execute("DROP ROLE limited_role")


def test_set_after_connecting_in_one_round_trip(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, observer: psycopg.Connection[Any]
) -> None:
    """Where start-up options can't be used; and only what is asked for and not reported by the server costs one."""
    sent: list[Any] = []
    execute_before = psycopg.Connection.execute

    def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(query)
        return execute_before(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", counted)
    monkeypatch.setattr(StartupMixin, "_startup_options", False)
    alias = make_pool(POOL={**LIMITS, "session": {"app.tenant": "x"}}, TIME_ZONE="Asia/Tokyo")
    assert shown(alias) == SHOWN
    assert value(alias, "SHOW app.tenant") == "x"
    assert value(alias, "SHOW TimeZone") == "Asia/Tokyo"
    assert len(sent) == 1
    monkeypatch.undo()
    monkeypatch.setattr(psycopg.Connection, "execute", counted)
    assert value(make_pool(), "SELECT 1") == 1
    assert len(sent) == 1


@pytest.mark.ci
@pytest.mark.parametrize(
    "settings",
    [{}, {"ignore_startup_parameters": "options"}],
    ids=["refuses start-up options", "ignores start-up options"],
)
def test_behind_a_pooler(session_server: Server, make_alias: MakeAlias, settings: dict[str, str]) -> None:
    with pgbouncer(session_server, **settings) as front:
        alias = make_alias(front, POOL={**LIMITS, "session": {"app.tenant": "x"}, "max_size": 2, "timeout": 5})
        assert shown(alias) == SHOWN
        assert value(alias, "SHOW app.tenant") == "x"


# -- refused by the server -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [True, False], ids=["in the start-up packet", "after connecting"])
@pytest.mark.parametrize(
    ("session", "name"), [({"no_such_setting": 1}, "no_such_setting"), ({"work_mem": "lots"}, "work_mem")]
)
def test_refused_setting_is_named(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, options: bool, session: dict[str, Any], name: str
) -> None:
    """Not DatabaseUnavailable, which would have people look at the network; no slot is lost."""
    monkeypatch.setattr(StartupMixin, "_startup_options", options)
    alias = make_pool(POOL={"session": session})
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=rf'POOL\["session"\]\["{name}"\].*Correct or remove it'):
            connections[alias].cursor()
    assert in_use(alias) == 0
    assert connections[alias].pool.gate.size == 0


@pytest.mark.parametrize(
    "message",
    [
        'connection failed: FATAL:  unrecognized configuration parameter "transaction_timeout"',
        "connection failed: FATAL:  unbekannter Konfigurationsparameter »transaction_timeout«",
    ],
)
def test_transaction_timeout_before_postgresql_17(make_pool: MakePool, message: str) -> None:
    alias = make_pool(POOL=LIMITS)
    with pytest.raises(ImproperlyConfigured, match=r'POOL\["transaction_timeout"\].*needs PostgreSQL 17'):
        connections[alias]._retry_without_startup_options(psycopg.OperationalError(message))


def test_other_failures_blame_no_setting(make_pool: MakePool) -> None:
    alias = make_pool(POOL=LIMITS)
    for message in ('FATAL:  database "x" does not exist', 'FATAL:  role "lock" does not exist', "lock_timeout"):
        assert connections[alias]._retry_without_startup_options(psycopg.OperationalError(message)) is False


# -- who has none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "limited"),
    [
        (("manage.py", "migrate"), False),
        (("/srv/site/manage.py", "dumpdata", "app"), False),
        (("/usr/bin/django-admin", "shell"), False),
        (("/usr/lib/python3/django/__main__.py", "migrate"), False),
        (("manage.py",), False),
        (("manage.py", "runserver"), True),
        (("manage.py", "runserver_plus"), True),
        (("manage.py", "testserver"), True),
        (("manage.py", "test"), True),
        (("/usr/bin/gunicorn", "site.wsgi"), True),
        (("/usr/bin/celery", "worker"), True),
        (("/usr/lib/python3/pytest/__main__.py",), True),
        ((), True),
    ],
)
def test_management_commands_take_their_time(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], limited: bool
) -> None:
    with started_as(monkeypatch, *argv):
        alias = make_pool(POOL={**LIMITS, "command_timeout": 5})
        assert shown(alias) == (SHOWN if limited else NONE)
        assert connections[alias].pool.config.command_timeout == (5 if limited else None)


def test_test_databases_are_set_up_without(
    make_pool: MakePool, session_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the runner is no management command; the tests then run with the limits."""
    alias = make_pool(POOL={**LIMITS, "command_timeout": 5, "session": {"app.tenant": "x"}})
    before = connections[alias].settings_dict["NAME"]
    pool = dict(connections[alias].settings_dict["POOL"])
    connections[alias].settings_dict["NAME"] = "dbpool_limits"
    found: list[Any] = []

    def migrate(name: str, *args: Any, **kwargs: Any) -> None:
        found.append(
            (name, shown(alias), connections[alias].pool.config.command_timeout, value(alias, "SHOW app.tenant"))
        )

    monkeypatch.setattr("django.core.management.call_command", migrate)
    try:
        creation = connections[alias].creation
        options = {} if django.VERSION >= (6, 0) else {"serialize": False}  # nothing was migrated
        assert creation.create_test_db(verbosity=0, autoclobber=True, **options) == "test_dbpool_limits"
        assert found == [("migrate", NONE, None, "x"), ("createcachetable", NONE, None, "x")]
        assert connections[alias].settings_dict["POOL"] == pool
        assert [pool for pool in registry.pools() if pool.alias == alias] == [], "nor does one stay connected"
        assert shown(alias) == SHOWN
        assert connections[alias].pool.config.command_timeout == 5
    finally:
        creation.destroy_test_db(before, verbosity=0)


def test_without_time_limits_keeps_the_rest() -> None:
    pool = {"max_size": 3, **LIMITS}
    assert conf.without_time_limits(pool) == {"enabled": True, "max_size": 3}
    assert conf.without_time_limits({"statement_timeout": 1}) == {"enabled": True}
    assert conf.without_time_limits({"enabled": False, "statement_timeout": 1}) == {"enabled": False}
    for same in ({"max_size": 3}, True, None, False, {"statement_timeout": None}):
        assert conf.without_time_limits(same) is same


def test_called_commands_keep_the_limits_of_their_process(make_pool: MakePool) -> None:
    """call_command() inside of a site is the site's."""
    alias = make_pool(POOL=LIMITS)
    call_command("check", databases=[alias])
    assert shown(alias) == SHOWN


# -- exceeded --------------------------------------------------------------------------------------------------


def test_statement_and_lock_timeout_keep_djangos_names(make_pool: MakePool) -> None:
    """57014 and 55P03: the statement failed, the connection is well."""
    alias = make_pool(size=2, POOL={"statement_timeout": 0.1})
    with pytest.raises(OperationalError) as raised:
        execute(alias, "SELECT pg_sleep(600)")
    assert type(raised.value) is OperationalError
    assert isinstance(raised.value.__cause__, psycopg.errors.QueryCanceled)
    alias = make_pool(size=2, POOL={"lock_timeout": 0.1})
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=alias):
            execute(alias, "LOCK TABLE app_item")
            held.set()
            release.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(PATIENCE)
        with pytest.raises(OperationalError) as raised:
            execute(alias, "SELECT * FROM app_item")
    finally:
        release.set()
        holder.join()
    assert type(raised.value) is OperationalError
    assert isinstance(raised.value.__cause__, psycopg.errors.LockNotAvailable)


def ended(observer: psycopg.Connection[Any], pid: int) -> bool:
    return observer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is None


@pytest.mark.parametrize(
    ("setting", "sqlstate"), [("idle_in_transaction_timeout", "25P03"), ("transaction_timeout", "25P04")]
)
@pytest.mark.parametrize("last", ["statement", "COMMIT"])
def test_transaction_ended_by_the_server(
    make_pool: MakePool, observer: psycopg.Connection[Any], setting: str, sqlstate: str, last: str
) -> None:
    """LeaseTimedOut says which limit; nothing was committed, and the next statement has another connection."""
    alias = make_pool(POOL={setting: 0.2})
    if int(observer.info.server_version) < 170000 and setting == "transaction_timeout":
        pytest.skip("transaction_timeout needs PostgreSQL 17")
    with pytest.raises(LeaseTimedOut) as raised, transaction.atomic(using=alias):
        execute(alias, "INSERT INTO app_item (name, n) VALUES ('lost', 1)")
        pid = value(alias, "SELECT pg_backend_pid()")
        assert wait_until(lambda: ended(observer, pid), PATIENCE)
        if last == "statement":
            execute(alias, "SELECT 'a literal'")
    error = raised.value
    assert isinstance(error.__cause__, psycopg.Error)
    assert error.__cause__.sqlstate == sqlstate
    assert (error.alias, error.setting, error.limit) == (alias, setting, 0.2)
    assert error.waited >= 0.2
    assert not error.maybe_committed
    assert f'POOL["{setting}"] = 0.2 s was exceeded' in str(error)
    assert "literal" not in str(error)
    assert in_use(alias) == 0
    assert value(alias, "SELECT count(*) FROM app_item WHERE name = 'lost'") == 0


def test_idle_session_timeout_of_the_server(make_pool: MakePool, observer: psycopg.Connection[Any]) -> None:
    """57P05 on a lease that is held without a transaction; a free connection is just replaced."""
    alias = make_pool(POOL={"session": {"idle_session_timeout": "1s"}})
    pid = value(alias, "SELECT pg_backend_pid()")
    assert wait_until(lambda: ended(observer, pid), PATIENCE)
    assert value(alias, "SELECT 1") == 1
    connections[alias].ensure_connection()
    execute(alias, "SELECT pg_advisory_lock(1)")  # pins
    pid = value(alias, "SELECT pg_backend_pid()")
    assert wait_until(lambda: ended(observer, pid), PATIENCE)
    with pytest.raises(LeaseTimedOut, match="the server's limit for idle_session_timeout was exceeded") as raised:
        execute(alias, "SELECT 1")
    assert raised.value.limit is None
    connections[alias].close()
    assert value(alias, "SELECT 1") == 1
