"""
Snapshots in a table: one row for each process, in an unlogged table that ``migrate`` creates.

By SQL, not through the ORM: a router would send it elsewhere, and a process must be able to say that it is in trouble
without anybody else's code in the way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db import DEFAULT_DB_ALIAS, ProgrammingError, connections
from psycopg.errors import InsufficientPrivilege, UndefinedTable

from ..core import commands
from ..core.fleet import TABLE
from ..transaction import atomic, deadline, reserved
from .stores import Row, Unusable

PATIENCE = 3.0
"""Seconds for everything: a connection, the statements, the commit. Also of a server that is frozen."""

STATEMENT_TIMEOUT = 1000
LOCK_TIMEOUT = 500
"""Milliseconds, on the server."""

# One round trip for the limits, and for what would otherwise be found out by an error in the server's log. An error
# because the server is read-only would besides have the pool drained, as after a failover.
_BEGIN = f"""
SELECT set_config('statement_timeout', %s, true),
       set_config('lock_timeout', %s, true),
       current_setting('transaction_read_only') = 'on',
       to_regclass('{TABLE}') IS NOT NULL,
       has_table_privilege(to_regclass('{TABLE}'), 'SELECT')
         AND has_table_privilege(to_regclass('{TABLE}'), 'INSERT')
         AND has_table_privilege(to_regclass('{TABLE}'), 'UPDATE')
         AND has_table_privilege(to_regclass('{TABLE}'), 'DELETE')
"""

# Whose rows have expired is nobody's business any more, so one that is locked can be left to whoever has locked it:
# two processes never wait for each other here.
_PUT = f"""
WITH expired AS (
    DELETE FROM {TABLE} WHERE instance IN (
        SELECT instance FROM {TABLE} WHERE expires < now() AND instance <> %(instance)s LIMIT 1000
        FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO {TABLE} (instance, document, taken, expires)
VALUES (%(instance)s, %(document)s, now() - %(delay)s * interval '1 second', now() + %(expire)s * interval '1 second')
ON CONFLICT (instance) DO UPDATE
SET document = excluded.document, taken = excluded.taken, expires = excluded.expires
"""  # noqa: S608  # a constant of ours

_READ = f"""
SELECT document, extract(epoch FROM clock_timestamp() - taken)::float8
  FROM {TABLE}
 WHERE expires > clock_timestamp() AND octet_length(document) <= %s
 ORDER BY taken DESC
 LIMIT %s
"""  # noqa: S608


_FIND = f"""
SELECT document, extract(epoch FROM clock_timestamp() - taken)::float8
  FROM {TABLE}
 WHERE instance = %s AND expires > clock_timestamp() AND octet_length(document) <= %s
"""  # noqa: S608


class TableStore:
    """
    Args:
        alias: of the database; its pool's reserve is used when the pool is full.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.description = f"table {TABLE} of database {alias!r}"

    def put(self, instance: str, document: str, *, delay: float, expire: float) -> None:
        connection = self._connection()
        values = {"instance": instance, "document": document, "delay": delay, "expire": expire}
        with reserved(), deadline(PATIENCE):
            if not connection.get_autocommit():
                connection.set_autocommit(True)  # this thread's own, and a COMMIT is wanted
            with atomic(using=self.alias), connection.cursor() as cursor:
                cursor.execute(_BEGIN, [f"{STATEMENT_TIMEOUT}ms", f"{LOCK_TIMEOUT}ms"])
                *_, read_only, exists, allowed = cursor.fetchone()
                if read_only:
                    raise Unusable(f"database {self.alias!r} is read-only")
                if not exists:
                    raise Unusable(self._missing())
                if not allowed:
                    raise Unusable(self._forbidden())
                cursor.execute(_PUT, values)

    def read(self, longest: int, most: int) -> list[Row]:
        return self._asked(_READ, [longest, most])

    def find(self, instance: str, longest: int) -> Row | None:
        """The snapshot of one process, unless it has expired or is longer than so many characters."""
        return next(iter(self._asked(_FIND, [instance, longest])), None)

    def _asked(self, question: str, values: list[Any]) -> list[Row]:
        connection = self._connection()
        # A failure must not break the caller's transaction, if there is one.
        inside = connection.in_atomic_block
        savepoint: AbstractContextManager[Any] = atomic(using=self.alias) if inside else nullcontext()
        try:
            with reserved(), deadline(PATIENCE), savepoint, connection.cursor() as cursor:
                cursor.execute(question, values)
                return [Row(document, max(0.0, age)) for document, age in cursor.fetchall()]
        except ProgrammingError as error:
            remedies = {UndefinedTable.sqlstate: self._missing, InsufficientPrivilege.sqlstate: self._forbidden}
            remedy = remedies.get(getattr(error.__cause__, "sqlstate", None))
            if remedy is None:
                raise
            raise Unusable(remedy()) from error

    def close(self) -> None:
        self._connection().close()

    def _connection(self) -> Any:
        return connections[self.alias]

    def _missing(self) -> str:
        there = "" if self.alias == DEFAULT_DB_ALIAS else f" --database {self.alias}"
        return f"database {self.alias!r} has no table {TABLE}; run manage.py migrate django_dbpool{there}"

    def _forbidden(self) -> str:
        """Where the role that migrates is another one than that of the processes."""
        return (
            f"the role of database {self.alias!r} may not use table {TABLE}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE}, {commands.TABLE} TO it"
        )
