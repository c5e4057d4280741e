"""
What the server has counted itself: ``pg_stat_statements``, where that extension is installed and may be read.
https://www.postgresql.org/docs/current/pgstatstatements.html
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from django.db import DEFAULT_DB_ALIAS, Error, connections, transaction
from psycopg import sql

from ..core.sqltext import READ, without_literals
from ..core.words import one_line

TIMEOUT = 5
"""Seconds; the view reads a file of all texts, which may be large."""

Problem = Literal["engine", "extension", "preload", "permission", "failed"]

_REASONS: dict[Problem, str] = {
    "engine": "The database isn't PostgreSQL.",
    "extension": "The extension isn't there. Add pg_stat_statements to shared_preload_libraries, restart the server, "
    "and CREATE EXTENSION pg_stat_statements in this database.",
    "preload": "The extension was created, but isn't loaded: add pg_stat_statements to shared_preload_libraries and "
    "restart the server.",
    "permission": "The role may not read the view: GRANT USAGE on its schema, and SELECT on the view "
    "pg_stat_statements, to the role; or pg_read_all_stats, to see what others ran.",
    "failed": "The server could not be asked.",
}

# Which columns there are depends on the version of the extension, and that stays what it was when the server is
# upgraded, until somebody says ALTER EXTENSION UPDATE.
_LOOK = """
SELECT n.nspname,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       pg_has_role('pg_read_all_stats', 'USAGE'),
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
  FROM pg_extension e
  JOIN pg_namespace n ON n.oid = e.extnamespace
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = e.extname
 WHERE e.extname = 'pg_stat_statements'
"""

# Of other roles the view shows neither text nor id without permission, so they are left out then. Of the statements in
# functions (toplevel is false) their caller's time has theirs in it.
_READ = """
SELECT s.queryid::text, left(s.query, {longest}), r.rolname, s.calls, s.rows,
       s.{total} / 1000, s.{mean} / 1000, s.{max} / 1000
  FROM {view} s
  LEFT JOIN pg_roles r ON r.oid = s.userid
 WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (%s OR r.rolname = current_user) AND {toplevel}
 ORDER BY s.{total} DESC
 LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class ServerStatement:
    """One statement as the server has counted it, of all clients together."""

    id: str | None
    """The server's, by which other tools know it."""
    sql: str
    """Placeholders only."""
    role: str | None
    """Who ran it; None: a role that is gone."""
    calls: int
    rows: int
    mean: float
    """Seconds of execution."""
    longest: float
    """Seconds."""
    total: float
    """Seconds."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ServerStatements:
    """
    The answer. ``problem`` is None if there is one; else what stands in the way, ``reason`` says what to do, and there
    are no statements.
    """

    alias: str
    statements: tuple[ServerStatement, ...] = ()
    problem: Problem | None = None
    reason: str | None = None
    others: bool = False
    """Those of other roles in this database are there too."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {**asdict(self), "statements": [statement.to_json() for statement in self.statements]}


def server_statements(using: str = DEFAULT_DB_ALIAS, limit: int = 20) -> ServerStatements:
    """
    The statements that took the most of the server's time in this database, the heaviest first. The server has
    replaced most of their literals, and what it has left is replaced here.

    In a transaction it costs a savepoint; whatever goes wrong, the transaction is as it was. No error of the
    database is raised: ``problem`` tells of it.

    Args:
        using: the database's alias.
        limit: rows at most.

    Raises:
        TypeError: limit is no number.
        ValueError: limit is below 1.
        django.db.utils.ConnectionDoesNotExist: there is no such alias.

    Example:
        found = server_statements()
        for statement in found.statements:
            print(f"{statement.total:.0f} s in {statement.calls} calls: {statement.sql}")
        if found.problem:
            print(found.reason)
    """
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"server_statements(limit={limit!r}): limit must be a whole number.")
    if limit < 1:
        raise ValueError(f"server_statements(limit={limit!r}): limit must be at least 1.")
    if connections[using].vendor != "postgresql":
        return _without(using, "engine")
    try:
        with transaction.atomic(using):
            return _ask(using, limit)
    except Error as error:
        cause = error.__cause__
        # 55000, object_not_in_prerequisite_state, is what the extension's functions say without its library.
        if getattr(cause, "sqlstate", None) == "55000":
            return _without(using, "preload")
        return _without(using, "failed", type(cause or error).__name__)


def _ask(alias: str, limit: int) -> ServerStatements:
    connection = connections[alias]
    with connection.cursor() as cursor:
        if len(connection.atomic_blocks) == 1:
            # Not in somebody's transaction, for the rest of which it would hold.
            cursor.execute(f"SET LOCAL statement_timeout = '{TIMEOUT}s'")
        cursor.execute(_LOOK)
        found = cursor.fetchone()
        if found is None:
            return _without(alias, "extension")
        schema, readable, others, columns = found
        if not readable:
            return _without(alias, "permission")
        cursor.execute(_query(schema, columns), [others, limit])
        return ServerStatements(alias, tuple(_statement(row) for row in cursor.fetchall()), others=others)


def _query(schema: str, columns: list[str]) -> str:
    exec_ = "exec_" if "total_exec_time" in columns else ""  # before 1.8: total_time
    query = sql.SQL(_READ).format(
        longest=sql.Literal(READ),
        view=sql.Identifier(schema, "pg_stat_statements"),
        total=sql.Identifier(f"total_{exec_}time"),
        mean=sql.Identifier(f"mean_{exec_}time"),
        max=sql.Identifier(f"max_{exec_}time"),
        toplevel=sql.SQL("s.toplevel" if "toplevel" in columns else "true"),  # since 1.9
    )
    return query.as_string(None)


def _statement(row: tuple[Any, ...]) -> ServerStatement:
    id_, query, role, calls, rows, total, mean, longest = row
    text = without_literals(query or "")
    return ServerStatement(id_, one_line(text, len(text)), role, calls, rows, mean, longest, total)


def _without(alias: str, problem: Problem, error: str = "") -> ServerStatements:
    return ServerStatements(alias, problem=problem, reason=_REASONS[problem] + (f" ({error})" if error else ""))
