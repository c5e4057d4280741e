"""Views that may run again, and what a test has them do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_dbpool.decorators import replayable
from tests.app import failing
from tests.app.models import Item
from tests.fixtures.pools import execute

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
Caplog = pytest.LogCaptureFixture
Act = Callable[[HttpRequest, str], object]


class Site:
    """What the views of this test do."""

    def __init__(self) -> None:
        self.alias = ""
        self.runs = 0
        self.act: Act = lambda request, alias: None
        """In each run."""
        self.fail: Act = lambda request, alias: None
        """After it, in the first run."""
        self.failing_runs = 1

    def run(self, request: HttpRequest) -> HttpResponse:
        self.runs += 1
        self.act(request, self.alias)
        if self.runs <= self.failing_runs:
            self.fail(request, self.alias)
        return HttpResponse(f"run {self.runs}")


site = Site()


@replayable
def once_more(request: HttpRequest) -> HttpResponse:
    return site.run(request)


@replayable(attempts=4)
def often(request: HttpRequest) -> HttpResponse:
    return site.run(request)


def plain(request: HttpRequest) -> HttpResponse:
    return site.run(request)


@replayable
async def asynchronous(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(site.run)(request)


@method_decorator(replayable, name="dispatch")
class OfClass(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return site.run(request)

    post = get


@replayable
def with_inner(request: HttpRequest) -> HttpResponse:
    return once_more(request)


@replayable
def streaming(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "first,"
        site.run(request)

    return StreamingHttpResponse(parts())


VIEWS = (once_more, often, plain, asynchronous, with_inner, streaming)
urlpatterns = [
    *(path(f"{view.__name__}/", view) for view in VIEWS),
    path("of_class/", OfClass.as_view()),
]


def kill(request: HttpRequest, alias: str) -> None:
    """The server ends the session, in the middle of a transaction."""
    with transaction.atomic(alias):
        execute(alias, "SELECT pg_terminate_backend(pg_backend_pid())")


def raising(code: str) -> Act:
    return lambda request, alias: execute(alias, failing.raising(code))


def get(path: str, client: type[Any] = Client) -> Any:
    if client is AsyncClient:
        return async_to_sync(AsyncClient(raise_request_exception=False).get)(path)
    return Client(raise_request_exception=False).get(path)


def read(request: HttpRequest, alias: str) -> None:
    list(Item.objects.using(alias).all())


def write(request: HttpRequest, alias: str) -> None:
    Item.objects.using(alias).create(name="a")
