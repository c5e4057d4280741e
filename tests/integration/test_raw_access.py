"""connection.connection and cursor.connection: reading pins nothing, using pins, and a lease's end ends both."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.backends.signals import connection_created
from django.test.utils import override_settings
from psycopg import ClientCursor, pq, sql
from psycopg.adapt import PyFormat
from psycopg.types import TypeInfo
from psycopg.types.hstore import register_hstore

from django_dbpool import transaction as dbpool_transaction
from django_dbpool.errors import RawAccessRefused, RawAccessWarning
from tests.fixtures.pools import backend, execute, holders, in_use, pinned, value
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Use = Callable[[Any], object]

TEXT = pq.Format.TEXT
HSTORE = TypeInfo("hstore", 99998, 99999)


def leased(alias: str) -> Any:
    """The raw connection during a lease that ends with the next statement."""
    connections[alias].ensure_connection()
    return connections[alias].connection


READS: dict[str, Use] = {
    "info": lambda raw: (
        raw.info.dbname,
        raw.info.host,
        raw.info.port,
        raw.info.user,
        raw.info.server_version,
        raw.info.encoding,
        raw.info.timezone,
        raw.info.dsn,
        raw.info.get_parameters(),
        raw.info.backend_pid,
        raw.info.status,
        raw.info.transaction_status,
        raw.info.pipeline_status,
        raw.info.error_message,
        raw.info.parameter_status("server_version"),
    ),
    "pgconn": lambda raw: (
        raw.pgconn.status,
        raw.pgconn.transaction_status,
        raw.pgconn.backend_pid,
        raw.pgconn.server_version,
        raw.pgconn.db,
        raw.pgconn.host,
        raw.pgconn.parameter_status(b"TimeZone"),
        raw.pgconn.socket,
    ),
    "closed": lambda raw: (raw.closed, raw.broken),
    "attributes": lambda raw: (
        raw.autocommit,
        raw.isolation_level,
        raw.read_only,
        raw.deferrable,
        raw.row_factory,
        raw.cursor_factory,
        raw.server_cursor_factory,
        raw.prepare_threshold,
        raw.prepared_max,
    ),
    "fileno": lambda raw: raw.fileno(),
    "exceptions": lambda raw: (raw.Error, raw.OperationalError),
    "hasattr": lambda raw: (hasattr(raw, "get_dsn_parameters"), hasattr(raw.pgconn, "nonsense")),
    "adapters": lambda raw: (raw.adapters.get_loader(25, TEXT), raw.adapters.types["text"].oid),
    "composed": lambda raw: sql.SQL("{} {}").format(sql.Literal("it's"), sql.Identifier('a"b')).as_string(raw),
    "bytes": lambda raw: sql.Literal(b"\x00'").as_bytes(raw),
    "quote": lambda raw: sql.quote("it's", raw),
    "mogrify": lambda raw: ClientCursor(raw).mogrify("SELECT %s, %s", ["it's", b"\x00'"]),
    "cursor as context": lambda raw: sql.Literal("it's").as_string(ClientCursor(raw)),
    "transformer": lambda raw: psycopg.adapt.Transformer(raw).as_literal("it's"),
    "adapters as template": lambda raw: psycopg.adapt.AdaptersMap(raw.adapters).get_loader(25, TEXT),
    "cursor that executes nothing": lambda raw: psycopg.Cursor(raw).closed,
    "type": lambda raw: (isinstance(raw, psycopg.Connection), isinstance(raw.pgconn, pq.PGconn)),
    "dir": dir,
}

USES: dict[str, Use] = {
    "cursor": lambda raw: raw.cursor(),
    "execute": lambda raw: raw.execute("SELECT 1").fetchall(),
    "transaction": lambda raw: raw.transaction(),
    "pipeline": lambda raw: raw.pipeline(),
    "notifies": lambda raw: raw.notifies(timeout=0),
    "cancel": lambda raw: raw.cancel(),
    "add_notice_handler": lambda raw: raw.add_notice_handler(print),
    "lock": lambda raw: raw.lock,
    "with": lambda raw: raw.__enter__(),
    "a private attribute": lambda raw: raw._prepared,
    "setting an attribute": lambda raw: setattr(raw, "row_factory", psycopg.rows.dict_row),
    "deleting an attribute": lambda raw: delattr(raw, "_pool"),
    "pgconn.exec_": lambda raw: raw.pgconn.exec_(b"SELECT 1"),
    "setting one of pgconn": lambda raw: setattr(raw.pgconn, "nonblocking", 0),
    "registering a type": lambda raw: HSTORE.register(raw),
    "registering a type without arrays": lambda raw: TypeInfo("plain", 99997, 0).register(raw),
    "registering an adapter": lambda raw: register_hstore(HSTORE, raw),
    "registering a dumper": lambda raw: raw.adapters.register_dumper(str, raw.adapters.get_dumper(str, PyFormat.TEXT)),
    "registering a loader": lambda raw: raw.adapters.register_loader(25, raw.adapters.get_loader(25, TEXT)),
    "a cursor made by hand": lambda raw: psycopg.Cursor(raw).execute("SELECT 1").fetchall(),
    "a client cursor made by hand": lambda raw: ClientCursor(raw).execute("SELECT %s", [1]).fetchall(),
    "a type looked up": lambda raw: TypeInfo.fetch(raw, "text"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reading_pins_nothing(single: str, read: Use) -> None:
    """The answer is the real connection's, and the lease ends with the statement as ever."""
    raw = leased(single)
    assert repr(read(raw)) == repr(read(raw.connection))
    assert pinned(single) is None
    execute(single, "SELECT 1")
    assert in_use(single) == 0


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_using_pins(single: str, worker: Worker, use: Use) -> None:
    """The connection is closed at the end of the unit."""
    neighbour = worker(backend, single)
    raw = leased(single)
    assert pinned(single) is None
    use(raw)
    assert pinned(single) == "connection.connection was used"
    connections[single].close()
    assert worker(backend, single) != neighbour


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_use_after_the_lease_is_refused(single: str, worker: Worker, use: Use) -> None:
    """A kept raw connection may be another thread's by now: it neither acts on it nor pins anybody."""
    raw = leased(single)
    execute(single, "SELECT 1")
    worker(execute, single, "BEGIN")
    with pytest.raises(InterfaceError, match=r"transaction\.pin\(\).*transaction\.dedicated\(\)"):
        use(raw)
    assert pinned(single) is None
    worker(execute, single, "COMMIT")
    assert in_use(single) == 0


