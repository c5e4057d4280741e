"""Samples for the rules of the audit: each line that has to be reported ends in ``#> <rule>``, and no other may be."""

from __future__ import annotations

CASES: dict[str, str] = {}


def case(name: str, source: str) -> None:
    assert name not in CASES
    CASES[name] = source


# -- DBP101 ---------------------------------------------------------------------------------------------------------

case(
    "connections by every way of importing",
    """
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
)
case(
    "connections: imports that may fail, star imports, classes derived",
    """
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
)
case(
    "connections to something else",
    """
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
)

# -- DBP102 ---------------------------------------------------------------------------------------------------------

case(
    "the raw connection taken out",
    """
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
)
case(
    "the raw connection only looked at; attributes of the same name",
    """
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
)

# -- DBP201 ---------------------------------------------------------------------------------------------------------

case(
    "threads that use the database",
    """
import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent import futures
from functools import partial
from threading import Thread, Timer
from django.db import connection
from shop.models import Order

def work(pk):
    Order.objects.filter(pk=pk).update(done=True)

def indirect():
    helper()

def helper():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

def closes_not_always():
    work(1)
    connection.close()

class Service:
    def start(self):
        Thread(target=self.run).start()  #> DBP201
    def run(self):
        self.step()
    def step(self):
        order = Order.objects.get(pk=1)
        order.save()

threading.Thread(target=work, args=(1,)).start()  #> DBP201
Thread(None, indirect).start()  #> DBP201
Thread(target=lambda: work(1)).start()  #> DBP201
Thread(target=partial(work, 1)).start()  #> DBP201
Timer(5, work).start()  #> DBP201
Timer(5, function=closes_not_always).start()  #> DBP201
with ThreadPoolExecutor() as executor:
    executor.submit(work, 1)  #> DBP201
    executor.map(work, [1])  #> DBP201
    executor.submit(Order.objects.get, pk=1)  #> DBP201
pool = futures.ThreadPoolExecutor(max_workers=2)
pool.submit(partial(work, 1))  #> DBP201

async def main(loop):
    await loop.run_in_executor(None, work, 1)  #> DBP201
    await asyncio.to_thread(work, 1)  #> DBP201
    await asyncio.to_thread(Order.objects.count)  #> DBP201
    await asyncio.to_thread(list, Order.objects.all())  #> DBP201

class Worker(Thread):  #> DBP201
    def run(self):
        work(1)

class Late(Worker):
    pass
""",
)
case(
    "threads that close, or don't use the database",
    """
import asyncio
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import wraps
from asgiref.sync import sync_to_async
from django.db import close_old_connections, connection, connections
from django_dbpool import threads
from shop.models import Order
from shop.work import imported

def work(pk):
    Order.objects.filter(pk=pk).update(done=True)

def finally_closes():
    try:
        work(1)
    finally:
        connection.close()

def all_closes():
    try:
        work(1)
    finally:
        connections.close_all()

def old_closes():
    try:
        finally_closes()
        work(1)
    finally:
        tidy()

def tidy():
    close_old_connections()

def wraps_closing():
    finally_closes()

def builds_only():
    return Order.objects.filter(pk=1)

def with_closing():
    with closing(connection):
        work(1)

@contextmanager
def own_connection():
    try:
        yield
    finally:
        connection.close()

def managed():
    with own_connection():
        work(1)

def closes(function):
    @wraps(function)
    def inner(*args):
        try:
            return function(*args)
        finally:
            connections.close_all()
    return inner

@closes
def decorated():
    work(1)

def computes():
    return sum(range(3))

for target in (1,):
    threading.Thread(target=finally_closes).start()
    threading.Thread(target=all_closes).start()
    threading.Thread(target=old_closes).start()
    threading.Thread(target=wraps_closing).start()
    threading.Thread(target=with_closing).start()
    threading.Thread(target=managed).start()
    threading.Thread(target=decorated).start()
    threading.Thread(target=builds_only).start()
    threading.Thread(target=computes).start()
    threading.Thread(target=imported).start()
with threads.ThreadPoolExecutor() as executor:
    executor.submit(work, 1)
threads.spawn(work, 1)
threads.spawn_on_commit(work, 1)
class Thumbnails(threads.ThreadPoolExecutor):
    pass
thumbnails = Thumbnails(2)
thumbnails.submit(work, 1)
with ProcessPoolExecutor() as processes:
    processes.submit(work, 1)

async def main(loop):
    await sync_to_async(work)(1)
    await loop.run_in_executor(processes, work, 1)
    await loop.run_in_executor(executor, work, 1)
    await loop.run_in_executor(thumbnails, work, 1)
    await loop.run_in_executor(threads.ThreadPoolExecutor(2), work, 1)
    await asyncio.to_thread(print, Order.objects.all)

class Worker(threading.Thread):
    def run(self):
        try:
            work(1)
        finally:
            connections.close_all()

class Ticker(threading.Thread):
    def run(self):
        print("tick")
""",
)

# -- DBP301 ---------------------------------------------------------------------------------------------------------

case(
    "queries in loops",
    """
from django.contrib.auth import get_user_model
from django.db import connection, models
from django.shortcuts import get_object_or_404
from shop.models import Item, Order
from shop import models as shop

User = get_user_model()

def direct(pks, names):
    for pk in pks:
        order = Order.objects.get(pk=pk)  #> DBP301
        order.seen = True
        order.save()  #> DBP301
        order.items.all()
        for item in order.items.all():  #> DBP301
            item.delete()  #> DBP301
        if order.items.filter(done=False).exists():  #> DBP301
            continue
        get_object_or_404(Order, pk=pk)  #> DBP301
        shop.Item.objects.create(order=order)  #> DBP301
        User.objects.filter(pk=pk).update(name="x")  #> DBP301
        list(Item.objects.filter(order=pk))  #> DBP301
    else:
        Order.objects.count()
    while pks:
        Order.objects.get(pk=pks.pop())  #> DBP301
    [Item.objects.filter(order=pk).count() for pk in pks]  #> DBP301
    return {name: Order.objects.filter(name=name).first() for name in names}  #> DBP301

def cursors(rows):
    with connection.cursor() as cursor:
        for row in rows:
            cursor.execute("INSERT", row)  #> DBP301

def rows_of_querysets(queryset):
    for obj in queryset:
        obj.save()  #> DBP301
    for index, obj in enumerate(Order.objects.all()):
        obj.delete()  #> DBP301
    orders = list(Order.objects.filter(done=False))
    for order in orders:
        order.refresh_from_db()  #> DBP301
    total = sum(order.items.count() for order in Order.objects.all())  #> DBP301
    for order in found():
        order.save()  #> DBP301
    for name in names:
        qs = Order.objects.filter(name=name)
        if name:
            qs = qs.exclude(done=True)
        for each in qs:  #> DBP301
            print(each)
        print(qs[0])  #> DBP301

def found():
    return Order.objects.filter(done=False)

def price(pk):
    return lookup(pk)

def lookup(pk):
    return Item.objects.get(pk=pk).price

def calls(pks):
    for pk in pks:
        price(pk)  #> DBP301

class Basket(models.Model):
    name = models.CharField(max_length=10)

    def total(self):
        return sum(line.price for line in self.lines.all())

    @property
    def last(self):
        return self.lines.order_by("pk").first()

    def touch(self):
        self.save()

def baskets():
    for basket in Basket.objects.all():
        basket.total()  #> DBP301
        print(basket.last)  #> DBP301
        basket.touch()  #> DBP301
    for name in names:
        Basket(name=name).save()  #> DBP301

async def later(pks):
    async for order in Order.objects.all():
        await order.asave()  #> DBP301
    for pk in pks:
        await Order.objects.aget(pk=pk)  #> DBP301

def forwards(apps, schema_editor):
    Old = apps.get_model("shop", "Old")
    for old in Old.objects.all():
        old.save()  #> DBP301

class View:
    def get(self, request):
        for row in self.get_queryset():
            row.save()  #> DBP301
            self.log(row)  #> DBP301
    def log(self, row):
        Item.objects.create(row=row)

def typed(orders: "models.QuerySet[Order]", many: list[Order]):
    for order in orders:
        order.save()  #> DBP301
    for order in many:
        order.save()  #> DBP301
""",
)
case(
    "loops that don't ask for each item",
    """
from django.core.paginator import Paginator
from django.db import connection, connections, models
from itertools import batched
from shop.models import Item, Order
from shop.batches import run_batches
import boto3
import requests

def iterable_only():
    for order in Order.objects.filter(done=False):
        print(order.name)
    for order in list(Order.objects.all()):
        order.done = True
    return [order.pk for order in Order.objects.all()]

def bulk(groups):
    for group in groups:
        Item.objects.bulk_create(group)
        Item.objects.in_bulk(group)
        Item.objects.bulk_update(group, ["name"])

def built(names):
    parts = []
    for name in names:
        parts.append(Order.objects.filter(name=name))
    qs = Order.objects.all()
    for name in names:
        qs = qs.exclude(name=name)
    return qs

def cached_result(names):
    qs = Order.objects.all()
    for name in names:
        for order in qs:
            print(order, name)
        if qs:
            print(len(qs))

def prefetched():
    for order in Order.objects.prefetch_related("items"):
        for item in order.items.all():
            print(item)
        print(order.items.count(), len(order.items.all()))

class Basket(models.Model):
    data = models.JSONField()
    def total(self):
        return sum(line.price for line in self.lines.all())

def prefetched_methods():
    for basket in Basket.objects.prefetch_related("lines"):
        basket.total()
        basket.data.get("x")
        basket.tags_text.count(",")
        basket.options.get("x")

def batches():
    while batch := list(Order.objects.filter(done=False)[:500]):
        Order.objects.filter(pk__in=[order.pk for order in batch]).update(done=True)
    while True:
        pks = list(Order.objects.values_list("pk", flat=True)[:500])
        if not pks:
            break
        Order.objects.filter(pk__in=pks).delete()
    for start in range(0, 10_000, 500):
        list(Order.objects.all()[start : start + 500])
    for chunk in batched(range(10_000), 500):
        Order.objects.filter(pk__in=chunk).update(done=True)
    for pks in groups():
        Order.objects.filter(pk__in=pks).update(done=True)
    for batch in run_batches(Order.objects.all()):
        batch.update(done=True)

def few():
    for name in ("a", "b", "c"):
        Order.objects.create(name=name)
    for attempt in range(3):
        Order.objects.count()
    [Order.objects.get(name=name) for name in ["a", "b"]]
    for key, value in {"a": 1, "b": 2}.items():
        Order.objects.create(name=key, value=value)
    for name in NAMES:
        Order.objects.create(name=name)

NAMES = ("a", "b")

def ends(names):
    for name in names:
        if name.startswith("x"):
            return Order.objects.get(name=name)
    for name in names:
        if name.startswith("x"):
            order = Order.objects.get(name=name)
            break
    while True:
        try:
            return Order.objects.create(name="x")
        except ValueError:
            continue

def unique(slug):
    while Order.objects.filter(slug=slug).exists():
        slug += "x"

def service():
    while True:
        Order.objects.filter(done=False).count()
        time.sleep(5)

def defined_only(names):
    for name in names:
        def later():
            return Order.objects.get(name=name)
        register(lambda: Order.objects.count())

def others(rows, forms, files, mapping):
    for row in rows:
        row.save()
        row.delete()
        mapping.get(row)
        requests.get(row)
        rows.count(row)
    for form in forms:
        form.save()
    bucket = boto3.resource("s3").Bucket("x")
    for name in files:
        bucket.objects.filter(Prefix=name).delete()

class Registry:
    objects = {}

def registry(names):
    for name in names:
        Registry.objects.get(name)

def per_database():
    for alias in connections:
        Order.objects.using(alias).count()
    for each in connections.all():
        with each.cursor() as cursor:
            cursor.execute("SELECT 1")
    for model in apps.get_models():
        model.objects.count()
    for model in (Order, Item, Order, Item, Order, Item):
        model.objects.count()
""",
)

# -- DBP302 ---------------------------------------------------------------------------------------------------------

case(
    "slow calls in transactions",
    """
import os
import smtplib
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from time import sleep as nap
from urllib.request import urlopen

import aiohttp
import boto3
import httpx
import requests
import urllib3
from django.core.mail import EmailMessage, send_mail, mail_admins
from django.db import transaction
from django.db.transaction import atomic
from django.utils.decorators import method_decorator
from django_dbpool import transaction as pooled

session = requests.Session()
s3 = boto3.client("s3")

def block():
    with transaction.atomic():
        requests.get("x")  #> DBP302
        session.post("x")  #> DBP302
        with requests.Session() as inner:
            inner.put("x")  #> DBP302
        httpx.post("x")  #> DBP302
        httpx.Client().get("x")  #> DBP302
        urllib.request.urlopen("x")  #> DBP302
        urlopen("x")  #> DBP302
        urllib3.PoolManager().request("GET", "x")  #> DBP302
        time.sleep(1)  #> DBP302
        nap(1)  #> DBP302
        subprocess.run(["x"])  #> DBP302
        subprocess.Popen(["x"])  #> DBP302
        os.system("x")  #> DBP302
        smtplib.SMTP("x")  #> DBP302
        send_mail("a", "b", "c", [])  #> DBP302
        mail_admins("a", "b")  #> DBP302
        message = EmailMessage("a")
        message.send()  #> DBP302
        socket.create_connection(("x", 1))  #> DBP302
        connection = socket.socket()
        connection.connect(("x", 1))  #> DBP302
        s3.put_object(Bucket="x")  #> DBP302
        boto3.resource("s3").Bucket("x").upload_file("y")  #> DBP302
        if x:
            for y in z:
                notify(y)  #> DBP302
        transaction.on_commit(requests.get("x"))  #> DBP302

def notify(x):
    deliver(x)

def deliver(x):
    requests.post("x")

@atomic
def decorated():
    time.sleep(1)  #> DBP302

@transaction.atomic(using="other")
def decorated_with_arguments():
    notify(1)  #> DBP302

@pooled.atomic(eager=True)
def of_ours():
    notify(1)  #> DBP302

class View:
    @method_decorator(transaction.atomic)
    def post(self, request):
        self.call()  #> DBP302
    def call(self):
        return requests.get("x")

@method_decorator(transaction.atomic, name="dispatch")
class Whole:
    def get(self, request):
        time.sleep(1)  #> DBP302

def several():
    with open("x") as file, transaction.atomic(), urlopen("x") as answer:  #> DBP302
        pass

def stack():
    with ExitStack() as stack:
        requests.get("x")
        stack.enter_context(transaction.atomic())
        requests.get("x")  #> DBP302

@contextmanager
def unit():
    with transaction.atomic():
        yield

def in_unit():
    with unit():
        time.sleep(1)  #> DBP302

async def later():
    with transaction.atomic():
        async with aiohttp.ClientSession() as client:
            async with client.get("x") as answer:  #> DBP302
                pass

def typed(client: httpx.Client):
    with atomic():
        client.get("x")  #> DBP302

class Gateway:
    def __init__(self):
        self.http = requests.Session()
    def pay(self):
        with transaction.atomic():
            self.http.post("x")  #> DBP302

class Welcome(EmailMessage):
    pass

def welcome():
    with transaction.atomic():
        Welcome("x").send()  #> DBP302
""",
)
case(
    "slow calls outside of transactions",
    """
import time
from functools import partial
import boto3
import requests
from django.core.mail import EmailMessage, send_mail
from django.db import transaction
from shop.tasks import notify_task
from shop.models import Order

def around():
    requests.get("x")
    with transaction.atomic():
        order = Order.objects.create()
        transaction.on_commit(lambda: requests.post("x"))
        transaction.on_commit(partial(requests.post, "x"))
        transaction.on_commit(notify)

        def after():
            send_mail("a", "b", "c", [])

        transaction.on_commit(after)

        @transaction.on_commit
        def later():
            time.sleep(1)

        notify_task.delay(order.pk)
        message = EmailMessage("a")
        time.sleep(0)
        order.time.sleep()
        requests_made.get("x")
        boto3.client("s3").generate_presigned_url("get_object")
        self.client.get("/")
        subprocess = Runner()
        subprocess.run("x")
        task.delay()
    message.send()
    time.sleep(1)

@task
def task():
    requests.get("x")

def notify():
    requests.get("x")

@transaction.non_atomic_requests
def view(request):
    requests.get("x")

class atomic:
    pass

def own():
    with atomic():
        requests.get("x")
    with open("x"):
        requests.get("x")

def with_order():
    with requests.get("x") as answer, transaction.atomic():
        pass
""",
)

# -- DBP303 ---------------------------------------------------------------------------------------------------------

case(
    "slow work while a server-side cursor is open",
    """
import requests
import time
from django.core.mail import send_mail
from shop.models import Order

def direct():
    for order in Order.objects.filter(done=False).iterator():  #> DBP303
        requests.post("x", order.name)
    for index, order in enumerate(Order.objects.all().iterator(chunk_size=100)):  #> DBP303
        send(order)
    rows = Order.objects.iterator()
    for row in rows:  #> DBP303
        if row.due:
            time.sleep(1)
    return [fetch(order) for order in Order.objects.iterator()]  #> DBP303

def send(order):
    send_mail("a", "b", "c", [])

def fetch(order):
    return requests.get("x")

def given(queryset, rows):
    for row in queryset.iterator():  #> DBP303
        time.sleep(1)
    for row in rows.iterator(chunk_size=10):  #> DBP303
        time.sleep(1)

async def later():
    async for order in Order.objects.aiterator():  #> DBP303
        await fetch(order)
""",
)
case(
    "quick work, other iterators, rows read before",
    """
import csv
import requests
import time
from shop.models import Order

def quick(file, things):
    for order in Order.objects.iterator():
        file.write(order.name)
    for row in csv.reader(file):
        requests.post("x")
    for thing in things.iterator():
        requests.post("x")
    for order in Order.objects.all():
        requests.post("x")
    for order in list(Order.objects.iterator()):
        requests.post("x")
    for order in Order.objects.iterator():
        file.write("x")
        later(lambda: requests.post("x"))
    else:
        time.sleep(1)
""",
)

# -- the same again, as others write ---------------------------------------------------------------------------------

case(
    "connections, further",
    """
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
)
case(
    "the raw connection, further",
    """
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
)
case(
    "threads, further",
    """
import threading, asyncio, concurrent.futures as cf
import concurrent.futures
from threading import Thread as T
from django.db import connection, connections, close_old_connections, transaction
from .models import Order, Item
from functools import partial
def save_all(objs):
    for o in Order.objects.all(): print(o)
class Job:
    def start(self):
        self.t = T(target=self._run, daemon=True)  #> DBP201
        self.t.start()
        T(target=Job.static).start()  #> DBP201
        T(target=lambda: self._run()).start()  #> DBP201
    def _run(self):
        self._step()
    def _step(self):
        with transaction.atomic():
            Item.objects.select_for_update().first()
    @staticmethod
    def static(): Order.objects.create()
class W(threading.Thread):  #> DBP201
    daemon = True
    def run(self):
        with connection.cursor() as c: c.execute("x")
class W2(T):
    def run(self):
        try:
            Order.objects.count()
        finally:
            close_old_connections()
async def main():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, save_all, 1)  #> DBP201
    await loop.run_in_executor(None, partial(save_all, 1))  #> DBP201
    await asyncio.gather(*[asyncio.to_thread(save_all, x) for x in y])  #> DBP201
    await loop.run_in_executor(None, lambda: Order.objects.count())  #> DBP201
