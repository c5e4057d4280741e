"""What a thread does with its Django connection. Each method is the deed behind an operation of the model."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import psycopg
from django.db import DatabaseError, Error, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_dbpool.errors import PoolExhausted
from django_dbpool.transaction import pin
from tests.app.models import Item, Log

from .model import CHUNK, RESULT, ROWS

KINDS = {
    "22012": "division by zero",
    "25P02": "aborted",
    "34000": "no cursor",
    "57P01": "lost",
    None: "lost",
}
LOOK = """
    SELECT coalesce(current_setting('dbpool.mark', true), ''),
           ARRAY(SELECT objid::int FROM pg_locks
                 WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() ORDER BY 1),
           ARRAY(SELECT relname::text FROM pg_class
                 WHERE relpersistence = 't' AND relkind = 'r' AND relnamespace = pg_my_temp_schema() ORDER BY 1)
"""


def kind_of(error: BaseException) -> str:
    """The name that the model has for an error; the error itself in words when it has none."""
    text = str(error)
    if isinstance(error, PoolExhausted):
        return "exhausted"
    if isinstance(error, transaction.TransactionManagementError):
        return "broken"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, InterfaceError) and "server-side cursor was released" in text:
        return "released"
    if "Cannot open a new connection in an atomic block" in text:
        return "closed"
    if isinstance(error, Error) and isinstance(error.__cause__, psycopg.Error):
        state = error.__cause__.sqlstate
        if state in KINDS and (state is not None or isinstance(error, (DatabaseError, InterfaceError))):
            return KINDS[state]
    return f"{type(error).__module__}.{type(error).__name__}: {text}"


class Session:
    """Lives in its thread; what it leaves open when the thread ends is left to the engine."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.blocks: list[transaction.Atomic] = []
        self.pins: list[Any] = []
        self.streams: dict[int, Any] = {}
        self.cursors: dict[int, Any] = {}
        self.held_at_hook: list[bool] = []

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    def holds(self) -> bool:
        holders = self.connection.pool.holders()  # type: ignore[attr-defined]
        return any(holder.thread_ident == threading.get_ident() for holder in holders)

    def execute(self, sql: str, params: list[Any] | None = None) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone() if cursor.description else None

    # -- statements -------------------------------------------------------------------------------------------

    def query(self, number: int, key: str) -> Any:
        return self.execute("SELECT 1")[0]

    def error(self, number: int, key: str) -> None:
        self.execute("SELECT 1 / 0")

    def insert(self, number: int, key: str) -> None:
        self.execute("INSERT INTO app_log (key) VALUES (%s)", [key])

    def create(self, number: int, key: str) -> None:
        Log.objects.using(self.alias).create(key=key)

    def update_or_create(self, number: int, key: str) -> None:
        Log.objects.using(self.alias).update_or_create(key=key)

    def look(self, number: int, key: str) -> Any:
        return self.execute(LOOK)

    # -- session state ----------------------------------------------------------------------------------------

    def set(self, number: int, key: str) -> None:
        self.execute(f"SET dbpool.mark = '{key}'")

    def lock(self, number: int, key: str) -> None:
        self.execute("SELECT pg_advisory_lock(%s)", [number])

    def temp(self, number: int, key: str) -> None:
        self.execute(f"CREATE TEMP TABLE t{number} ()")

    def raw(self, number: int, key: str) -> bool:
        raw = self.connection.connection
        return raw is not None and callable(raw.execute)

    def pin(self, number: int, key: str) -> None:
        block = pin(self.alias)
        block.__enter__()
        self.pins.append(block)

    def unpin(self, number: int, key: str) -> None:
        self.pins.pop().__exit__(None, None, None)

    # -- transactions -----------------------------------------------------------------------------------------

    def enter(self, number: int, key: str) -> None:
        self._enter(transaction.atomic(self.alias))

    def enter_plain(self, number: int, key: str) -> None:
        self._enter(transaction.atomic(self.alias, savepoint=False))

    def _enter(self, block: transaction.Atomic) -> None:
        block.__enter__()
        self.blocks.append(block)

    def exit(self, number: int, key: str) -> list[bool]:
        self.held_at_hook = []
        self.blocks.pop().__exit__(None, None, None)
        return self.held_at_hook

    def fail(self, number: int, key: str) -> list[bool]:
        self.held_at_hook = []
        error = ValueError("the application's")
        self.blocks.pop().__exit__(ValueError, error, None)
        return self.held_at_hook

    def hook(self, number: int, key: str) -> None:
        def hook() -> None:
            self.held_at_hook.append(self.holds())
            self.insert(number, key)

        transaction.on_commit(hook, self.alias)

    def autocommit_off(self, number: int, key: str) -> None:
        transaction.set_autocommit(False, self.alias)

    def autocommit_on(self, number: int, key: str) -> None:
        transaction.set_autocommit(True, self.alias)

    def commit(self, number: int, key: str) -> None:
        transaction.commit(self.alias)

    def rollback(self, number: int, key: str) -> None:
        transaction.rollback(self.alias)

    # -- server-side cursors ----------------------------------------------------------------------------------

    def open_iterator(self, number: int, key: str) -> list[int]:
        rows = Item.objects.using(self.alias).order_by("n").values_list("n", flat=True)
        iterator = rows.iterator(chunk_size=CHUNK)
        chunk = list(itertools.islice(iterator, CHUNK))
        self.streams[number] = iterator
        return chunk

    def open_stream(self, number: int, key: str) -> list[int]:
        cursor = self.connection.chunked_cursor()
        try:
            cursor.execute("SELECT n FROM app_item ORDER BY n")
            chunk = [row[0] for row in cursor.fetchmany(CHUNK)]
        except BaseException:
            cursor.close()
            raise
        self.streams[number] = cursor
        return chunk

    def fetch(self, number: int, key: str) -> list[int]:
        stream = self.streams.pop(number)
        if not hasattr(stream, "fetchmany"):
            chunk = list(itertools.islice(stream, CHUNK))
            if len(chunk) == CHUNK:
                self.streams[number] = stream
            return chunk
        try:
            chunk = [row[0] for row in stream.fetchmany(CHUNK)]
        except BaseException:
            stream.close()
            raise
        if len(chunk) == CHUNK:
            self.streams[number] = stream
        else:
            stream.close()
        return chunk

    def close_stream(self, number: int, key: str) -> None:
        # Django leaves the driver's errors from close() as they are.
        with self.connection.wrap_database_errors:
            self.streams.pop(number).close()

    def drop_stream(self, number: int, key: str) -> None:
        del self.streams[number]

    # -- client cursors ---------------------------------------------------------------------------------------

    def cursor(self, number: int, key: str) -> None:
        cursor = self.connection.cursor()
        try:
            cursor.execute("SELECT generate_series(1, %s)", [len(RESULT)])
        except BaseException:
            cursor.close()
            raise
        self.cursors[number] = cursor

    def cursor_unused(self, number: int, key: str) -> None:
        self.cursors[number] = self.connection.cursor()

    def cursor_fetch(self, number: int, key: str) -> list[int]:
        return [row[0] for row in self.cursors[number].fetchmany(2)]

    def cursor_execute(self, number: int, key: str) -> None:
        cursor = self.cursors.pop(number)
        try:
            cursor.execute("SELECT generate_series(1, %s)", [len(RESULT)])
        except BaseException:
            cursor.close()
            raise
        self.cursors[number] = cursor

    def cursor_close(self, number: int, key: str) -> None:
        self.cursors[number].close()

    def cursor_drop(self, number: int, key: str) -> None:
        del self.cursors[number]

    # -- ends -------------------------------------------------------------------------------------------------

    def close(self, number: int, key: str) -> None:
        self.connection.close()

    def close_old_connections(self, number: int, key: str) -> None:
        self.connection.close_if_unusable_or_obsolete()


assert len(ROWS) % CHUNK, "the last chunk must be a short one: it ends an iterator"