def test_reading_after_the_lease(single: str, worker: Worker) -> None:
    """What never changes is still told; of the session only that it is no longer this one's."""
    raw = leased(single)
    cursor = psycopg.Cursor(raw)
    info, name, isolation = raw.info, raw.info.dbname, raw.isolation_level
    execute(single, "SELECT 1")
    worker(execute, single, "BEGIN")
    assert raw.closed
    assert not raw.broken
    assert raw.autocommit
    assert raw.info.dbname == info.dbname == name
    assert raw.isolation_level == isolation
    assert info.status == pq.ConnStatus.BAD
    assert info.transaction_status == pq.TransactionStatus.UNKNOWN
    assert sql.Literal("it's").as_string(raw) == "'it''s'"
    assert "lease ended" in repr(raw)
    for act in (raw.fileno, lambda: raw.info.backend_pid, lambda: raw.connection, lambda: cursor.execute("SELECT 1")):
        with pytest.raises(InterfaceError, match="whose lease has ended"):
            act()
    worker(execute, single, "COMMIT")


def test_one_object_for_each_lease(single: str) -> None:
    """Comparisons, sets and weak dictionaries see one connection for as long as it is held."""
    with transaction.atomic(using=single), connections[single].cursor() as cursor:
        cursor.execute("SELECT 1")
        raw = connections[single].connection
        assert connections[single].connection is raw
        assert cursor.connection is raw
        assert raw == raw.connection
        assert {raw.connection: 1}[raw] == 1
        assert weakref.WeakKeyDictionary({raw: 1})[raw] == 1
        assert raw != object()
        assert pinned(single) is None
    again = leased(single)
    assert again is not raw
    assert again == raw
    execute(single, "SELECT 1")


def test_cursor_whose_lease_has_ended(single: str, worker: Worker) -> None:
    """Instrumentation that reads cursor.connection around each statement takes no lease for it."""
    with connections[single].cursor() as cursor:
        cursor.execute("SELECT 1")
        raw = cursor.connection
        assert raw.info.dbname == connections[single].settings_dict["NAME"]
        assert raw.info.transaction_status == pq.TransactionStatus.IDLE
        assert not hasattr(raw, "get_dsn_parameters")
        assert not raw.closed
        assert in_use(single) == 0
        assert "not leased" in repr(raw)
        worker(execute, single, "SELECT 1")
        assert in_use(single) == 0


@pytest.mark.parametrize("how", ["execute", "a cursor made by hand"])
def test_cursor_whose_lease_has_ended_leases_anew(make_pool: MakePool, worker: Worker, how: str) -> None:
    """Using it is as good as execute(): on a connection of its own, not on the one that another thread has now."""
    alias = make_pool(size=2)
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        first = cursor.fetchone()
        worker(execute, alias, "BEGIN")
        raw = cursor.connection
        USES[how](raw)
        assert raw.info.backend_pid != first[0]
        assert [holder.pinned for holder in holders(alias)].count("connection.connection was used") == 1
    worker(execute, alias, "COMMIT")


def test_nothing_leased(single: str) -> None:
    assert connections[single].connection is None
    execute(single, "SELECT 1")
    assert connections[single].connection is None