def many(xs):
    with cf.ThreadPoolExecutor(4) as ex:
        futs = [ex.submit(save_all, x) for x in xs]  #> DBP201
        futs = {ex.submit(save_one, x): x for x in xs}  #> DBP201
        list(ex.map(save_one, xs))  #> DBP201
        ex.submit(len, xs)
    executor = concurrent.futures.ThreadPoolExecutor()
    try:
        executor.submit(save_one)  #> DBP201
    finally:
        executor.shutdown()
def save_one(x=None):
    x = Order(name="x")
    x.save()
def nested():
    def inner():
        Order.objects.filter(x=1).delete()
    thread = threading.Thread(name="x", target=inner)  #> DBP201
    thread.start()
def safe():
    def inner():
        try:
            Order.objects.filter(x=1).delete()
        except Exception:
            log()
        finally:
            for c in connections.all():
                c.close()
    threading.Thread(target=inner).start()
    def inner2():
        close_old_connections()
        try:
            save_one()
        finally:
            close_old_connections()
    threading.Thread(target=inner2).start()
def late():
    t = threading.Timer(1.0, save_one)  #> DBP201
    t = threading.Timer(interval=1.0, function=save_one)  #> DBP201
    t = threading.Timer(1.0, print)
def view_user(request):
    user = request.user
    T(target=user.save).start()  #> DBP201
