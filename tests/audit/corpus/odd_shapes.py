"""Shapes that are easy to get wrong: recursion, shadowing, calls where a function was meant, nesting."""

import asyncio
import threading
import time
from contextlib import ExitStack

import requests
from django.core.cache import cache
from django.db import transaction
from django.utils.decorators import method_decorator
from django.views import View

from shop.models import Folder, Order
from shop.registry import registry

try:
    import psycopg
except ImportError:
    psycopg = None

try:
    from psycopg_pool import ConnectionPool
except ImportError:

    class ConnectionPool:
        pass


API = "https://pay.example.com"


def _load(pk):
    return Order.objects.get(pk=pk)


def _tell(pk):
    requests.post(API, json={"order": pk}, timeout=5)


def _even(node):
    return all(_odd(child) for child in node.children)


def _odd(node):
    return any(_even(child) for child in node.children)


def import_that_may_fail(dsn):
    return psycopg and psycopg.connect(dsn)  # expect: DBP101


def connection_imported_here():
    from django.db import connection

    def dump():
        return connection.connection.pgconn  # expect: DBP102

    return dump()


def delete_tree(pk):
    for folder in Folder.objects.filter(parent=pk):
        delete_tree(folder.pk)  # expect: DBP301


def walk(node):
    for child in node.children:
        walk(child)
    return _even(node)


def functions_that_call_each_other(nodes):
    with transaction.atomic():
        for node in nodes:
            _even(node)
    threading.Thread(target=_odd, args=(nodes[0],)).start()


def parameter_of_that_name(pks, _load):
    return [_load(pk) for pk in pks]


def local_of_that_name(pks):
    _load = cache.get
    return [_load(pk) for pk in pks]


def method_of_that_name(pks):
    return [registry._load(pk) for pk in pks]


def match_in_a_loop(rows):
    for row in rows:
        match row:
            case {"id": pk}:
                print(Order.objects.get(pk=pk))  # expect: DBP301
            case _:
                pass


def any_of_a_generator(pks):
    return any(Order.objects.filter(pk=pk).exists() for pk in pks)  # expect: DBP301


def in_an_f_string(statuses):
    for status in statuses:
        print(f"{status}: {Order.objects.filter(status=status).count()}")  # expect: DBP301


def evaluated_by_sorted(customers):
    for customer in customers:
        yield sorted(Order.objects.filter(customer=customer), key=str)  # expect: DBP301


def unpacked(customers):
    for customer in customers:
        print(*Order.objects.filter(customer=customer))  # either: DBP301


async def in_an_async_with(lock, pks):
    async with lock:
        for pk in pks:
            print(await Order.objects.aget(pk=pk))  # expect: DBP301


def iterables_side_by_side(names):
    for order, name in zip(Order.objects.all(), names, strict=True):
        print(order, name)
    for order in reversed(Order.objects.order_by("pk")):
        print(order)


def two_loops_in_a_row(pks):
    orders = []
    for order in Order.objects.filter(pk__in=pks):
        orders.append(order)
    total = Order.objects.count()
    for order in orders:
        print(order, total)


def iterator_in_a_loop(urls):
    for url in urls:
        for order in Order.objects.iterator():  # expect: DBP301
            print(order)
        requests.post(url, timeout=5)


def until_there_are_none():
    while Order.objects.filter(archived=False).exists():  # either: DBP301
        Order.objects.filter(pk__in=Order.objects.filter(archived=False)[:500]).update(archived=True)  # either: DBP301


def on_commit_of_a_result(pk):
    # The parentheses call it now.
    with transaction.atomic():
        transaction.on_commit(_tell(pk))  # expect: DBP302


def target_that_is_a_result(pk):
    # The same slip: it runs here, in the caller's thread.
    threading.Thread(target=_load(pk)).start()


def nested_and_called(pk):
    def tell():
        _tell(pk)

    with transaction.atomic():
        Order.objects.filter(pk=pk).update(paid=True)
        tell()  # expect: DBP302


def sleeps_between_transactions(jobs):
    for job in jobs:
        with transaction.atomic():
            job.run()
        time.sleep(0.1)


def transaction_of_the_inner_function(pk):
    @transaction.atomic
    def mark():
        Order.objects.filter(pk=pk).update(paid=True)

    mark()
    _tell(pk)


def transaction_in_the_inner_function(pk):
    @transaction.atomic
    def mark():
        Order.objects.filter(pk=pk).update(paid=True)
        time.sleep(1)  # expect: DBP302

    return mark()


def entered_on_a_stack(pk):
    with ExitStack() as stack:
        stack.enter_context(transaction.atomic())
        _tell(pk)  # either: DBP302


class PayView(View):
    @method_decorator(transaction.atomic)
    def post(self, request, pk):
        _tell(pk)  # either: DBP302

    def get(self, request, pk):
        return [self.get_one(key) for key in request.GET]

    def get_one(self, key):
        return self.request.GET.get(key)


class Outer:
    class Inner:
        def refresh(self):
            return Order.objects.count()

    def refresh(self):
        return None

    def silent_refresh(self):
        threading.Thread(target=self.refresh).start()


async def not_a_thread():
    await asyncio.sleep(1)
    return await asyncio.gather(*(asyncio.create_task(Order.objects.aget(pk=pk)) for pk in (1, 2)))