def test_server_side_cursor(single: str) -> None:
    """Django makes it on self.connection: its fetches don't count as raw access."""
    with connections[single].chunked_cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 5)")
        assert len(cursor.fetchmany(2)) == 2
        assert cursor.connection is connections[single].connection
        assert pinned(single) is None
    assert in_use(single) == 0


def test_receivers_set_up_the_physical_connection(single: str) -> None:
    """What a receiver of connection_created does with the raw connection stays and doesn't pin."""

    def register(connection: Any, **kwargs: Any) -> None:
        if connection.alias == single:
            HSTORE.register(connection.connection)
            connection.connection.execute("SET statement_timeout = 777")

    connection_created.connect(register)
    try:
        assert leased(single).adapters.types["hstore"].oid == HSTORE.oid
        assert pinned(single) is None
        assert value(single, "SHOW statement_timeout") == "777ms"
        assert leased(single).adapters.types["hstore"].oid == HSTORE.oid
    finally:
        connection_created.disconnect(register)
        connections[single].close()


def test_pool_of_a_registered_adapter(single: str, worker: Worker) -> None:
    """Adapters belong to the physical connection: the next borrower must not get somebody's own."""
    HSTORE.register(leased(single))
    assert leased(single).adapters.types.get("hstore") is not None
    connections[single].close()
    assert worker(lambda: leased(single).adapters.types.get("hstore")) is None
    worker(execute, single, "SELECT 1")


def test_other_thread_cannot_pin(single: str) -> None:
    """As Django's wrapper, unless it is pinned already: then a watchdog may cancel."""
    raw = leased(single)
    seen: list[object] = []

    def cancel() -> None:
        try:
            seen.append(raw.cancel())
        except DatabaseError as error:
            seen.append(type(error))

    for _ in range(2):
        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join()
        raw.execute("SELECT 1")
    assert seen == [DatabaseError, None]


# -- DBPOOL["RAW_ACCESS"] ---------------------------------------------------------------------------------------


def use_here(raw: Any) -> object:
    return raw.execute("SELECT 1").fetchone()


@override_settings(DBPOOL={"RAW_ACCESS": "error"})
def test_refused(single: str) -> None:
    """The text says where, which setting, and what to use instead; the lease goes on unpinned."""
    raw = leased(single)
    assert raw.info.dbname
    line = use_here.__code__.co_firstlineno + 1
    with pytest.raises(RawAccessRefused) as caught:
        use_here(raw)
    for part in (
        f"{__file__}:{line} ",
        'DBPOOL["RAW_ACCESS"]',
        "cursor()",
        "transaction.pin()",
        "transaction.dedicated()",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value, InterfaceError)
    assert pinned(single) is None
    with pytest.raises(RawAccessRefused, match=f"{__file__}:"):
        TypeInfo.fetch(raw, "text")
    execute(single, "SELECT 1")
    assert in_use(single) == 0


@override_settings(DBPOOL={"RAW_ACCESS": "error"})
def test_allowed_in_pin(single: str) -> None:
    """The remedy works."""
    with dbpool_transaction.pin(using=single) as connection:
        assert use_here(connection.connection) == (1,)


@override_settings(DBPOOL={"RAW_ACCESS": "error"})
def test_not_for_django_itself(single: str) -> None:
    """contrib.postgres registers adapters where it creates an extension; a project can't change that."""
    from django.contrib.postgres import signals

    execute(single, "CREATE EXTENSION IF NOT EXISTS hstore")
    signals.get_hstore_oids.cache_clear()
    try:
        with transaction.atomic(using=single):
            execute(single, "SELECT 1")
            signals.register_type_handlers(connections[single])
            assert pinned(single) == "connection.connection was used"
            assert value(single, "SELECT 'a=>1'::hstore") == {"a": "1"}
    finally:
        connections[single].close()
        execute(single, "DROP EXTENSION hstore")
        signals.get_hstore_oids.cache_clear()


@override_settings(DBPOOL={"RAW_ACCESS": "warn"})
def test_warned_once_for_each_line(single: str) -> None:
    warned: list[warnings.WarningMessage]

    def another(raw: Any) -> object:
        return raw.execute("SELECT 1")

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for use in (another, another, another):
            use(leased(single))
            connections[single].close()
    assert [warning.category for warning in warned] == [RawAccessWarning]
    assert (warned[0].filename, warned[0].lineno) == (__file__, another.__code__.co_firstlineno + 1)
    assert "DBPOOL" in str(warned[0].message)


def test_kill_switch(make_pool: MakePool) -> None:
    """Stock: the connection itself."""
    alias = make_pool(POOL={"enabled": False})
    with override_settings(DBPOOL={"RAW_ACCESS": "error"}):
        raw = leased(alias)
        assert type(raw) is psycopg.Connection
        with connections[alias].cursor() as cursor:
            assert cursor.connection is raw
        assert use_here(raw) == (1,)
    connections[alias].close()
