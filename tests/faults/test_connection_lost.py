"""A connection that is lost in use has a name, and says whether anything may have been committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, ProgrammingError, connections, transaction
from django.test.utils import CaptureQueriesContext
from psycopg import sql

from django_dbpool.errors import CommitUnknown, ConnectionLost, DatabaseUnavailable
from django_dbpool.transaction import pin, session
from tests.app.models import Item
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import Database
from tests.fixtures.proxy import Proxy

Work = Callable[[Database, str], Any]


@contextmanager
def lost(kind: type[ConnectionLost] = ConnectionLost) -> Iterator[list[ConnectionLost]]:
    """The block ends in this very class of error, which is what Django's handlers catch, with the driver's behind."""
    found: list[ConnectionLost] = []
    with pytest.raises(OperationalError) as raised:
        yield found
    assert type(raised.value) is kind, repr(raised.value)
    assert isinstance(raised.value.__cause__, psycopg.Error)
    assert "INSERT" not in str(raised.value) and "secret" not in str(raised.value)
    found.append(raised.value)


def execute(alias: str, statement: Any, params: Any = None) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, params)


def kill(database: Database, pid: int | None = None) -> None:
    """End the session that the thread holds, or this one, and wait until it is gone."""
    pid = database.connection._entry.backend_pid if pid is None else pid
    assert database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


SUICIDE = "pg_terminate_backend(pg_backend_pid())"
"""A statement that contains it is not answered, or with 57P01."""


def insert(database: Database, table: str) -> None:
    execute(database.alias, f"INSERT INTO {table} SELECT 'secret' FROM {SUICIDE}")


def rows(database: Database, table: str) -> int:
    row = database.observer.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


# -- outside of a transaction ----------------------------------------------------------------------------------


def many(database: Database, table: str) -> None:
    with database.connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} SELECT %s FROM {SUICIDE}", [("a",), ("b",)])


def copied_in(database: Database, table: str) -> None:
    with database.connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        copy.write("a\n")
        kill(database)


def streamed_in(database: Database, table: str) -> None:
    with database.connection.cursor() as cursor:
        list(cursor.stream(f"INSERT INTO {table} SELECT 'a' FROM {SUICIDE} RETURNING key"))


def called(database: Database, table: str) -> None:
    with database.connection.cursor() as cursor:
        cursor.callproc("pg_terminate_backend", [database.connection._entry.backend_pid])


def with_cte(database: Database, table: str) -> None:
    execute(database.alias, f"/* a */ WITH x AS (INSERT INTO {table} SELECT 'a' FROM {SUICIDE}) SELECT 1")


def two_at_once(database: Database, table: str) -> None:
    execute(database.alias, f"SELECT 1; INSERT INTO {table} SELECT 'a' FROM {SUICIDE}")


def into(database: Database, table: str) -> None:
    execute(database.alias, f"SELECT 1 AS a INTO {table}_2 FROM {SUICIDE}")


def composed(database: Database, table: str) -> None:
    execute(
        database.alias, sql.SQL("INSERT INTO {} SELECT 'a' FROM {}").format(sql.Identifier(table), sql.SQL(SUICIDE))
    )


def pinned_insert(database: Database, table: str) -> None:
    with pin(database.alias):
        insert(database, table)


def select(database: Database, table: str) -> None:
    execute(database.alias, f"-- a comment\n(SELECT 1 FROM {table} RIGHT JOIN {SUICIDE} AS s ON true)")


def values(database: Database, table: str) -> None:
    execute(database.alias, sql.SQL(f"VALUES ({SUICIDE})"))


def as_bytes(database: Database, table: str) -> None:
    execute(database.alias, f"SELECT {SUICIDE}".encode())


def copied_out(database: Database, table: str) -> None:
    with (
        database.connection.cursor() as cursor,
        cursor.copy(f"COPY (SELECT n, {SUICIDE} FROM generate_series(1, 9) AS n) TO STDOUT") as copy,
    ):
        list(copy)


def streamed_out(database: Database, table: str) -> None:
    with database.connection.cursor() as cursor:
        list(cursor.stream(f"SELECT n, {SUICIDE} FROM generate_series(1, 9) AS n"))


def fetched(database: Database, table: str) -> None:
    with database.connection.chunked_cursor() as cursor:
        cursor.execute("SELECT n FROM generate_series(1, 9) AS n")
        cursor.fetchmany(2)
        kill(database)
        cursor.fetchmany(2)


def declared(database: Database, table: str) -> None:
    with database.connection.chunked_cursor() as cursor:
        cursor.execute(f"SELECT n, {SUICIDE} FROM generate_series(1, 9) AS n")
        cursor.fetchall()


def orm_read(database: Database, table: str) -> None:
    """Of a column whose name is a word that changes things."""
    list(Item.objects.using(database.alias).extra(select={"into": SUICIDE}).values_list("into"))


WRITES: list[Work] = [
    insert,
    many,
    copied_in,
    streamed_in,
    called,
    with_cte,
    two_at_once,
    into,
    composed,
    pinned_insert,
]
READS: list[Work] = [
    select,
    values,
    as_bytes,
    copied_out,
    streamed_out,
    fetched,
    declared,
    orm_read,
]


@pytest.fixture
def item(database: Database) -> Iterator[None]:
    database.observer.execute("CREATE TABLE app_item (id serial PRIMARY KEY, name text, n int)")
    database.observer.execute("INSERT INTO app_item (name, n) VALUES ('a', 1)")
    yield
    database.observer.execute("DROP TABLE app_item")


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("work", [*WRITES, *READS])
def test_outside_of_a_transaction(make_database: MakeDatabase, table: str, work: Work, mode: str) -> None:
    """What may have been written is said to; the next statement works, in session mode too."""
    database = make_database(mode=mode, max_size=2)
    with lost() as error:
        work(database, table)
    assert error[0].maybe_committed is (work in WRITES)
    assert ("may have been committed" in str(error[0])) is (work in WRITES)
    assert error[0].alias == database.alias
    assert database.fetch("SELECT 1") == 1
    database.connection.close()
    assert rows(database, table) == 0
    database.assert_whole()


@pytest.mark.usefixtures("item")
def test_read_of_the_orm_that_dies_again_and_again(make_database: MakeDatabase) -> None:
    """Its last error has the name."""
    database = make_database(retry={"attempts": 3})
    with lost() as error:
        orm_read(database, "")
    assert not error[0].maybe_committed
    database.assert_whole()


@pytest.mark.usefixtures("item")
def test_read_of_the_orm_whose_server_is_gone(make_database: MakeDatabase, proxy: Proxy) -> None:
    """Its true cause is that no other connection could be had."""
    database = make_database(retry={"attempts": 2, "total": 0.2}, HOST=proxy.host, PORT=str(proxy.port))
    assert Item.objects.using(database.alias).count() == 1

    def cut(execute: Any, *args: Any) -> Any:
        proxy.stop()
        return execute(*args)

    with pytest.raises(DatabaseUnavailable), database.connection.execute_wrapper(cut):
        Item.objects.using(database.alias).extra(select={"nap": "pg_sleep(1)"}).first()
    proxy.start()


# -- in a transaction ------------------------------------------------------------------------------------------


def first_statement(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        insert(database, table)


def later_statement(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        insert(database, table)


def savepoint(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        kill(database)
        with transaction.atomic(using=database.alias):
            raise AssertionError


def in_savepoint(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias), transaction.atomic(using=database.alias):
        insert(database, table)


def release(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias), transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        kill(database)


def in_manual(database: Database, table: str) -> None:
    transaction.set_autocommit(False, using=database.alias)
    try:
        insert(database, table)
    finally:
        database.connection.close()


def in_raw(database: Database, table: str) -> None:
    execute(database.alias, "BEGIN")
    insert(database, table)


def in_raw_held(database: Database, table: str) -> None:
    with pin(database.alias):
        execute(database.alias, "BEGIN")
        insert(database, table)


def copied_in_atomic(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        copied_in(database, table)


def fetched_in_atomic(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        fetched(database, table)


def caught_and_committed(database: Database, table: str) -> None:
    """Whoever catches the first error meets it again at each statement and at COMMIT, which is never sent."""
    with transaction.atomic(using=database.alias):
        with lost():
            insert(database, table)
        with lost() as again:
            execute(database.alias, f"INSERT INTO {table} VALUES ('b')")
        assert not again[0].maybe_committed
        assert "before a statement was sent" in str(again[0])


def function_body(database: Database, table: str) -> None:
    """What looks like COMMIT in the body of a DO is none."""
    with transaction.atomic(using=database.alias):
        execute(database.alias, f"DO $$ BEGIN PERFORM {SUICIDE}; PERFORM 1; END; $$")


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize(
    "work",
    [
        first_statement,
        later_statement,
        savepoint,
        in_savepoint,
        release,
        in_manual,
        in_raw,
        in_raw_held,
        copied_in_atomic,
        fetched_in_atomic,
        caught_and_committed,
        function_body,
    ],
)
def test_in_a_transaction(make_database: MakeDatabase, table: str, work: Work, mode: str) -> None:
    """It is rolled back, so nothing was committed; then all is as before."""
    database = make_database(mode=mode, max_size=2)
    with lost() as error:
        work(database, table)
    assert not error[0].maybe_committed
    assert rows(database, table) == 0
    execute(database.alias, f"INSERT INTO {table} VALUES ('after')")
    assert rows(database, table) == 1
    database.connection.close()
    database.assert_whole()


def commit_of_atomic(database: Database, table: str) -> None:
    with transaction.atomic(using=database.alias):
        execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
        transaction.on_commit(lambda: pytest.fail("a hook was run"), using=database.alias)
        kill(database)


# -- and what it is not ----------------------------------------------------------------------------------------


def test_declared_variables_that_could_not_be_set(database: Database, table: str) -> None:
    """Lost before the write itself was sent: nothing can have happened."""
    with pin(database.alias):
        database.backend()
        kill(database)
        with lost() as error, session(database.alias, **{"app.tenant": 7}):
            execute(database.alias, f"INSERT INTO {table} VALUES ('a')")
    assert not error[0].maybe_committed


def test_pinned_connection_that_was_lost_before(database: Database, table: str) -> None:
    """It is not replaced behind the back of whoever pinned it, and the write is not sent."""
    with pin(database.alias):
        with lost():
            insert(database, table)
        with lost() as error:
            execute(database.alias, f"INSERT INTO {table} VALUES ('b')")
    assert not error[0].maybe_committed
    assert rows(database, table) == 0


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT nonsense", ProgrammingError),
        ("INSERT INTO {} VALUES ((1/0)::text)", DatabaseError),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P01'; END $$", OperationalError),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '08006'; END $$", OperationalError),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '23505'; END $$", IntegrityError),
    ],
)
def test_errors_of_a_living_connection_keep_their_class(
    database: Database, table: str, statement: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        execute(database.alias, statement.format(table))
    assert type(raised.value).__module__ == "django.db.utils"


def test_closed_by_the_user(database: Database) -> None:
    """As in Django: nobody has lost anything."""
    with pin(database.alias):
        database.backend()
        database.connection.connection.close()
        with pytest.raises(OperationalError, match="the connection is closed") as raised:
            execute(database.alias, "SELECT 1")
        assert type(raised.value) is OperationalError
    database.connection.close()
    with pytest.raises(DatabaseError) as closed, transaction.atomic(using=database.alias):
        database.backend()
        database.connection.close()
        database.backend()
    assert not isinstance(closed.value, ConnectionLost)
    database.assert_whole()


def test_under_debug(database: Database, table: str) -> None:
    """Statements that are logged are no different."""
    with CaptureQueriesContext(database.connection):
        with lost() as error:
            insert(database, table)
        assert error[0].maybe_committed
        with lost(CommitUnknown):
            commit_of_atomic(database, table)
        with lost() as error:
            first_statement(database, table)
        assert not error[0].maybe_committed


def test_the_others_are_looked_at(database: Database, table: str, caplog: pytest.LogCaptureFixture) -> None:
    """A loss in a transaction or in COMMIT too: idle connections that were lost with it are closed at once."""
    caplog.set_level(logging.INFO)
    for work in (later_statement, commit_of_atomic):
        idle = database.serve_at_once(4)
        database.settle()
        (mine,) = {entry.backend_pid for entry in tuple(database.pool.gate.free)[-1:]}
        living = min(idle - {mine})
        entries = [entry for entry in database.pool.gate.free if entry.backend_pid not in (mine, living)]
        for entry in entries:
            kill(database, entry.backend_pid)
        with suppress(ConnectionLost):
            work(database, table)
        assert {entry.backend_pid for entry in database.pool.entries} == {living}
    database.assert_whole()