def only_in_except():
    try:
        Order.objects.count()
    except Exception:
        connection.close()
T(target=only_in_except)  #> DBP201
class Mgr:
    executor = cf.ThreadPoolExecutor()
    def go(self):
        self.executor.submit(self.w)  #> DBP201
    def w(self):
        o = Order.objects.get(pk=1)
""",
)
case(
    "queries in loops, further",
    """
from django.db import connection, transaction, models
from .models import Order, Customer as Cust, Item
from itertools import islice
from django.shortcuts import get_object_or_404 as gor
def a(ids, rows):
    for i in ids:
        try:
            o = Order.objects.select_related("x").get(pk=i)  #> DBP301
        except Order.DoesNotExist:
            o = Order()
        o.name = 1
        o.save(update_fields=["name"])  #> DBP301
    for r in rows:
        obj, created = Order.objects.get_or_create(x=r)  #> DBP301
        if not created:
            obj.save()  #> DBP301
        gor(Order, pk=r)  #> DBP301
        Order.objects.filter(pk=r).exists() and print(1)  #> DBP301
        qs = Item.objects.filter(order=r)
        n = len(qs)  #> DBP301
        if qs.exists():  #> DBP301
            pass
        names = [i.name for i in Item.objects.filter(x=r)]  #> DBP301
        names = list(Item.objects.filter(x=r).values_list("name", flat=True))  #> DBP301
        total = Item.objects.filter(x=r).aggregate(s=1)["s"]  #> DBP301
        cnt = sum(1 for i in Item.objects.filter(x=r))  #> DBP301
        Item(x=r).save()  #> DBP301
        Item.objects.filter(x=r)[0]  #> DBP301
        Item.objects.filter(x=r)[:1].get()  #> DBP301
        x = Item.objects.filter(x=r).first()  #> DBP301
        if r in Item.objects.values_list("x", flat=True):  #> DBP301
            pass
        if not Item.objects.filter(x=r):  #> DBP301
            pass
        dict(Item.objects.filter(x=r).values_list("a", "b"))  #> DBP301
