"""
Cursors that hold a connection no longer than they need it.

A client cursor has its whole result once ``execute`` returns: from then on it needs no connection, closed or not, and
its next ``execute`` leases anew. A server-side cursor, COPY and ``stream()`` read from the connection all the time
and hold it until they end.
"""

from __future__ import annotations

import warnings
from _thread import get_ident
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import psycopg
from django.apps import apps
from django.db import InterfaceError
from django.db.backends.postgresql.base import CursorDebugWrapper
from django.db.backends.utils import CursorWrapper
from psycopg import Cursor

from ..core import blocks, writes
from ..core.session import declared
from ..pool import watchdog
from ..pool.entry import IDLE
from .patched import djangos_own
from .raw import raw_connection_of_cursor
from .reading import repeated

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry
    from .mixin import PooledDatabaseMixin
    from .typing import DjangosCursor
else:
    DjangosCursor = CursorWrapper

_DJANGOS_EXECUTE = djangos_own(CursorWrapper, "execute")
_DJANGOS_EXECUTEMANY = djangos_own(CursorWrapper, "executemany")


def hold_while_watched(kind: type, names: Iterable[str]) -> None:
    """
    Have a cursor class that wraps these methods (``CursorDebugWrapper``, debug-toolbar) find the connection leased
    before the statement and still leased after it: it reads its state, and composes the SQL for the log with it. A
    second lease for the log could fail after the statement has succeeded.
    """
    for name in names:
        method = getattr(kind, name)
        if method is not getattr(LeasedCursor, name):
            setattr(kind, name, _held(method))


