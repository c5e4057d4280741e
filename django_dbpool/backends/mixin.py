"""
``PooledDatabaseMixin``: which methods of Django's PostgreSQL wrapper are overridden, in the order of a connection's
life. Every one of them begins with the question whether this alias is pooled; if not, Django's own code runs.
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.db.backends.postgresql.base import TIMESTAMPTZ_OID
from django.db.backends.postgresql.psycopg_any import IsolationLevel, register_tzloader
from django.utils.asyncio import async_unsafe
from django.utils.functional import cached_property
from psycopg import Connection, ServerCursor
from psycopg.pq import Format

from ..conf import adopt_django_option, copied, runserver_is_starting
from ..errors import PoolError
from ..pool.managed import ManagedPool
from ..pool.registry import register_holder
from . import activity
from .credentials import CredentialsMixin
from .cursors import (
    LeasedCursor,
    LeasedDebugCursor,
    StockCursor,
    StockDebugCursor,
    StockServerCursor,
    StockServerDebugCursor,
    StreamingCursor,
    StreamingDebugCursor,
)
from .deriving import mix_into
from .raw import raw_connection
from .resolving import ResolvingMixin
from .transactions import TransactionsMixin


class PooledDatabaseMixin(TransactionsMixin, CredentialsMixin, ResolvingMixin):
    """
    Put before a PostgreSQL ``DatabaseWrapper`` in the bases of an engine. Its operations and schema editor get ours
    mixed in.

    Example:
        class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
            pass
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        mix_into(cls)

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        self._stock_connection: Connection[Any] | None = None
        self._init_lease()
        self._sharing_lock = threading.RLock()
        self._resolved = None
        self._ensuring = False
        self._configured_max_age = settings_dict.get("CONN_MAX_AGE", 0)
        adopt_django_option(settings_dict, alias)
        super().__init__(settings_dict, alias=alias)  # by name: the PostGIS wrapper looks for it in its kwargs
        kind = type(self)
        self._plain_door = (
            kind.connect is PooledDatabaseMixin.connect
            and kind.ensure_connection is PooledDatabaseMixin.ensure_connection
        )
        if self._pooled:
            # Stock starts with False and connects before anybody looks. Here nobody connects to look.
            self.autocommit = settings_dict.get("AUTOCOMMIT", True)
        register_holder(self)

    def __copy__(self) -> PooledDatabaseMixin:
        """A copy holds nothing: when it is collected it must not give away the original's lease."""
        duplicate = type(self).__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        duplicate._init_lease()
        return duplicate

    def copy(self, alias: str | None = None) -> PooledDatabaseMixin:
        """Django's, whose deep copy fails on a password function that belongs to a client with a lock."""
        return type(self)(copied(self.settings_dict), self.alias if alias is None else alias)

    def forget_lease(self) -> None:
        super().forget_lease()
        self._sharing_lock = threading.RLock()  # another thread may have held it when the process forked

    # -- connecting ---------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection[Any] | None:
        """Psycopg's connection as the current lease sees it, or None. See raw.py for what pins."""
        entry = self._entry
        if entry is None:
            return self._stock_connection
        if self._initializing:
            return entry.conn
        return raw_connection(self, entry)  # type: ignore[return-value]

    @connection.setter
    def connection(self, value: Connection[Any] | None) -> None:
        self._stock_connection = value
        # Django assigns None when it leaves an outermost atomic() inside of which close() was called. Its next
        # get_autocommit() would connect and so begin afresh; ours answers from memory.
        if value is None and self.__dict__.get("closed_in_transaction"):
            self._reset_transaction_state()

    # No async_unsafe here and on connect(): Django's ensure_connection, through which both are reached, has it.
    def ensure_connection(self) -> None:
        if self._entry is not None or self._stock_connection is not None:
            return
        if self._ensuring:
            # Somebody patched Django's with a function that calls this one.
            with self.wrap_database_errors:
                self.connect()
            return
        self._ensuring = True
        try:
            super().ensure_connection()
        finally:
            self._ensuring = False

    def connect(self) -> None:
        pool = self._resolve_pool()
        if pool is None:
            super().connect()
        else:
            self._begin_unit(pool)

    def _begin_unit(self, pool: ManagedPool) -> None:
        """The first lease of a unit of work: what Django's connect() does once per connection."""
        self.check_settings()
        if self.closed_in_transaction:
            self._reset_transaction_state()
        self.errors_occurred = False
        self.isolation_level = self._isolation_level()
        self._attach(pool)
        self._take(pool, check=self.settings_dict["CONN_HEALTH_CHECKS"])

    def _isolation_level(self) -> IsolationLevel:
        value = self.settings_dict["OPTIONS"].get("isolation_level")
        if value is None:
            return IsolationLevel.READ_COMMITTED
        try:
            return IsolationLevel(value)
        except ValueError:
            raise ImproperlyConfigured(
                f'DATABASES["{self.alias}"]["OPTIONS"]["isolation_level"] = {value!r} is no transaction isolation '
                "level. Use a member of psycopg.IsolationLevel."
            ) from None

    @cached_property
    def pg_version(self) -> int:
        with self.temporary_connection():
            entry = self._entry
            raw = entry.conn if entry is not None else self.connection
            assert raw is not None
            return raw.info.server_version

    # -- cursors ------------------------------------------------------------------------------------------------

    def _cursor(self, name: str | None = None) -> Any:
        entry = self._entry
        if entry is not None and entry.request is not None:
            self._end_lease_of_past_request(entry)
        if self._entry is None and self._lease() is None:
            return super()._cursor(name)
        try:
            try:
                return self._prepare_cursor(self.create_cursor(name))
            except psycopg.Error:
                with self.wrap_database_errors:
                    raise
        except BaseException as error:
            self._statement_failed(error)
            raise

    def create_cursor(self, name: str | None = None) -> Any:
        entry = self._entry
        if entry is None:
            return super().create_cursor(name)
        if name is not None:
            # Django makes the cursor on self.connection: a facade would pin with its first FETCH.
            with self._reading_connection():
                return super().create_cursor(name)
        cursor = entry.conn.cursor()
        zone = self.timezone
        if entry.timezone is not zone:
            loader = entry.conn.adapters.get_loader(TIMESTAMPTZ_OID, Format.TEXT)
            entry.timezone = getattr(loader, "timezone", None)
            if entry.timezone != zone:
                register_tzloader(zone, cursor)
        return cursor

    @contextmanager
    def _reading_connection(self) -> Iterator[None]:
        before, self._initializing = self._initializing, True
        try:
            yield
        finally:
            self._initializing = before

    def make_cursor(self, cursor: Any) -> Any:
        if self._entry is None:
            return StockServerCursor(cursor, self) if isinstance(cursor, ServerCursor) else StockCursor(cursor, self)
        return StreamingCursor(cursor, self) if isinstance(cursor, ServerCursor) else LeasedCursor(cursor, self)

    def make_debug_cursor(self, cursor: Any) -> Any:
        if self._entry is None:
            kind = StockServerDebugCursor if isinstance(cursor, ServerCursor) else StockDebugCursor
            return kind(cursor, self)
        streaming = isinstance(cursor, ServerCursor)
        return StreamingDebugCursor(cursor, self) if streaming else LeasedDebugCursor(cursor, self)

    @contextmanager
    def temporary_connection(self) -> Iterator[Any]:
        if not self._pooled:
            with super().temporary_connection() as cursor:
                yield cursor
            return
        was_leased = self._entry is not None
        try:
            with self.cursor() as cursor:
                yield cursor
        finally:
            # Not in a manual transaction that has had no statement: close() would end it with its autocommit.
            if not (was_leased or self.in_atomic_block) and self.autocommit is self.settings_dict["AUTOCOMMIT"]:
                self.close()

    # -- ending -------------------------------------------------------------------------------------------------

    @async_unsafe
    def close(self) -> None:
        """End the lease and the unit of work on this wrapper; the connection stays in the pool unless pinned."""
        if not self._pooled:
            super().close()
            return
        self.validate_thread_sharing()
        self.run_on_commit = []
        if self.closed_in_transaction:
            return
        try:
            self._end_lease()
        finally:
            if self.in_atomic_block:
                self.closed_in_transaction = True
                self.needs_rollback = True
            else:
                self.autocommit = self.settings_dict.get("AUTOCOMMIT", True)
            if self._entry is None:  # else an interrupt came before it was given back
                self._pool = None
                self._end_of_unit()
                if runserver_is_starting():
                    self.close_pool()

    def _end_of_unit(self) -> None:
        self._executed = 0
        self._count_after = activity.limits.first
        if self._seen is not None:
            activity.note_ends(self._seen)
            self._seen = None

    def _close(self) -> None:
        """Close the raw connection, as Django's does, for tests and instrumentation that call it."""
        if self._pooled:
            self._end_lease(discard=True)
        else:
            super()._close()

    def close_if_unusable_or_obsolete(self) -> None:
        """At both ends of a request: whatever was held or pinned for it ends. Mostly there is nothing."""
        if self._pool is None and not self._pooled:
            super().close_if_unusable_or_obsolete()
            return
        settings_dict = self.settings_dict
        if self._executed:
            self._executed = 0
            if self._seen is not None:
                self._end_of_unit()
        if (
            self._entry is not None
            or self.in_atomic_block
            or self.autocommit is not settings_dict["AUTOCOMMIT"]
            or settings_dict["CONN_HEALTH_CHECKS"]
        ):
            self.close()

    def close_if_health_check_failed(self) -> None:
        if not self._pooled:
            super().close_if_health_check_failed()

    def is_usable(self) -> bool:
        entry = self._entry
        if entry is None:
            return bool(super().is_usable())
        try:
            self._in_time(entry, lambda: entry.conn.execute("SELECT 1"), "SELECT")
        except (psycopg.Error, PoolError):
            return False
        return True

    def ensure_timezone(self) -> bool:
        """The time zone changed: new connections are made with it, a leased one is told."""
        if not self._pooled:
            return bool(super().ensure_timezone())
        self.close_pool()
        entry = self._entry
        return self._configure_timezone(entry.conn) if entry is not None else False

    # -- threads ------------------------------------------------------------------------------------------------

    def validate_thread_sharing(self) -> None:
        if self._thread_ident != get_ident():  # the owner needs no lock to know that it may
            super().validate_thread_sharing()

    def inc_thread_sharing(self) -> None:
        """While threads share this wrapper its lease is held: one of them could end it under another's statement."""
        super().inc_thread_sharing()
        if self._thread_sharing_count == 1:
            self._base_hold += 1
            self._hold += 1

    def dec_thread_sharing(self) -> None:
        super().dec_thread_sharing()
        if self._thread_sharing_count == 0 and self._base_hold:
            self._base_hold -= 1
            self._hold -= 1
            if self._pooled:
                self._end_statement()


__all__ = ["PooledDatabaseMixin"]