def b():
    for c in Cust.objects.all():
        for o in c.orders.all():  #> DBP301
            for i in o.items.filter(x=1):  #> DBP301
                i.delete()  #> DBP301
        c.orders.count()  #> DBP301
        c.orders.create(x=1)  #> DBP301
        last = c.orders.order_by("-x").first()  #> DBP301
        c.orders.latest("x")  #> DBP301
        sum(o.total for o in c.orders.all())  #> DBP301
        c.profile.save()  #> DBP301
        names = [o.name for o in c.orders.all()]  #> DBP301
        c.tags.add(1)  #> DBP301
def c():
    with connection.cursor() as cur:
        for x in range(100):
            cur.execute("SELECT 1", [x])  #> DBP301
    cur = connection.cursor()
    while x:
        cur.execute("a")  #> DBP301
    for x in y:
        with connection.cursor() as k:
            k.execute("z")  #> DBP301
        connection.cursor().execute("z")  #> DBP301
def d(ids):
    return [Order.objects.get(pk=i) for i in ids], {i: load(i) for i in ids}, set(load(i) for i in ids)  #> DBP301
def load(i):
    return Order.objects.get(pk=i)
class S:
    model = Order
    def go(self, ids):
        for i in ids:
            self.one(i)  #> DBP301
            S.two(i)  #> DBP301
            self.three(i)  #> DBP301
    def one(self, i):
        return self.model.objects.get(pk=i)
    @staticmethod
    def two(i): return Order.objects.get(pk=i)
    @classmethod
    def three(cls, i): return cls.model.objects.get(pk=i)
