"""DBP101 and DBP102: connections of one's own, and those taken out of Django's."""

from __future__ import annotations

CASES = {
    "connections by every way of importing": """
import psycopg
import psycopg as pg
import psycopg2
import psycopg_pool.pool
import importlib
from psycopg import connect, Connection as C, AsyncConnection
from psycopg_pool import ConnectionPool as Pool, AsyncNullConnectionPool
from asyncpg import create_pool
import asyncpg
from functools import partial

psycopg.connect("")  #> DBP101
pg.connect("")  #> DBP101
connect("")  #> DBP101
C.connect("")  #> DBP101
psycopg.Connection.connect("")  #> DBP101
psycopg2.connect("")  #> DBP101
pool = Pool("")  #> DBP101
psycopg_pool.pool.NullConnectionPool("")  #> DBP101
other = AsyncNullConnectionPool("")  #> DBP101
importlib.import_module("psycopg").connect("")  #> DBP101
__import__("psycopg2").connect("")  #> DBP101
getattr(psycopg, "connect")("")  #> DBP101
opener = psycopg.connect
opener("")  #> DBP101
make = partial(psycopg.connect, "")  #> DBP101
make()

async def main():
    await AsyncConnection.connect("")  #> DBP101
    async with create_pool("") as pool:  #> DBP101
        pass
    await asyncpg.connect("")  #> DBP101
    def inner():
        from psycopg import connect as dial
        return dial("")  #> DBP101
""",
    "connections: imports that may fail, star imports, classes derived": """
try:
    import psycopg as driver
except ImportError:
    import psycopg2 as driver
try:
    import asyncpg
except ImportError:
    asyncpg = None
from psycopg2 import *
from psycopg import Connection
from psycopg_pool import ConnectionPool

class Ours(Connection):
    pass

class OurPool(ConnectionPool):
    pass

driver.connect("")  #> DBP101
if asyncpg:
    asyncpg.connect("")  #> DBP101
connect("")  #> DBP101
Ours.connect("")  #> DBP101
OurPool("")  #> DBP101

class Service:
    driver = driver
    def __init__(self):
        self.connect = Connection.connect
    def open(self):
        return self.connect("")  #> DBP101
""",
    "connections to something else": """
import redis
import sqlite3
import psycopg
from redis import connect as dial
from .client import connect
from django_dbpool import transaction

def open_it():
    def connect(url): ...
    return connect("")

redis.connect("")
sqlite3.connect("")
dial("")
connect("")
post_save.connect(receiver)
signal.connect("")
raise psycopg.OperationalError
isinstance(x, psycopg.Connection)

def use(psycopg):
    return psycopg.connect("")

def after():
    psycopg = Fake()
    return psycopg.connect("")

with transaction.dedicated() as connection:
    connection.execute("LISTEN x")
""",
    "connections, further": """
import psycopg, psycopg2.pool
import psycopg.rows
import psycopg as p, asyncpg as apg
from psycopg import Connection, AsyncConnection as AC
from psycopg_pool import (
    AsyncConnectionPool,
    NullConnectionPool as NP,
)
from . import psycopg as local_psycopg
from mylib import psycopg as foreign
from psycopg.connection import Connection as CC
local_psycopg.connect()
foreign.connect()
CC.connect()  #> DBP101
p.AsyncConnection.connect()  #> DBP101
psycopg2.pool.ThreadedConnectionPool(1, 2)  #> DBP101
class A:
    conn = psycopg.connect("")  #> DBP101
    pool: NP = NP("")  #> DBP101
    async def open(self):
        async with await AC.connect("") as c:  #> DBP101
            pass
        self.pool = await apg.create_pool(dsn="")  #> DBP101
        async with AsyncConnectionPool("") as pool:  #> DBP101
            async with pool.connection() as c: ...
def f(connect=psycopg.connect):
    return connect("")
with psycopg.connect("") as a, a.cursor() as c:  #> DBP101
    c.execute("")
conns = [psycopg.connect("") for _ in range(3)]  #> DBP101
def lazy():
    import psycopg as later
    return later.connect("")  #> DBP101
if True:
    drv = psycopg
else:
    drv = None
drv.connect("")  #> DBP101
psycopg = None
psycopg.connect("")
def decorator(f): return f
@decorator
def connect(): ...
connect()
import sqlalchemy
sqlalchemy.create_engine("").connect()
from redis.asyncio import ConnectionPool
ConnectionPool()
import redis
redis.ConnectionPool.from_url("")
redis.ConnectionPool("")
signals.post_save.connect(f)
from paho.mqtt.client import connect as mqtt
mqtt("")
""",
    "the raw connection taken out": """
from django.db import connection, connections, transaction, connection as db
from django.db.backends.base.base import BaseDatabaseWrapper
import django.db

raw = connection.connection  #> DBP102
connections["x"].connection.cursor()  #> DBP102
db.connection.execute("")  #> DBP102
transaction.get_connection().connection.notifies()  #> DBP102
django.db.connection.connection.autocommit = True  #> DBP102

def of(alias, wrapper: BaseDatabaseWrapper):
    ours = connections[alias]
    use(ours.connection)  #> DBP102
    use(wrapper.connection)  #> DBP102
    for each in connections.all():
        use(each.connection)  #> DBP102
    use(getattr(connection, "connection"))  #> DBP102
    with connection.cursor() as cursor:
        cursor.connection
    return (ours
        .connection)
""".replace("    return (ours\n", "    return (ours  #> DBP102\n"),
    "the raw connection only looked at; attributes of the same name": """
from django.db import connection, connections

print(connection.connection.info.server_version, connection.connection.closed)
connections["x"].connection.adapters.register_dumper(int, str)
if connection.connection is not None and not connection.connection.closed:
    pass
if connection.connection:
    pass
seen = connection.connection
print(seen.info.backend_pid)

class Client:
    def __init__(self, connection):
        self.connection = connection
    def use(self):
        return self.connection.connection

def use(request, connection):
    return request.connection, connection.connection
""",
    "the raw connection, further": """
import django.db as ddb
from django import db
from django.db import connection as conn, connections as conns, transaction
from django.db.utils import ConnectionHandler
ddb.connection.connection.cursor()  #> DBP102
db.connections['a'].connection.cursor()  #> DBP102
c = conns["default"]
raw = c.connection  #> DBP102
pg = transaction.get_connection("x").connection.pgconn  #> DBP102
class V:
    def __init__(self):
        self.conn = conn
        self.wrapper = conns["x"]
    def go(self):
        self.conn.connection.notifies()  #> DBP102
        x = self.wrapper
        x.ensure_connection()
        x.connection.add_notify_handler(print)  #> DBP102
def f():
    conn.ensure_connection()
    with conn.connection.cursor() as cur:  #> DBP102
        pass
    return conn.connection.info.backend_pid
def g(alias="default"):
    w = conns[alias]
    return w.connection  #> DBP102
def h():
    info = conn.connection.info
    a = conn.connection.adapters
    if conn.connection and not conn.connection.closed: pass
    t = transaction.get_connection()
    return t.connection  #> DBP102
amqp.connection.connection
self.request.connection.connection
broker = Broker()
broker.connection.cursor()
def k(connection): return connection.connection
def local():
    connection = make()
    return connection.connection
with conns["x"].cursor() as cursor:
    cursor.connection.commit()
    cursor.db.connection.x()  #> DBP102
def walrus():
    if (raw := conn.connection) is not None:  #> DBP102
        raw.execute("x")
""",
}
