"""
What ``connection.connection`` and ``cursor.connection`` give: psycopg's connection, seen through a lease.

Monitoring, adapters and ``as_string()`` only read it, which leaves nothing behind. Whoever executes on it or sets
something may change the session unseen, so that pins. What is kept longer than its lease must not reach the next
borrower's transaction: a facade knows its lease and refuses afterwards.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from django.db import InterfaceError
from psycopg import Connection
from psycopg.adapt import AdaptersMap
from psycopg.pq import ConnStatus, PGconn, TransactionStatus
from psycopg.types import TypesRegistry

from .raw_policy import RAW_ACCESS_REASON, apply_policy

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry
    from .cursors import LeasedCursor
    from .leases import LeaseMixin

# DB-API's exceptions, which connections have as attributes.
ERRORS = {name for name in dir(Connection) if name[0] != "_" and isinstance(getattr(Connection, name), type)}

# Attributes that are the same in every lease: who sets one pins, and the connection is closed afterwards.
CONSTANT = ERRORS | {
    "cursor_factory",
    "deferrable",
    "isolation_level",
    "prepare_threshold",
    "prepared_max",
    "read_only",
    "row_factory",
    "server_cursor_factory",
}

# Of the libpq connection: fixed when it was made.
PG_CONSTANT = {
    "_encoding",
    "db",
    "full_protocol_version",
    "host",
    "hostaddr",
    "info",
    "needs_password",
    "options",
    "password",
    "port",
    "protocol_version",
    "server_version",
    "ssl_in_use",
    "tty",
    "used_gssapi",
    "used_password",
    "user",
}
PG_STATE = {
    "backend_pid",
    "error_message",
    "get_error_message",
    "nonblocking",
    "parameter_status",
    "pipeline_status",
    "socket",
    "status",
    "transaction_status",
}
PG_NOT_STARTED = {"status": ConnStatus.OK, "transaction_status": TransactionStatus.IDLE}
PG_ENDED = {"status": ConnStatus.BAD, "transaction_status": TransactionStatus.UNKNOWN}


def raw_connection(db: LeaseMixin, entry: PoolEntry) -> RawConnection:
    """The facade of the current lease: the same object for each reader."""
    raw = db._raw
    if raw is None or not raw._lease.is_of(entry):
        raw = db._raw = RawConnection(Lease(db, entry))
    return raw


def raw_connection_of_cursor(db: LeaseMixin, cursor: LeasedCursor) -> Any:
    """For a cursor that holds nothing now. Reading it takes no lease; using it leases as ``execute`` would."""
    if db._entry is not None or cursor.entry is None:
        return db.connection
    return RawConnection(Lease(db, cursor.entry, cursor))


class Lease:
    """One lease as seen by those who look at its connection; with a cursor, one that begins when it is needed."""

    __slots__ = ("cursor", "db", "entry", "generation")

    def __init__(self, db: LeaseMixin, entry: PoolEntry, cursor: LeasedCursor | None = None) -> None:
        self.db = db
        self.entry = entry
        self.generation = entry.generation
        self.cursor = cursor

    @property
    def held(self) -> bool:
        return self.cursor is None and self.is_of(self.db._entry)

    def is_of(self, entry: PoolEntry | None) -> bool:
        return self.entry is entry and self.generation == entry.generation

    def begin(self, what: str) -> PoolEntry:
        """
        The leased connection.

        Raises:
            InterfaceError: the lease is over.
        """
        if self.cursor is not None:
            self.db._begin_statement(self.cursor, "SELECT")
            entry = self.db._entry
            assert entry is not None
            self.entry, self.generation, self.cursor = entry, entry.generation, None
        if not self.held:
            self.refuse(what)
        return self.entry

    def refuse(self, what: str) -> NoReturn:
        raise InterfaceError(
            f"{what} of a raw connection to database {self.db.alias!r}, whose lease has ended: it may be another "
            "thread's by now. Read connection.connection again; to keep one connection, use `with transaction.pin():`, "
            "for a connection of your own `with transaction.dedicated() as connection:` (both of django_dbpool)."
        )

    def pin(self, what: str) -> PoolEntry:
        """The leased connection, which stays with this unit of work from now on."""
        entry = self.begin(what)
        db = self.db
        if entry.pinned in (None, RAW_ACCESS_REASON):
            apply_policy(db.alias, what)
            if entry.pinned is None:
                db.validate_thread_sharing()  # another thread's pin would race with this one's count
                db._pin(RAW_ACCESS_REASON)
        if not db.needs_rollback:
            # Django's statements would find the session as it was declared for them; so does what comes now.
            db._begin_statement(self, "SELECT")
        return entry


def _asked_by_psycopg() -> bool:
    """
    Whether the caller's caller is psycopg. Its C code demands the real PGconn, and its cursors act on a connection
    only under ``lock`` and through ``wait``, which they ask this facade for.
    """
    name: str = sys._getframe(2).f_globals.get("__name__", "")
    return name == "psycopg" or name.startswith("psycopg.")


class RawConnection:
    """Stands for a ``psycopg.Connection``, also before ``isinstance``, ``==`` and ``hash``."""

    __slots__ = ("__weakref__", "_conn", "_lease")

    _lease: Lease
    _conn: Connection[Any]

    def __init__(self, lease: Lease) -> None:
        object.__setattr__(self, "_lease", lease)
        object.__setattr__(self, "_conn", lease.entry.conn)  # equality must not change with a lease that begins later

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._lease.entry.conn)

    # -- what only reads ----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        lease = self._lease
        return lease.entry.conn.closed if lease.held else lease.cursor is None

    @property
    def broken(self) -> bool:
        lease = self._lease
        return lease.held and lease.entry.conn.broken

    @property
    def autocommit(self) -> bool:
        lease = self._lease
        return lease.entry.conn.autocommit if lease.held else lease.db.autocommit

    @property
    def pgconn(self) -> Any:
        lease = self._lease
        if not _asked_by_psycopg():
            return RawPgconn(lease)
        if lease.cursor is not None:
            # A cursor keeps it: it has to be that of the lease in which the cursor is going to execute.
            lease.begin("pgconn")
        return lease.entry.pgconn

    @property
    def connection(self) -> Connection[Any]:
        """Psycopg's AdaptContext protocol, by which C code finds the encoding and how to quote."""
        lease = self._lease
        if not lease.held and not _asked_by_psycopg():
            lease.begin("connection")
        return lease.entry.conn

    @property
    def info(self) -> Any:
        lease = self._lease
        return type(lease.entry.conn.info)(RawPgconn(lease))  # type: ignore[arg-type]

    @property
    def adapters(self) -> AdaptersMap:
        return RawAdapters.of(self._lease)

    def fileno(self) -> int:
        return self._lease.begin("fileno()").conn.fileno()

    def __getattr__(self, name: str) -> Any:
        lease = self._lease
        value = getattr(lease.entry.conn, name)  # AttributeError for what no connection has
        if name in CONSTANT:
            return value
        return getattr(lease.pin(name).conn, name)

    # -- what may change the session ----------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        entry = self._lease.pin(name)
        setattr(entry.conn, name, value)
        entry.autocommit = entry.conn.autocommit

    def __delattr__(self, name: str) -> None:
        delattr(self._lease.pin(name).conn, name)

    def __enter__(self) -> Self:
        self._lease.pin("with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lease.pin("with").conn.__exit__(kind, error, traceback)

    # -- what it looks like -------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self._conn is (other._conn if type(other) is RawConnection else other)

    def __hash__(self) -> int:
        return hash(self._conn)

    def __dir__(self) -> list[str]:
        return dir(self._lease.entry.conn)

    def __repr__(self) -> str:
        lease = self._lease
        if lease.held:
            return f"<connection of database {lease.db.alias!r}, leased: {lease.entry.conn!r}>"
        return f"<connection of database {lease.db.alias!r}, {'not leased' if lease.cursor else 'lease ended'}>"


class RawPgconn:
    """The libpq connection: what tells its state is read, everything else pins."""

    __slots__ = ("_lease",)

    _lease: Lease

    def __init__(self, lease: Lease) -> None:
        object.__setattr__(self, "_lease", lease)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return PGconn

    def __getattr__(self, name: str) -> Any:
        lease = self._lease
        pgconn = lease.entry.pgconn
        if name in PG_CONSTANT:
            return getattr(pgconn, name)
        if name in PG_STATE:
            if not lease.held:
                known = PG_NOT_STARTED if lease.cursor is not None else PG_ENDED
                if name in known:
                    return known[name]
            return getattr(lease.begin(f"pgconn.{name}").pgconn, name)
        getattr(type(pgconn), name)  # AttributeError for what no PGconn has
        return getattr(lease.pin(f"pgconn.{name}").pgconn, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._lease.pin(f"pgconn.{name}").pgconn, name, value)


class RawAdapters(AdaptersMap):
    """The connection's own map, whose contents it shares. Registering pins: the next borrower doesn't expect it."""

    __slots__ = ("_lease",)

    _lease: Lease

    @classmethod
    def of(cls, lease: Lease) -> RawAdapters:
        adapters = cls.__new__(cls)
        adapters.__dict__ = lease.entry.conn.adapters.__dict__
        adapters._lease = lease
        return adapters

    @property
    def types(self) -> TypesRegistry:  # type: ignore[override]
        return RawTypes.of(self._lease, self.__dict__["types"])

    def register_dumper(self, *args: Any, **kwargs: Any) -> None:
        self._lease.pin("adapters.register_dumper")
        super().register_dumper(*args, **kwargs)

    def register_loader(self, *args: Any, **kwargs: Any) -> None:
        self._lease.pin("adapters.register_loader")
        super().register_loader(*args, **kwargs)


class RawTypes(TypesRegistry):
    """The types that the connection knows by name; adding one pins."""

    __slots__ = ("_lease",)

    _lease: Lease

    @classmethod
    def of(cls, lease: Lease, registry: TypesRegistry) -> RawTypes:
        types = cls.__new__(cls)
        types.__dict__ = registry.__dict__
        types._lease = lease
        return types

    def add(self, *args: Any, **kwargs: Any) -> None:
        self._lease.pin("adapters.types.add")
        super().add(*args, **kwargs)


__all__ = ["RawConnection", "raw_connection", "raw_connection_of_cursor"]