def e(ids):
    qs = Order.objects.all()
    for i in ids:
        qs.filter(pk=i).update(x=1)  #> DBP301
        qs.get(pk=i)  #> DBP301
    it = iter(ids)
    while True:
        i = next(it, None)
        if i is None:
            break
        Order.objects.get(pk=i)  #> DBP301
def f(order: Order, lines):
    for l in lines:
        order.items.create(x=l)  #> DBP301
        order.refresh_from_db()  #> DBP301
    for l in order.items.all():
        l.save()  #> DBP301
    for l in order.items.filter(x=1)[:10]:
        l.save()  #> DBP301
    for o, l in zip(Order.objects.all(), lines):
        o.save()  #> DBP301
    for i, o in enumerate(Order.objects.all(), start=1):
        o.save()  #> DBP301
    for o in sorted(Order.objects.all(), key=lambda o: o.x):
        o.save()  #> DBP301
    for o in Order.objects.iterator():
        o.save()  #> DBP301
    for pk, o in Order.objects.in_bulk(lines).items():
        o.save()  #> DBP301
    for x in lines:
        with transaction.atomic():
            Order.objects.create(x=x)  #> DBP301
async def g(ids):
    for i in ids:
        o = await Order.objects.aget(pk=i)  #> DBP301
        await o.adelete()  #> DBP301
    async for o in Order.objects.filter(x=1):
        n = await o.items.acount()  #> DBP301
    x = [o async for o in Order.objects.all()]
def h():
    node = Cust.objects.get(pk=1)
    while node.parent_id:
        node = Cust.objects.get(pk=node.parent_id)  #> DBP301
    while node is not None:
        node = Cust.objects.filter(pk=node.parent_id).first()  #> DBP301
""",
)
case(
    "loops without queries, further",
    """
