"""Thread pools and the event loop's threads."""

import asyncio
import concurrent.futures
from asyncio import to_thread
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import Pool

import httpx
from asgiref.sync import sync_to_async
from channels.db import database_sync_to_async
from django.db import close_old_connections, connection

from django_dbpool import threads
from shop.models import Order

executor = ThreadPoolExecutor(max_workers=4)


def _total(pk):
    return Order.objects.get(pk=pk).total


def _tidy_total(pk):
    try:
        return _total(pk)
    finally:
        close_old_connections()


def _fetch(url):
    return httpx.get(url, timeout=3).json()


def submit_each(pks):
    with ThreadPoolExecutor(max_workers=8) as workers:
        jobs = [workers.submit(_total, pk) for pk in pks]  # expect: DBP201
    return [job.result() for job in concurrent.futures.as_completed(jobs)]


def map_over(pks):
    with concurrent.futures.ThreadPoolExecutor() as workers:
        return list(workers.map(_total, pks))  # expect: DBP201


def module_level_executor(pk):
    return executor.submit(partial(_total, pk))  # expect: DBP201


def without_with(pks):
    workers = futures.ThreadPoolExecutor()
    try:
        return sum(workers.map(lambda pk: Order.objects.get(pk=pk).total, pks))  # expect: DBP201
    finally:
        workers.shutdown()


class Totals:
    def __init__(self):
        self._workers = ThreadPoolExecutor(2)

    def kept_in_an_attribute(self, pk):
        return self._workers.submit(self._load, pk)  # expect: DBP201

    def _load(self, pk):
        with connection.cursor() as cursor:
            cursor.execute("SELECT total FROM orders WHERE id = %s", [pk])
            return cursor.fetchone()


async def in_executor(request, pk):
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _total, pk)  # expect: DBP201


async def in_executor_partial(pk):
    return await asyncio.get_event_loop().run_in_executor(executor, partial(_total, pk))  # expect: DBP201


async def thread_of_asyncio(pk):
    return await asyncio.to_thread(_total, pk)  # expect: DBP201


async def thread_of_a_lambda():
    return await to_thread(lambda: list(Order.objects.filter(open=True)))  # expect: DBP201


async def bound_method_of_the_manager():
    return await asyncio.to_thread(Order.objects.count)  # expect: DBP201


async def gathered(pks):
    return await asyncio.gather(*(asyncio.to_thread(_total, pk) for pk in pks))  # expect: DBP201


def submit_that_closes(pks):
    with ThreadPoolExecutor() as workers:
        return list(workers.map(_tidy_total, pks))


def submit_of_http(urls):
    with ThreadPoolExecutor() as workers:
        return list(workers.map(_fetch, urls))


async def to_thread_of_http(url):
    return await asyncio.to_thread(_fetch, url)


async def to_thread_that_closes(pk):
    return await asyncio.to_thread(_tidy_total, pk)


async def the_right_way(pk):
    total = await sync_to_async(_total)(pk)
    again = await database_sync_to_async(_total)(pk)
    return total + again


async def native_async(pk):
    task = asyncio.create_task(_native(pk))
    return await task


async def _native(pk):
    return await Order.objects.aget(pk=pk)


def managed_pool(pks):
    with threads.ThreadPoolExecutor(max_workers=4) as workers:
        return list(workers.map(_total, pks))


def processes(pks):
    with ProcessPoolExecutor() as workers, Pool() as pool:
        return list(workers.map(_total, pks)), pool.map(_total, pks)


def a_form(form, pks):
    form.submit(_total, 1)
    return list(map(_total, pks))
