"""One short conversation with a server, outside of the pool."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connections

from ..conf.alias import Alias
from ..core.config import SERVER_LIMITS

if TYPE_CHECKING:
    from psycopg import Connection

PATIENCE = 5.0
"""Seconds for connecting, and for the whole conversation after it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Counts are of connections; a limit of -1 is none."""

    release: str
    version: int
    host: str
    user: str
    dbname: str
    max_connections: int
    reserved: int
    """Kept for superusers and for members of pg_use_reserved_connections."""
    role_limit: int
    database_limit: int
    behind_pooler: bool
    refused: dict[str, str] = field(default_factory=dict)
    """What the server said to declared settings, by name, where it didn't take them."""

    @property
    def room(self) -> int:
        return self.max_connections - self.reserved


@dataclass(frozen=True, slots=True)
class NoAnswer:
    reason: str


def ask(alias: Alias) -> Answer | NoAnswer:
    """Never raises for what a server or a setting may do; nothing is left on the server."""
    try:
        with _connection(alias) as connection, connection.transaction(force_rollback=True):
            # LOCAL: behind a pooler the server connection is somebody else's next.
            connection.execute(f"SET LOCAL statement_timeout = {int(PATIENCE * 1000)}")
            return _converse(connection, alias)
    except Exception as error:  # noqa: BLE001  # the driver's, the settings', or that of an engine that derives
        # The first line: the others are libpq's about further addresses, or a hint.
        return NoAnswer(next(iter(str(error).splitlines()), type(error).__name__))


def count_others(alias: Alias) -> int:
    """Connections to the server that are not of the alias's role; 0 where it can't be asked."""
    question = "SELECT count(*) FROM pg_stat_activity WHERE usesysid IS NOT NULL AND usename <> session_user"
    try:
        with _connection(alias) as connection:
            row = connection.execute(question).fetchone()
    except Exception:  # noqa: BLE001  # as in ask()
        return 0
    return int(row[0]) if row else 0


@contextmanager
def _connection(alias: Alias) -> Iterator[Connection[Any]]:
    import psycopg

    params = connections[alias.name].get_connection_params()
    for name in ("cursor_factory", "context", "row_factory", "prepare_threshold"):
        params.pop(name, None)
    given = float(params.get("connect_timeout") or PATIENCE)
    params |= {"autocommit": True, "connect_timeout": max(1, int(min(given, PATIENCE)))}
    with psycopg.connect(**params) as connection, _deadline(connection):  # noqa: DBP101  # a check opens no pool
        yield connection


@contextmanager
def _deadline(connection: Connection[Any]) -> Iterator[None]:
    """A server that is frozen acknowledges packets and never answers: shut the socket down from here."""
    own = socket.socket(fileno=os.dup(connection.fileno()))

    def hang_up() -> None:
        with suppress(OSError):
            own.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(PATIENCE, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        own.close()


_QUESTION = """
SELECT current_setting('server_version'),
       current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int
         + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int,
       r.rolname,
       CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END,
       d.datname,
       CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END,
       pg_backend_pid()
  FROM pg_roles r, pg_database d
 WHERE r.rolname = session_user AND d.datname = current_database()
"""


def _converse(connection: Connection[Any], alias: Alias) -> Answer:
    row = connection.execute(_QUESTION).fetchone()
    assert row is not None
    release, max_connections, reserved, user, role_limit, dbname, database_limit, pid = row
    info = connection.info
    # A pooler hands out cancel keys of its own, so the process id in them is not the server's. The reverse proves
    # nothing: some keep it.
    behind_pooler = pid != info.backend_pid
    return Answer(
        release=release,
        version=info.server_version,
        host=f"{info.host}:{info.port}",
        user=user,
        dbname=dbname,
        max_connections=max_connections,
        reserved=reserved,
        role_limit=role_limit,
        database_limit=database_limit,
        behind_pooler=behind_pooler,
        refused={} if alias.config.pooler == "transaction" else _refused(connection, alias),
    )


def _refused(connection: Connection[Any], alias: Alias) -> dict[str, str]:
    """Try each declared setting in a savepoint of its own."""
    import psycopg

    wanted = {SERVER_LIMITS[key]: f"{round(limit * 1000)}ms" for key, limit in alias.server_limits.items()}
    refused = {}
    for name, value in {**alias.config.session, **wanted}.items():
        try:
            with connection.transaction(force_rollback=True):
                connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        except psycopg.Error as error:
            if connection.broken:
                raise
            refused[name] = f"{error.diag.message_primary or error}."
    return refused