from django.db import connection, transaction, models
from .models import Order, Customer as Cust, Item
from django_dbpool.batch import run_batches
from django.core.paginator import Paginator
def a(ids, forms, cache, d, f, s):
    for i in ids:
        d.get(i); cache.get(i); s.filter(i); f.save(); s.count(i); s.create(x=1); d.delete(); i.items.all; i.items()
        i.objects.get("x")
        session.get(i); self.client.get("/"); request.GET.get(i); os.environ.get("x")
    by_id = {o.pk: o for o in Order.objects.filter(pk__in=ids)}
    for i in ids:
        o = by_id.get(i)
        o.total = 1
    objs = [Order(pk=i) for i in ids]
    Order.objects.bulk_create(objs)
    Order.objects.bulk_update([o for o in objs], ["x"], batch_size=5)
    for o in Order.objects.filter(pk__in=ids).select_related("customer"):
        print(o.customer.name)
    for k, v in Order.objects.values_list("a", "b"):
        d[k] = v
    for o in Order.objects.all()[:10]:
        print(o)
    for i in range(0, 100, 10):
        Order.objects.bulk_create(objs[i:i+10])
    for chunk in chunked(ids, 10):
        Order.objects.filter(pk__in=chunk).delete()
    last = 0
    while True:
        rows = list(Order.objects.filter(pk__gt=last).order_by("pk")[:500])
        if not rows:
            break
        Order.objects.filter(pk__in=[r.pk for r in rows]).update(x=1)
        last = rows[-1].pk
    paginator = Paginator(Order.objects.all(), 100)
    for n in paginator.page_range:
        for o in paginator.page(n).object_list:
            print(o)
    for state in ["a", "b", "c"]:
        print(Order.objects.filter(state=state).count())
    counts = {s: Order.objects.filter(state=s).count() for s in ("a", "b")}
    filters = [Order.objects.filter(x=i) for i in ids]
    q = models.Q()
    for i in ids:
        q |= models.Q(pk=i)
    qs = Order.objects.none()
    for i in ids:
        qs = qs | Order.objects.filter(x=i)
    for name, kw in d.items():
        qs = qs.annotate(**{name: kw})
    with connection.cursor() as c:
        c.execute("x")
        for row in c.fetchall():
            print(row)
        for row in c:
            print(row)
        c.executemany("x", ids)
    subs = [lambda: Order.objects.get(pk=i) for i in ids]
    for o in Order.objects.prefetch_related("items", "items__x"):
        t = sum(i.x for i in o.items.all())
        for i in o.items.all(): print(i)
        if o.items.all(): pass
    run_batches(Order.objects.all(), lambda batch: batch.update(x=1))
    def handler(batch):
        for o in batch:
            print(o)
    return next((o for o in Order.objects.all() if o.x), None)
def gen():
    for o in Order.objects.all():
        yield o
for c in gen(): print(c)
class F(forms.Form):
    def save(self):
        for f in self.forms:
            f.save()
def files(fs):
    for f in fs:
        with open(f) as fh:
            fh.save()
        storage.delete(f)
        image = Image.open(f)
        image.save("x")
""",
)
case(
    "transactions, further",
    """
import requests, time, subprocess, smtplib, os, httpx, socket
from django.db import transaction, connection
from django.core import mail
from django.core.mail import EmailMultiAlternatives as EMA, get_connection
import urllib.request as ur
from urllib import request as ur2
import boto3
from os import system
client = boto3.client("s3")
def v(request):
    with transaction.atomic(using="x"):
        o = Order.objects.create()
        mail.send_mail("a")  #> DBP302
        EMA("a").send()  #> DBP302
        m = EMA("a"); m.attach("x"); m.send(fail_silently=True)  #> DBP302
        get_connection().send_messages([m])  #> DBP302
        ur.urlopen("x")  #> DBP302
        ur2.urlopen("x")  #> DBP302
        system("x")  #> DBP302
        client.upload_file("x")  #> DBP302
        boto3.Session().client("sqs").send_message()  #> DBP302
        boto3.resource("sqs").Queue("x").send_message()  #> DBP302
        requests.request("GET", "x", timeout=5)  #> DBP302
        requests.Session().get("x").json()  #> DBP302
        subprocess.check_output(["x"])  #> DBP302
        request.user.email_user("x")  #> DBP302
        try:
            r = requests.get("x")  #> DBP302
        except requests.RequestException:
            time.sleep(2)  #> DBP302
        for i in x:
            y = [requests.get(i) for i in x]  #> DBP302
        helper(o)  #> DBP302
        transaction.on_commit(lambda: helper(o))
        with transaction.atomic():
            time.sleep(1)  #> DBP302
        with smtplib.SMTP("h") as s:  #> DBP302
            s.send_message(m)  #> DBP302
        s = socket.create_connection(("a", 1))  #> DBP302
        sk = socket.socket(); sk.connect(("a", 1))  #> DBP302
        with httpx.Client() as c:
            c.get("x")  #> DBP302
        with httpx.stream("GET", "x") as r:  #> DBP302
            pass
    time.sleep(1)
def helper(o):
    return fetch(o)
def fetch(o):
    return requests.get("x")
class C:
    @transaction.atomic
    def save(self, *a):
        super().save(*a)
        self.sync()  #> DBP302
    def sync(self):
        httpx.post("x")
@transaction.atomic()
def deco():
    subprocess.run("x")  #> DBP302
    def inner():
        time.sleep(1)
    transaction.on_commit(inner)
@transaction.atomic
@other
async def adeco():
    await asyncio_sleep()
blk = transaction.atomic
with blk():
    time.sleep(3)  #> DBP302
a = transaction.atomic()
with a:
    time.sleep(3)  #> DBP302
def wrapped(f): return f
g = transaction.atomic(fetch)
def m():
    with transaction.atomic() as t, open("x") as f:
        time.sleep(1)  #> DBP302
""",
)
case(
    "iterators, further",
    """
import requests, time
from .models import Order
def a():
    for o in Order.objects.all().iterator(chunk_size=2000):  #> DBP303
        process(o)
    for o in Order.objects.values("x").iterator():  #> DBP303
        try:
            requests.get("x")
        finally:
            pass
    qs = Order.objects.filter(x=1)
    for o in qs.iterator():  #> DBP303
        time.sleep(0.1)
    for i, o in enumerate(qs.iterator(), 1):  #> DBP303
        requests.get("x")
    it = qs.iterator()
    for o in it:  #> DBP303
        requests.get("x")
    for o in orders():  #> DBP303
        requests.get("x")
    for o in Order.objects.iterator():
        quick(o)
    list(requests.get(o) for o in qs.iterator())  #> DBP303
