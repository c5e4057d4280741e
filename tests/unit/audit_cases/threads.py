"""DBP201: threads that use the database and don't close what they have opened."""

from __future__ import annotations

CASES = {
    "threads that use the database": """
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
    "threads that close, or don't use the database": """
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
    "threads, further": """
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
    "threads that helpers from elsewhere tidy up after": """
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
}
