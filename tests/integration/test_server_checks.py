"""Checks that ask the server: whether there is room, whether it takes the settings, what stands in front of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.checks import CheckMessage, Tags, run_checks
from django.db import connections
from django.test import override_settings

from django_dbpool.checks import ask as asking
from django_dbpool.checks.ask import Answer, NoAnswer, ask
from django_dbpool.checks.pools import pools
from testproject.postgres import EmbeddedServer, Server
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pgbouncer import pgbouncer

pytestmark = pytest.mark.django_db(transaction=True)
Check = Callable[..., list[CheckMessage]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """What the database checks say of these aliases, in a project that has no others."""
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)

    def run(*aliases: str, databases: list[str] | None = None, **project: Any) -> list[CheckMessage]:
        only = {alias: connections.settings[alias] for alias in aliases}
        with monkeypatch.context() as patch, override_settings(DBPOOL=project):
            patch.setattr(settings, "DATABASES", only)
            return run_checks(tags=[Tags.database], databases=databases or list(aliases))

    return run


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages]


def answer(alias: str) -> Answer | NoAnswer:
    connections[alias]  # completes the settings
    return next(ask(pool) for pool in pools() if pool.name == alias)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server that accepts and then says nothing."""
    monkeypatch.setattr(asking, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


# -- room --------------------------------------------------------------------------------------------------


def test_a_project_that_fits(server: Server, make_alias: MakeAlias, check: Check) -> None:
    alias = make_alias(server=server, POOL={"max_size": 8})
    assert check(alias, PROCESSES=3) == []  # 27 of 30, of which 3 are reserved


def test_more_connections_than_the_server_has(server: Server, make_alias: MakeAlias, check: Check) -> None:
    one = make_alias(server=server, POOL={"max_size": 5})
    two = make_alias(server=server, POOL={"max_size": 3, "reserve_size": 0})
    assert check(one, two, PROCESSES=3) == [], "27 of 27"
    (message,) = check(one, two, PROCESSES=4)
    assert (message.id, message.level) == ("dbpool.W020", 30)
    assert message.msg == (
        f'DATABASES["{one}"]: the server has 27 connections for applications (max_connections 30, 3 of them reserved); '
        f'this project may take 36: 4 processes (DBPOOL["PROCESSES"] = 4) x 9 '
        f"(max_size + reserve_size: 5 + 1 of {one!r}, 3 + 0 of {two!r})."
    )
    assert "max_connections" in str(message.hint)
    assert ids(check(one, two, databases=[two], PROCESSES=4)) == ["dbpool.W020"], "all aliases on the server count"


def test_servers_are_counted_apart(server: Server, make_alias: MakeAlias, check: Check) -> None:
    one = make_alias(server=server, POOL={"max_size": 20})
    two = make_alias(POOL={"max_size": 20})
    assert check(one, two, PROCESSES=1) == []


def test_without_processes_what_is_reported_is_certain(
    server: Server, make_alias: MakeAlias, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = make_alias(server=server, POOL={"max_size": 26})
    assert check(alias) == []
    assert ids(check(make_alias(server=server, POOL={"max_size": 27}))) == ["dbpool.W020"]
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    (message,) = check(alias)
    assert "2 processes (WEB_CONCURRENCY = 2) x 27" in message.msg


def test_a_budget_that_the_server_does_not_have(server: Server, make_alias: MakeAlias, check: Check) -> None:
    alias = make_alias(server=server, POOL={"max_size": 1})
    assert check(alias, BUDGET=27) == []
    (message,) = check(alias, BUDGET=28)
    assert message.id == "dbpool.W020"
    assert 'DBPOOL["BUDGET"] is 28' in message.msg


def test_reserved_connections_of_postgresql_16(server: EmbeddedServer, make_alias: MakeAlias, check: Check) -> None:
    alias = make_alias(server=server, POOL={"max_size": 25})
    with server.connect() as connection:
        if connection.info.server_version < 160000:
            pytest.skip("reserved_connections is new in PostgreSQL 16")
        connection.execute("ALTER SYSTEM SET reserved_connections = 4")
        server.stop()
        server.start()
        try:
            (message,) = check(alias)
            assert "the server has 23 connections for applications (max_connections 30, 7 of them" in message.msg
        finally:
            with server.connect() as again:
                again.execute("ALTER SYSTEM RESET reserved_connections")
            server.stop()
            server.start()


@pytest.fixture
def limited(observer: psycopg.Connection[Any]) -> Iterator[str]:
    """A role that may have three connections."""
    observer.execute("CREATE ROLE limited LOGIN PASSWORD 'x' CONNECTION LIMIT 3")
    yield "limited"
    observer.execute("DROP ROLE limited")


def test_limits_of_role_and_database(
    observer: psycopg.Connection[Any], limited: str, make_alias: MakeAlias, check: Check
) -> None:
    name = str(connections["default"].settings_dict["NAME"])
    alias = make_alias(NAME=name, USER=limited, PASSWORD="x", POOL={"max_size": 3})
    (message,) = check(alias)
    assert message.id == "dbpool.W021"
    assert "role 'limited' may have 3 connections; this project may take 4: 1 process x 4" in message.msg
    assert check(make_alias(NAME=name, USER=limited, PASSWORD="x", POOL={"max_size": 2})) == []
    observer.execute("ALTER ROLE limited SUPERUSER")
    assert check(make_alias(NAME=name, USER=limited, PASSWORD="x", POOL={"max_size": 4})) == [], "superusers have none"
    observer.execute("ALTER ROLE limited NOSUPERUSER")
    observer.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 30')
    try:
        many = {"NAME": name, "POOL": {"max_size": 31}}
        assert ids(check(make_alias(USER=limited, PASSWORD="x", **many))) == ["dbpool.W021", "dbpool.W022"]
        assert check(make_alias(**many)) == [], "superusers have no such limits"
    finally:
        observer.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')


# -- settings ----------------------------------------------------------------------------------------------


def test_settings_that_the_server_refuses(make_alias: MakeAlias, check: Check) -> None:
    session = {"serach_path": "app", "work_mem": "much", "app.tenant": 7, "search_path": "app", "max_connections": 5}
    alias = make_alias(POOL={"session": session, "statement_timeout": 3, "lock_timeout": 2})
    messages = check(alias)
    assert ids(messages) == ["dbpool.E021"] * 3
    said = " ".join(message.msg for message in messages)
    for text in (
        "refuses session['serach_path']: unrecognized configuration parameter \"serach_path\".",
        'refuses session[\'work_mem\']: invalid value for parameter "work_mem": "much".',
        "refuses session['max_connections']: parameter \"max_connections\" cannot be changed",
    ):
        assert text in said


def test_transaction_timeout_before_postgresql_17(make_alias: MakeAlias) -> None:
    """No such server is at hand: the answer is one that it gives."""
    from django_dbpool.checks.server import judge

    alias = make_alias(POOL={"transaction_timeout": 3})
    real = answer(alias)
    assert isinstance(real, Answer)
    old = Answer(
        release="16.4", version=160004, host=real.host, user=real.user, dbname=real.dbname, max_connections=100,
        reserved=3, role_limit=-1, database_limit=-1, behind_pooler=False,
        refused={"transaction_timeout": 'unrecognized configuration parameter "transaction_timeout".'},
    )  # fmt: skip
    (message,) = judge({alias: old})
    assert message.id == "dbpool.E021"
    assert "PostgreSQL 16.4 refuses transaction_timeout: unrecognized" in message.msg
    assert message.hint == "transaction_timeout needs PostgreSQL 17. Remove it."
    if real.version >= 170000:
        assert judge({alias: real}) == []


def test_nothing_is_left_on_the_server(make_alias: MakeAlias, observer: psycopg.Connection[Any]) -> None:
    alias = make_alias(
        POOL={"statement_timeout": 3},
        OPTIONS={"application_name": "asked"},
        NAME=connections["default"].settings_dict["NAME"],
    )
    assert isinstance(answer(alias), Answer)
    row = observer.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asked'").fetchone()
    assert row in [(0,), (1,)], "of its own connection only the end may still be seen"
    assert connections[alias].pool.snapshot().size == 0, "not on a connection of the pool"


# -- servers that don't answer -----------------------------------------------------------------------------


def test_a_server_that_is_away(make_alias: MakeAlias, check: Check) -> None:
    alias = make_alias(HOST="127.0.0.1", PORT="1", PASSWORD="hush")
    (message,) = check(alias)
    assert (message.id, message.level) == ("dbpool.E020", 40)
    assert message.msg.startswith(f'DATABASES["{alias}"]: could not ask the server: ')
    assert "hush" not in message.msg + str(message.hint)


@pytest.mark.parametrize(
    "entry",
    [
        {"NAME": "no_such_database"},
        {"NAME": ""},
        {"USER": "nobody_at_all"},
        {"OPTIONS": {"sslmode": "nonsense"}},
        {"OPTIONS": {"options": "-c no_such_setting=1"}},
        {"PORT": "not a port"},
        {"HOST": ["a"]},
        {"ENGINE": "tests.derived_engine", "OPTIONS": {"of_its_own": "secret"}},
    ],
    ids=str,
)
def test_whatever_is_wrong_with_the_address_is_said(entry: dict[str, Any], make_alias: MakeAlias, check: Check) -> None:
    assert ids(check(make_alias(**entry))) == ["dbpool.E020"]


def test_a_server_that_accepts_and_says_nothing(listening: socket.socket, make_alias: MakeAlias, check: Check) -> None:
    began = time.monotonic()
    assert ids(check(make_alias(HOST="127.0.0.1", PORT=str(listening.getsockname()[1])))) == ["dbpool.E020"]
    assert time.monotonic() - began < 30, "psycopg's own limit is 130 s"


def test_a_server_that_freezes_after_the_connection_is_made(
    server: EmbeddedServer, make_alias: MakeAlias, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = make_alias(server=server)
    converse = asking._converse

    def frozen(connection: psycopg.Connection[Any], *args: Any) -> Answer:
        server.freeze()
        return converse(connection, *args)

    monkeypatch.setattr(asking, "PATIENCE", 1.0)
    monkeypatch.setattr(asking, "_converse", frozen)
    try:
        assert ids(check(alias)) == ["dbpool.E020"]
    finally:
        server.thaw()


def test_plain_check_asks_no_server(make_alias: MakeAlias, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = make_alias(HOST="127.0.0.1", PORT="1")
    monkeypatch.setattr(settings, "DATABASES", {alias: connections.settings[alias]})
    assert [message for message in run_checks() if not message.is_silenced()] == []
    assert run_checks(tags=["dbpool"]) == []


def test_only_the_aliases_that_were_asked_for(make_alias: MakeAlias, check: Check) -> None:
    away, here = make_alias(HOST="127.0.0.1", PORT="1"), make_alias()
    assert check(away, here, databases=[here]) == []
    assert ids(check(away, here, databases=[away])) == ["dbpool.E020"]
    off = make_alias(HOST="127.0.0.1", PORT="1", POOL=False)
    stock = make_alias(HOST="127.0.0.1", PORT="1", ENGINE="django.db.backends.postgresql")
    assert check(off, stock) == []


# -- poolers -----------------------------------------------------------------------------------------------


@pytest.mark.ci
def test_a_pooler_in_front_is_noticed(session_server: Server, make_alias: MakeAlias, check: Check) -> None:
    with pgbouncer(session_server, pool_mode="transaction", max_client_conn="500") as front:
        undeclared = make_alias(server=front, POOL={"max_size": 300})
        (message,) = check(undeclared)
        assert (message.id, message.level) == ("dbpool.W023", 30)
        assert 'POOL["pooler"]' in str(message.hint)
        declared = make_alias(server=front, POOL={"max_size": 300, "pooler": "transaction"})
        assert check(declared) == [], "the server's limits are the pooler's business"
        info = answer(declared)
        assert isinstance(info, Answer)
        assert info.behind_pooler
        assert info.refused == {}
        with session_server.connect() as direct:
            row = direct.execute("SELECT current_setting('statement_timeout')").fetchone()
            assert row == ("0",)
