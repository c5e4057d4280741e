"""pg_stat_statements: read where it exists, a clear answer where it doesn't, never an error, never a literal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import InternalError, connections, transaction
from django.db.utils import ConnectionDoesNotExist

from django_dbpool.statements import ServerStatements, server_statements
from django_dbpool.statements.server import _query
from testproject.postgres import EmbeddedServer, Server, free_port
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import execute, in_use, pinned, value

SECRET = "hunter2"


@pytest.fixture(scope="module")
def counting_server() -> Iterator[EmbeddedServer]:
    """With the extension's library loaded. Database postgres has the extension in a schema of its own, others don't."""
    settings = {"max_connections": "20", "shared_preload_libraries": "pg_stat_statements"}
    with Server.embedded(settings) as server, server.connect() as connection:
        connection.execute("CREATE SCHEMA watching")
        connection.execute("CREATE EXTENSION pg_stat_statements SCHEMA watching")
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("CREATE DATABASE bare")
        connection.execute("CREATE TABLE visitors AS SELECT 1 AS id, 'Ann' AS name")
        connection.execute("GRANT SELECT ON visitors TO plain")
        yield server


@pytest.fixture
def make(make_alias: MakeAlias, counting_server: EmbeddedServer) -> Callable[..., str]:
    def make(**entry: Any) -> str:
        pool = {"max_size": 1, "min_size": 0, "retry": False, "breaker": False, **entry.pop("POOL", {})}
        return make_alias(counting_server, **{"POOL": pool, **entry})

    return make


@pytest.fixture
def root(counting_server: EmbeddedServer) -> Iterator[psycopg.Connection[Any]]:
    with counting_server.connect() as connection:
        connection.execute("SELECT watching.pg_stat_statements_reset()")
        yield connection


def test_the_heaviest_statements_without_their_literals(
    make: Callable[..., str], root: psycopg.Connection[Any]
) -> None:
    alias = make()
    for number in range(5):
        execute(alias, "SELECT name, pg_sleep(0.02) FROM visitors WHERE id = %s", [number])
    execute(alias, f"SELECT name FROM visitors WHERE name = '{SECRET}'")
    # Statements that aren't planned are kept as they were written.
    execute(alias, f"CREATE ROLE ann PASSWORD '{SECRET}'")
    execute(alias, f"COMMENT ON TABLE visitors IS $$it's {SECRET}$$")
    execute(alias, "DROP ROLE ann")
    found = server_statements(alias, limit=50)
    assert (found.alias, found.problem, found.reason, found.others) == (alias, None, None, True)
    slow = next(row for row in found.statements if "pg_sleep" in row.sql)
    assert slow.sql == "SELECT name, pg_sleep($1) FROM visitors WHERE id = $2"
    assert (slow.calls, slow.rows, slow.role) == (5, 1, "postgres")
    assert 0.02 <= slow.longest <= slow.total
    assert slow.mean * 5 == pytest.approx(slow.total)
    texts = [row.sql for row in found.statements]
    assert "CREATE ROLE ann PASSWORD ?" in texts
    assert "COMMENT ON TABLE visitors IS ?" in texts
    assert SECRET not in json.dumps(found.to_json())
    assert [row.total for row in found.statements] == sorted((row.total for row in found.statements), reverse=True)
    assert len(server_statements(alias, limit=2).statements) == 2
    assert in_use(alias) == 0


def test_a_role_without_permission_sees_its_own(make: Callable[..., str], root: psycopg.Connection[Any]) -> None:
    root.execute("SELECT count(*) FROM visitors WHERE id = 99")
    alias = make(USER="plain")
    assert server_statements(alias).problem == "permission"
    root.execute("GRANT USAGE ON SCHEMA watching TO plain")
    try:
        execute(alias, "SELECT name FROM visitors WHERE id = 1")
        found = server_statements(alias)
        assert not found.others
        assert {row.role for row in found.statements} == {"plain"}
        assert "SELECT name FROM visitors WHERE id = $1" in [row.sql for row in found.statements]
        root.execute("GRANT pg_read_all_stats TO plain")
        found = server_statements(alias)
        assert found.others
        assert {row.role for row in found.statements} == {"plain", "postgres"}
    finally:
        root.execute("REVOKE pg_read_all_stats FROM plain")
        root.execute("REVOKE USAGE ON SCHEMA watching FROM plain")


def test_other_databases_are_not_shown(make: Callable[..., str], root: psycopg.Connection[Any]) -> None:
    bare, alias = make(NAME="bare"), make()
    execute(bare, "SELECT 'something', count(*) FROM pg_class")
    assert "SELECT $1, count(*) FROM pg_class" not in [row.sql for row in server_statements(alias, 1000).statements]
    seen = root.execute("SELECT count(*) FROM watching.pg_stat_statements WHERE query LIKE 'SELECT $1, count(*) FROM%'")
    assert seen.fetchone() == (1,)
    found = server_statements(bare)
    assert (found.problem, found.statements) == ("extension", ())
    assert "CREATE EXTENSION" in (found.reason or "")


def test_without_the_library(make_alias: MakeAlias, session_server: Server) -> None:
    """The extension was created and its library isn't loaded: found out only by an error, which no transaction sees."""
    alias = make_alias(POOL={"max_size": 1, "min_size": 0})
    with pytest.raises(InternalError), transaction.atomic(alias):
        execute(alias, "CREATE EXTENSION pg_stat_statements SCHEMA public")
        found = server_statements(alias)
        assert (found.problem, found.statements) == ("preload", ())
        assert value(alias, "SELECT 7") == 7
        raise InternalError
    assert server_statements(alias).problem == "extension"