def orders():
    return Order.objects.iterator()
def quick(o): o.x = 1
def process(o): requests.post("x")
class V:
    def go(self):
        for o in self.get_queryset().iterator():  #> DBP303
            self.send(o)
        for o in self.queryset.iterator():  #> DBP303
            self.send(o)
    def send(self, o): requests.post("x")
""",
)

case(
    "managers and querysets of the project",
    """
from django.db import models

class OrderQuerySet(models.QuerySet):
    def close(self, pks):
        for pk in pks:
            self.filter(pk=pk).update(closed=True)  #> DBP301

class OrderManager(models.Manager):
    def by_code(self, code):
        return self.get(code=code)
    def due(self):
        return self.filter(due=True)

class Order(models.Model):
    objects = OrderManager()

def use(codes):
    for code in codes:
        Order.objects.by_code(code)  #> DBP301
        Order.objects.due()
    for order in Order.objects.due():
        order.save()  #> DBP301
""",
)
case(
    "threads that helpers from elsewhere tidy up after",
    """
from threading import Thread
from shop.models import Order
from shop.tools import closes_connections, closing_connections

@closes_connections
def decorated():
    Order.objects.count()

def entered():
    with closing_connections():
        Order.objects.count()

Thread(target=decorated).start()
Thread(target=entered).start()
""",
)

case(
    "views of a project",
    """
import requests
from django.db import transaction, connection
from django.views import View
from .models import Invoice, Customer
from .gateways import charge

class InvoiceView(View):
    def post(self, request, pk):
        with transaction.atomic():
            invoice = Invoice.objects.select_for_update().get(pk=pk)
            charge(invoice)
            self._notify(invoice)  #> DBP302
        self._notify(invoice)

    def _notify(self, invoice):
        if invoice.paid:
            return
        response = requests.post("x", timeout=3)
        response.raise_for_status()

def export(request):
    rows = []
    for customer in Customer.objects.filter(active=True).order_by("name"):
        latest = Invoice.objects.filter(customer=customer).order_by("-date").first()  #> DBP301
        open_sum = sum(i.amount for i in customer.invoices.filter(paid=False))  #> DBP301
        rows.append({"customer": customer, "latest": latest, "n": customer.invoices.count()})  #> DBP301
    return rows

def tree(category):
    children = []
    for child in category.children.all():
        children.append(tree(child))
    return children

def bulk(rows):
    existing = set(Invoice.objects.values_list("number", flat=True))
    new = [Invoice(number=r) for r in rows if r not in existing]
    Invoice.objects.bulk_create(new)
    with transaction.atomic():
        for invoice in new:
            invoice.total = 1
        Invoice.objects.bulk_update(new, ["total"])

def poll():
    for attempt in range(10):
        try:
            with transaction.atomic():
                return Invoice.objects.create(number=attempt)
        except Exception:
            continue

def find(names):
    for n in names:
        c = Customer.objects.filter(name=n).first()  #> DBP301
        if c is not None:
            return c

def validate(rows):
    for row in rows:
        if not Customer.objects.filter(pk=row).exists():  #> DBP301
            raise ValueError(row)

@transaction.atomic
def moved(rows):
    for row in rows:
        Invoice.objects.update_or_create(pk=row, defaults={})  #> DBP301
    transaction.on_commit(lambda: requests.post("x"))

def dictionary(rows):
    cache = {}
    for row in rows:
        if row not in cache:
            cache[row] = Customer.objects.get(pk=row)  #> DBP301
    return cache

def annotated():
    result = [
        {
            "id": c.pk,
            "total": c.invoices.aggregate(t=1)["t"],  #> DBP301
        }
        for c in Customer.objects.all()
    ]
    return result

def qs_param(qs, queryset, invoices):
    for i in qs.select_related("x"):
        i.delete()  #> DBP301
    for i in invoices:
        print(i.lines.all())
    for i in invoices:
        i.lines.values()

def str_things(rows):
    for r in rows:
        s = "x".format(r).count("a")
        r.name.strip().count("x")
        x = {}.get(r)
        y = [].count(r)
        r.tags.add("x")
        r.update(x=1)
""",
)
case(
    "tasks of a project",
    """
from celery import shared_task
from django.core.mail import send_mail
from django.db import transaction
from .models import Mail
import time
@shared_task(bind=True)
def campaign(self, pk):
    for mail in Mail.objects.filter(campaign=pk).iterator():  #> DBP303
        send_mail("a", "b", "c", [mail.to])
        mail.sent = True
        mail.save()  #> DBP301
        time.sleep(1)

@shared_task
def campaign2(pk):
    with transaction.atomic():
        for m in Mail.objects.select_for_update().filter(campaign=pk):
            m.send()
            time.sleep(0.5)  #> DBP302

def later(pk):
    with transaction.atomic():
        Mail.objects.create()
        transaction.on_commit(lambda: campaign.delay(pk))
        campaign2.apply_async((pk,))
        campaign2(pk)

class Sender:
    def __enter__(self): return self
    def __exit__(self, *a): time.sleep(1)
    def send(self): send_mail("a")
