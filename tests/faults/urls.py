"""Views of the fault tests; which alias they use is in the query string."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.app.models import Item

gate = threading.Event()
"""Holding views wait for it; tests that use them clear it first and set it at the end."""
gate.set()
arrived = threading.Semaphore(0)
"""Released once by each holding view that has its connection."""


def ask(alias: str) -> dict[str, Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    return {"backend": backend, "thread": threading.current_thread().name}


def query(request: HttpRequest) -> JsonResponse:
    return JsonResponse(ask(request.GET["alias"]))


def hold_in_block(alias: str) -> dict[str, Any]:
    """Keep a connection in a transaction for as long as the test wants."""
    with transaction.atomic(using=alias):
        answer = ask(alias)
        arrived.release()
        wait_for_the_test_to_go_on()
    return answer


def hold(request: HttpRequest, number: int) -> JsonResponse:
    return JsonResponse(hold_in_block(request.GET["alias"]))


def wait_for_the_test_to_go_on() -> None:
    gate.wait(60)


def in_session(alias: str) -> dict[str, Any]:
    """Set up the session, which pins, and look whether it is still there in the next statement."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SET statement_timeout = '4321s'")
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("4321s",)
    return ask(alias)


def pinned(request: HttpRequest) -> JsonResponse:
    return JsonResponse(in_session(request.GET["alias"]))


def fails(request: HttpRequest) -> JsonResponse:
    with transaction.atomic(using=request.GET["alias"]):
        ask(request.GET["alias"])
        raise ZeroDivisionError


async def async_sensitive(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await sync_to_async(ask)(request.GET["alias"]))


async def async_pinned(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await sync_to_async(in_session)(request.GET["alias"]))


async def async_other_thread(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await sync_to_async(ask, thread_sensitive=False)(request.GET["alias"]))


async def async_pinned_in_other_thread(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await sync_to_async(in_session, thread_sensitive=False)(request.GET["alias"]))


async def async_leftover(request: HttpRequest) -> JsonResponse:
    """What a job in another thread finds of the session state of earlier requests."""
    return JsonResponse({"found": await sync_to_async(show, thread_sensitive=False)(request.GET["alias"])})


def show(alias: str) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        (value,) = cursor.fetchone()
    return str(value)


outliving: list[asyncio.Task[Any]] = []


async def async_job_that_outlives_its_request(request: HttpRequest) -> JsonResponse:
    """Begin a pinned job in another thread and answer without waiting for it."""
    outliving.append(asyncio.create_task(sync_to_async(pin_and_hold, thread_sensitive=False)(request.GET["alias"])))
    await asyncio.to_thread(arrived.acquire, timeout=60)
    return JsonResponse({})


def pin_and_hold(alias: str) -> str:
    in_session(alias)
    arrived.release()
    wait_for_the_test_to_go_on()
    return show(alias)


async def async_models(request: HttpRequest) -> JsonResponse:
    """Every kind of asynchronous access that Django has."""
    items = Item.objects.using(request.GET["alias"])
    name = request.GET["name"]
    item = await items.acreate(name=name)
    assert await items.aget(pk=item.pk) == item
    assert [found async for found in items.filter(name=name)] == [item]
    assert [found async for found in items.filter(name=name).aiterator()] == [item]
    await items.filter(pk=item.pk).aupdate(n=1)
    await item.arefresh_from_db()
    assert item.n == 1
    await item.adelete()
    return JsonResponse({"left": await items.filter(name=name).acount()})


meetings: list[asyncio.Barrier] = []
"""The last one is where requests wait for each other; made by the test in its event loop."""


async def async_query_wait_query(request: HttpRequest) -> JsonResponse:
    """Query, wait for something that comes only when all other requests wait for it too, query again."""
    thread_sensitive = request.GET["thread_sensitive"] == "yes"
    before = await sync_to_async(ask, thread_sensitive=thread_sensitive)(request.GET["alias"])
    await meetings[-1].wait()
    after = await sync_to_async(ask, thread_sensitive=thread_sensitive)(request.GET["alias"])
    return JsonResponse({"before": before, "after": after})


def rows(alias: str) -> Iterator[str]:
    with connections[alias].chunked_cursor() as cursor:
        cursor.itersize = 10
        cursor.execute("SELECT generate_series(1, 100)")
        for (number,) in cursor:
            yield f"{number}\n"


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(rows(request.GET["alias"]))


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def numbers() -> AsyncIterator[str]:
        for _ in range(10):
            yield str((await sync_to_async(ask)(request.GET["alias"]))["backend"] > 0)

    return StreamingHttpResponse(numbers())


async def async_hold(request: HttpRequest, number: int) -> JsonResponse:
    return JsonResponse(await sync_to_async(hold_in_block)(request.GET["alias"]))


urlpatterns = [
    path("query/", query),
    path("hold/<int:number>/", hold),
    path("async-hold/<int:number>/", async_hold),
    path("pinned/", pinned),
    path("fails/", fails),
    path("async/sensitive/", async_sensitive),
    path("async/pinned/", async_pinned),
    path("async/other-thread/", async_other_thread),
    path("async/pinned-in-other-thread/", async_pinned_in_other_thread),
    path("async/leftover/", async_leftover),
    path("async/outliving/", async_job_that_outlives_its_request),
    path("async/models/", async_models),
    path("async/query-wait-query/", async_query_wait_query),
    path("stream/", stream),
    path("async/stream/", async_stream),
]