def test_a_transaction_stays_as_it_was(make: Callable[..., str], root: psycopg.Connection[Any]) -> None:
    alias = make()
    with transaction.atomic(alias):
        execute(alias, "SET LOCAL statement_timeout = '77s'")
        assert server_statements(alias).problem is None
        assert value(alias, "SHOW statement_timeout") == "77s"
        assert connections[alias].savepoint_ids == []
        assert pinned(alias) is None
    # In a transaction that has failed nothing can be asked.
    with transaction.atomic(alias):
        transaction.set_rollback(True, using=alias)
        found = server_statements(alias)
        assert found.problem == "failed"
        assert "TransactionManagementError" in (found.reason or "")
    assert value(alias, "SHOW statement_timeout") == "0"


def test_a_slow_view_is_given_up(make: Callable[..., str], root: psycopg.Connection[Any], monkeypatch) -> None:
    monkeypatch.setattr("django_dbpool.statements.server.TIMEOUT", 0.05)
    monkeypatch.setattr("django_dbpool.statements.server._LOOK", "SELECT pg_sleep(20)")
    alias = make()
    found = server_statements(alias)
    assert (found.problem, found.statements) == ("failed", ())
    assert "QueryCanceled" in (found.reason or "")
    assert in_use(alias) == 0


def test_a_server_that_is_away(make_alias: MakeAlias) -> None:
    alias = make_alias(PORT=str(free_port()), POOL={"retry": False, "breaker": False, "timeout": 1})
    found = server_statements(alias)
    assert (found.problem, found.statements) == ("failed", ())
    assert json.loads(json.dumps(found.to_json())) == found.to_json()


def test_with_the_pool_switched_off_and_with_another_engine(make: Callable[..., str], make_alias: MakeAlias) -> None:
    off = make(POOL={"enabled": False})
    assert server_statements(off).problem is None
    connections[off].close()
    lite = make_alias(ENGINE="django.db.backends.sqlite3", NAME=":memory:", POOL=False)
    try:
        assert server_statements(lite) == ServerStatements(
            lite, problem="engine", reason="The database isn't PostgreSQL."
        )
    finally:
        connections[lite].close_pool = lambda: None


def test_old_versions_of_the_extension(make: Callable[..., str], root: psycopg.Connection[Any]) -> None:
    """An upgraded server keeps the view that it had: before 1.8 columns had other names, before 1.9 one was missing."""
    old, middle = _query("public", ["query", "total_time"]), _query("public", ["query", "total_exec_time"])
    assert 's."total_time"' in old and 's."mean_time"' in old and "true" in old and "toplevel" not in old
    assert 's."max_exec_time"' in middle and "toplevel" not in middle
    alias = make()
    try:
        for version in ("1.4", "1.7", "1.8", "1.9", "1.11"):
            with transaction.atomic(alias):
                execute(alias, "DROP EXTENSION IF EXISTS pg_stat_statements")
                execute(alias, f"CREATE EXTENSION pg_stat_statements SCHEMA watching VERSION '{version}'")
            found = server_statements(alias)
            assert (found.problem, bool(found.statements)) == (None, True), version
    finally:
        execute(alias, "DROP EXTENSION pg_stat_statements")
        execute(alias, "CREATE EXTENSION pg_stat_statements SCHEMA watching")


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="limit must be a whole number"):
        server_statements(limit="20")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must be at least 1"):
        server_statements(limit=0)
    with pytest.raises(ConnectionDoesNotExist):
        server_statements("nowhere")