def y():
    s = Sender()
    with transaction.atomic():
        s.send()  #> DBP302
        Sender().send()  #> DBP302
        with Sender() as z:
            z.send()  #> DBP302
        def cb():
            s.send()
        transaction.on_commit(cb)
        transaction.on_commit(s.send)
        x = s.send
        x()  #> DBP302
""",
)
case(
    "commands of a project",
    """
import threading
from django.db import connection
from .models import Job
class Command(BaseCommand):
    def handle(self, *args, **options):
        threads = []
        for n in range(4):
            t = threading.Thread(target=self.worker, args=(n,))  #> DBP201
            threads.append(t)
            t.start()
        for t in threads:
            t.join()
    def worker(self, n):
        for job in Job.objects.filter(n=n):
            self.do(job)  #> DBP301
    def do(self, job):
        job.done = True
        Job.objects.filter(pk=job.pk).update(done=True)
def heartbeat():
    def beat():
        while not stop.wait(5):
            Job.objects.update(beat=1)
    threading.Thread(target=beat, daemon=True).start()  #> DBP201
def cursor_thread():
    with connection.cursor() as c:
        c.execute("x")
def using():
    from concurrent.futures import ThreadPoolExecutor, as_completed
    with ThreadPoolExecutor(max_workers=4) as pool:
        futures = [pool.submit(cursor_thread) for _ in range(4)]  #> DBP201
        for f in as_completed(futures): f.result()
def closes_inside():
    def work():
        try:
            cursor_thread()
        finally:
            connection.close()
    threading.Thread(target=work).start()
from multiprocessing import Process
Process(target=cursor_thread).start()
from multiprocessing.pool import ThreadPool
ThreadPool(3).map(cursor_thread, [1])  #> DBP201
""",
)

case(
    "comprehensions, globals and names that shadow",
    """
import psycopg
from psycopg import connect as dial
from django.db import connection
from shop.models import Order

opened = None

def keep():
    global opened
    opened = psycopg.connect

def use():
    opened("")  #> DBP101

def shadow(psycopg, connection=None):
    [psycopg.connect("") for psycopg in range(3)]
    return connection.connection

class Names:
    dial = print
    def go(self):
        dial("")  #> DBP101
        return self.dial("")

def rebound():
    order = Order.objects.get(pk=1)
    order = {"items": []}
    for each in range(10):
        order.save()

def branches(flag):
    if flag:
        row = Order.objects.get(pk=1)
    else:
        row = object()
        for each in range(10):
            row.save()
    for each in range(10):
        row.save()  #> DBP301

def found_before(pks):
    if (order := Order.objects.first()) and any((last := Order.objects.get(pk=pk)) for pk in pks):  #> DBP301
        for each in range(10):
            last.save()  #> DBP301
""",
)

case(
    "loops at the edge of what counts",
    """
from contextlib import suppress
from functools import lru_cache
from django.apps import apps
from django.db import connection
from shop.models import Order

@lru_cache
def remembered(pk):
    return Order.objects.get(pk=pk)

def edge(flag, xs, ys, statements):
    for x in xs:
        remembered(x)
    if flag:
        row = Order.objects.get(pk=1)
    else:
        for x in xs:
            row.save()
    order = None
    while order is None:
        order = Order.objects.filter(free=True).first()
    while flag():
        Order.objects.update(seen=True)
        wait.sleep(1)
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)  #> DBP301
    for x in xs:
        for y in ys:
            Order.objects.get(pk=x)  #> DBP301
            break
    for x in xs:
        try:
            order = Order.objects.create(name=x)
        except ValueError:
            continue
        else:
            break
    for x in xs:
        try:
            return Order.objects.get(name=x)  #> DBP301
        except (Order.DoesNotExist, KeyError):
            continue
    for x in xs:
        name = x.strip()
        with suppress(Order.DoesNotExist):
            row = Order.objects.get(name=name)  #> DBP301
            break
    for x in xs:
        try:
            return Order.objects.get(pk=1)
        except Order.DoesNotExist:
            x.wake()
    for x in xs:
        try:
            return Order.objects.get(name=x)
        except Order.DoesNotExist:
            raise
    for model in apps.get_models():
        Order.objects.filter(model=model._meta.label).delete()  #> DBP301
        model.objects.count()
    steps = range(0, len(xs), 500)
    for n, step in enumerate(steps):
        Order.objects.filter(pk__in=xs[step : step + 500]).delete()
    names = []
    for x in xs:
        names.append(x)
    for name in names:
        Order.objects.create(name=name)  #> DBP301
    for name in (1, 2, 3, 4, 5):
        Order.objects.create(name=name)
    for name in (1, 2, 3, 4, 5, 6):
        Order.objects.create(name=name)  #> DBP301
    few = [1, 2]
    few += xs
    for each in few:
        Order.objects.create(name=each)  #> DBP301

class Short:
    def __init__(self):
        self.rows = []
        self.kept = [Order(), Order()]
        self.grown = []
        self.joined = []

    def fill(self, order):
        self.rows = [Order(), Order()]
        def later():
            self.grown.append(Order())
        self.joined += [order]

    def clear(self):
        for row in self.rows:
            row.delete()
        for row in reversed(self.kept):
            row.delete()
        for row in self.grown:
            row.delete()  #> DBP301
        for row in self.joined:
            Order.objects.get(pk=row)  #> DBP301

class Other:
    def fill(self, source):
        self.rows = list(source)
        self.rows.append("x")

    def clear(self):
        for row in self.rows:
            row.delete()
            Order.objects.get(pk=row)  #> DBP301
""",
)