def _held(method: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(method, "_dbpool_held"):
        return method

    @wraps(method)
    def held(self: LeasedCursor, *args: Any, **kwargs: Any) -> Any:
        with self.db._held():
            return method(self, *args, **kwargs)

    held._dbpool_held = True  # type: ignore[attr-defined]
    return held


class LeasedCursor(DjangosCursor):
    """A client cursor. ``entry`` and ``generation`` name the lease that ``cursor`` was made on."""

    db: PooledDatabaseMixin

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hold_while_watched(cls, ("execute", "executemany", "callproc"))

    def __init__(self, cursor: Any, db: PooledDatabaseMixin) -> None:
        self.cursor = cursor
        self.db = db
        self.entry: PoolEntry | None = db._entry
        self.generation = self.entry.generation if self.entry is not None else -1

    # Without wrappers Django builds a context and a list for nothing: two microseconds of a hundred.
    def execute(self, sql: Any, params: Any = None) -> Any:
        if self.db.execute_wrappers or CursorWrapper.execute is not _DJANGOS_EXECUTE:
            return super().execute(sql, params)
        return self._execute(sql, params)

    def executemany(self, sql: Any, param_list: Any) -> Any:
        if self.db.execute_wrappers or CursorWrapper.executemany is not _DJANGOS_EXECUTEMANY:
            return super().executemany(sql, param_list)
        return self._executemany(sql, param_list)

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        if sql is self.db._read or (blocks.idempotence_used and blocks.is_idempotent()):
            return repeated(self.db, partial(self._execute_once, sql, params))
        return self._execute_once(sql, params)

    def _execute_once(self, sql: Any, params: Any) -> Any:
        db = self.db
        held = db._entry
        before = IDLE if held is None else held.pgconn.transaction_status
        cursor = db._begin_statement(self, sql)
        try:
            if watchdog.watching:
                db._begin_command(db._entry)
            try:
                result = cursor.execute(sql) if params is None else cursor.execute(sql, params)
            except psycopg.Error:
                with db.wrap_database_errors:  # entered only here: two calls less for each statement that succeeds
                    raise
        except BaseException as error:
            db._statement_failed(error, sql, before)
            raise
        db._end_statement()
        return result

    # Django makes two functions for each of these calls, to translate errors.
    def fetchone(self) -> Any:
        try:
            return self.cursor.fetchone()
        except psycopg.Error:
            with self.db.wrap_database_errors:
                raise

    def fetchmany(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.cursor.fetchmany(*args, **kwargs)
        except psycopg.Error:
            with self.db.wrap_database_errors:
                raise

    def fetchall(self) -> Any:
        try:
            return self.cursor.fetchall()
        except psycopg.Error:
            with self.db.wrap_database_errors:
                raise

    def _executemany(self, sql: Any, param_list: Any, *ignored: Any) -> Any:
        db = self.db
        before = db._state()
        cursor = db._begin_statement(self, sql)
        try:
            if watchdog.watching:
                db._begin_command(db._entry)
            with db.wrap_database_errors:
                result = cursor.executemany(sql, param_list)
        except BaseException as error:
            db._statement_failed(error, sql, before)
            raise
        db._end_statement()
        return result

    def callproc(self, procname: Any, params: Any = None, kparams: Any = None) -> Any:
        db = self.db
        before = db._state()
        db._begin_statement(self, f"SELECT {procname}()")
        try:
            if watchdog.watching:
                db._begin_command(db._entry)
            result = super().callproc(procname, params, kparams)
        except BaseException as error:
            db._statement_failed(error, "CALL", before)  # what it does is not known
            raise
        db._end_statement()
        return result

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **kwargs: Any) -> Iterator[Any]:
        """As psycopg's ``Cursor.copy``; the connection is held until the block ends."""
        db = self.db
        blocks.note_statement(db, statement)
        before = db._state()
        cursor = db._begin_statement(self, statement)
        with (
            db._streaming(statement, before),
            db.wrap_database_errors,
            cursor.copy(statement, params, **kwargs) as copy,
        ):
            yield copy

    def stream(self, query: Any, params: Any = None, **kwargs: Any) -> Iterator[Any]:
        """As psycopg's ``Cursor.stream``; the connection is held until the iterator ends or is closed."""
        db = self.db
        blocks.note_statement(db, query)
        before = db._state()
        cursor = db._begin_statement(self, query)
        with db._streaming(query, before), db.wrap_database_errors:
            yield from cursor.stream(query, params, **kwargs)

    @property
    def connection(self) -> Any:
        """Psycopg's connection; see raw.py for what pins."""
        return raw_connection_of_cursor(self.db, self)

    def close(self) -> None:
        self.cursor.close()
        db = self.db
        entry = self.entry
        if entry is not None and db._entry is entry and entry.generation == self.generation:
            db._end_statement()


class LeasedDebugCursor(CursorDebugWrapper, LeasedCursor):
    """The same under DEBUG or ``force_debug_cursor``: statements are logged."""

    @contextmanager
    def copy(self, statement: Any, params: Any = None, **kwargs: Any) -> Iterator[Any]:
        with self.debug_sql(statement), LeasedCursor.copy(self, statement, params, **kwargs) as copy:
            yield copy


_wrappers: WeakKeyDictionary[Any, ref[StreamingCursor]] = WeakKeyDictionary()


class StreamingCursor(DjangosCursor):
    """
    A server-side cursor: every fetch goes to the server, so it holds its lease until it is closed, across commits
    and inner ``atomic()`` blocks.
    """

    db: PooledDatabaseMixin

    def __init__(self, cursor: Any, db: PooledDatabaseMixin) -> None:
        super().__init__(cursor, db)
        entry = db._entry
        assert entry is not None
        self.entry = entry
        self.generation = entry.generation
        self.thread_ident = get_ident()
        self.undone = db._undone
        self.session = declared.get()
        self.holding = True
        wrapper = _wrappers.get(cursor)
        former = wrapper() if wrapper is not None else None
        if former is not None and former.holding and former._current():
            # debug-toolbar wraps the same cursor a second time and drops the first wrapper.
            former.holding = False
        else:
            db._hold_stream(entry)
        _wrappers[cursor] = ref(self)

    def _current(self) -> bool:
        return self.db._entry is self.entry and self.entry.generation == self.generation

    def _check(self) -> None:
        if not self._current():
            raise InterfaceError(
                "The connection of this server-side cursor was released (connection.close() or the end of the "
                "request) before the cursor was finished. Finish or close the iterator first."
            )

    def _sync_session(self, query: object = "") -> None:
        """Rows are made when they are fetched, so with the variables that held when the cursor was opened."""
        state = self.entry.session
        if self.session is not state.context or self.db._engine_declares:
            sync = partial(self.db._sync_session, state, self.entry.conn, query, self.session)
            self.db._in_time(self.entry, sync, "SET")

    def __getattr__(self, attr: str) -> Any:
        if attr in CursorWrapper.WRAP_ERROR_ATTRS or attr == "scroll":
            self._check()
            self._sync_session()
            return partial(self._in_time, super().__getattr__(attr))
        return super().__getattr__(attr)

    def _in_time(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One round trip of this cursor."""
        result = None

        def store() -> None:
            nonlocal result
            result = call(*args, **kwargs)

        self.db._in_time(self.entry, store, "FETCH")
        return result

    def __iter__(self) -> Iterator[Any]:
        while rows := self.fetchmany(self.cursor.itersize):
            yield from rows

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        self._check()
        self._sync_session(sql)
        self._begin(sql)
        return self._in_time(super()._execute, sql, params, *ignored)

    def _executemany(self, sql: Any, param_list: Any, *ignored: Any) -> Any:
        self._check()
        self._sync_session(sql)
        self._begin(sql)
        return self._in_time(super()._executemany, sql, param_list, *ignored)

    def _begin(self, sql: Any) -> None:
        self.entry.sql = sql
        self.entry.statements += 1
        self.db._note_session_state(sql)
        if writes.watching:
            self.db._note_write(sql)

    @property
    def connection(self) -> Any:
        self._check()
        return self.db.connection  # noqa: DBP102  # an attribute of every psycopg cursor; who uses it pins

    def close(self) -> None:
        elsewhere = get_ident() != self.thread_ident and not self.db.allow_thread_sharing
        if elsewhere or not self._current():
            Cursor.close(self.cursor)  # on the client alone
            self._leave_open()
            return
        try:
            if self.cursor.withhold or self.undone == self.db._undone:
                self.db._in_time(self.entry, self.cursor.close, "CLOSE")
            else:
                # It may have gone with its transaction or savepoint, and CLOSE would then break the one that is open,
                # which COMMIT turns into ROLLBACK without an error. If it is there still, it goes with its transaction.
                Cursor.close(self.cursor)
        finally:
            if self.holding:
                self.holding = False
                self.db._drop_stream(self.entry)
            # Closing is what Django does after a failed fetch as well.
            self.db._statement_failed(None)

    def _leave_open(self) -> None:
        """Without I/O or lock: mark the lease, so that its connection is closed instead of lent on."""
        if self.holding and self._current():
            self.holding = False
            self.db._abandon_stream()

    def __del__(self) -> None:
        # The collector may run while this thread holds psycopg's lock on this very connection: closing the cursor
        # here, a round trip, would wait for itself.
        if getattr(self, "holding", False):
            self._leave_open()


class StreamingDebugCursor(CursorDebugWrapper, StreamingCursor):
    """The same under DEBUG or ``force_debug_cursor``."""


class StockCursor(DjangosCursor):
    """Django's own, for aliases whose pool is switched off."""

    db: PooledDatabaseMixin

    def _begin(self, sql: Any) -> None:
        if blocks.deadlines_used:
            self.db._refuse_late()
        self.db._sync_stock_session(sql, declared.get())
        if writes.watching:
            self.db._note_write(sql)

    def _execute(self, sql: Any, params: Any, *ignored: Any) -> Any:
        self._begin(sql)
        return super()._execute(sql, params, *ignored)

    def _executemany(self, sql: Any, param_list: Any, *ignored: Any) -> Any:
        self._begin(sql)
        return super()._executemany(sql, param_list, *ignored)

    def callproc(self, procname: Any, params: Any = None, kparams: Any = None) -> Any:
        self._begin(procname)
        return super().callproc(procname, params, kparams)

    def __getattr__(self, attr: str) -> Any:
        if attr in ("copy", "stream"):
            self.db._sync_stock_session("", declared.get())
            if writes.watching:
                self.db._note_write(attr)
        return super().__getattr__(attr)


class StockServerCursor(StockCursor):
    """The same for a server-side cursor, whose rows are made when they are fetched."""

    def __init__(self, cursor: Any, db: PooledDatabaseMixin) -> None:
        super().__init__(cursor, db)
        self.session = declared.get()

    def __getattr__(self, attr: str) -> Any:
        if attr in CursorWrapper.WRAP_ERROR_ATTRS:
            self.db._sync_stock_session("", self.session)
        return super().__getattr__(attr)

    def __iter__(self) -> Iterator[Any]:
        while rows := self.fetchmany(self.cursor.itersize):
            yield from rows


class StockDebugCursor(CursorDebugWrapper, StockCursor):
    """The same under DEBUG or ``force_debug_cursor``."""

    def copy(self, statement: Any) -> Any:
        self.db._sync_stock_session(statement, declared.get())  # Django's asks the driver's cursor
        return super().copy(statement)


class StockServerDebugCursor(StockDebugCursor, StockServerCursor):
    """The same under DEBUG or ``force_debug_cursor``."""


def warn_if_apps_not_ready() -> None:
    """Django's warning about queries during app initialization, which CursorWrapper gives on each statement."""
    if not apps.ready and not apps.stored_app_configs:
        warnings.warn(CursorWrapper.APPS_NOT_READY_WARNING_MSG, category=RuntimeWarning, stacklevel=4)
