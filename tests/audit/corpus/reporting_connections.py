"""Connections of a reporting app, made in the ways people make them."""

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import psycopg as pg
import psycopg2
import psycopg_pool
from django.conf import settings
from psycopg import AsyncConnection, Connection, sql
from psycopg import connect as open_connection
from psycopg_pool import AsyncNullConnectionPool, ConnectionPool
from psycopg_pool import NullConnectionPool as Throwaway

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

DSN = settings.REPORTING_DSN

pool = ConnectionPool(DSN, min_size=1, open=False)  # expect: DBP101


def monthly_totals(month):
    with psycopg.connect(DSN) as conn:  # expect: DBP101
        return conn.execute("SELECT sum(total) FROM orders WHERE month = %s", [month]).fetchone()


def vacuum(table):
    conn = pg.connect(DSN, autocommit=True)  # expect: DBP101
    try:
        conn.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))
    finally:
        conn.close()


def listen(channel):
    conn = open_connection(DSN, autocommit=True)  # expect: DBP101
    conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    yield from conn.notifies()


def typed_connection():
    return Connection.connect(DSN, row_factory=psycopg.rows.dict_row)  # expect: DBP101


def spelled_out():
    return psycopg.Connection.connect(DSN)  # expect: DBP101


async def stream_events():
    async with await psycopg.AsyncConnection.connect(DSN) as conn:  # expect: DBP101
        async with conn.cursor() as cursor:
            async for row in cursor.stream("SELECT * FROM events"):
                yield row


async def one_event(pk):
    conn = await AsyncConnection.connect(DSN)  # expect: DBP101
    with contextlib.closing(conn):
        return await conn.execute("SELECT * FROM events WHERE id = %s", [pk])


async def fast_count():
    conn = await asyncpg.connect(dsn=DSN)  # expect: DBP101
    try:
        return await conn.fetchval("SELECT count(*) FROM events")
    finally:
        await conn.close()


async def shared_asyncpg_pool():
    async with asyncpg.create_pool(DSN, min_size=1) as events:  # expect: DBP101
        return await events.fetch("SELECT 1")


def legacy_dump():
    with contextlib.closing(psycopg2.connect(DSN)) as conn, conn.cursor() as cursor:  # expect: DBP101
        cursor.execute("SELECT 1")


def connections_of_all_shards():
    return [psycopg.connect(dsn) for dsn in settings.SHARD_DSNS]  # expect: DBP101


def is_reachable():
    return not (conn := psycopg.connect(DSN)).closed and conn.info.status  # expect: DBP101


def default_argument(query, conn=psycopg2.connect(DSN)):  # expect: DBP101
    return conn.cursor().execute(query)


def factory_for_tests():
    return lambda: psycopg.connect(DSN)  # expect: DBP101


def three_pools():
    first = psycopg_pool.AsyncConnectionPool(DSN, open=False)  # expect: DBP101
    second = Throwaway(DSN)  # expect: DBP101
    third = AsyncNullConnectionPool(DSN, open=False)  # expect: DBP101
    return first, second, third


class EventStore:
    _pool = psycopg_pool.ConnectionPool(DSN, open=False)  # expect: DBP101

    def imported_here(self):
        import psycopg2.extras

        conn = psycopg2.connect(DSN)  # expect: DBP101
        psycopg2.extras.register_uuid(conn_or_curs=conn)
        return conn

    def over_several_lines(self):
        return psycopg.connect(  # expect: DBP101
            host=settings.REPORTING_HOST,
            dbname="events",
        )


def handed_on_uncalled():
    # Nothing connects here, but something will.
    return partial(psycopg.connect, DSN)  # either: DBP101


def renamed_by_assignment():
    connect = psycopg.connect
    return connect(DSN)  # either: DBP101


def only_names_of_the_driver(error, pool: "AsyncConnectionPool"):
    if isinstance(error, psycopg.errors.UniqueViolation):
        return sql.SQL("SELECT {}").format(sql.Identifier("id"))
    return isinstance(pool, psycopg.Connection)


def caught(run):
    try:
        return run()
    except (psycopg.OperationalError, psycopg2.InterfaceError):
        return None


def conninfo():
    return psycopg.conninfo.make_conninfo(DSN, application_name="reports")
