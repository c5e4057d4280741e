"""Views under transaction.retrying(), with and without ATOMIC_REQUESTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.db import transaction as djangos
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_dbpool import transaction
from django_dbpool.errors import RetryingInsideTransaction
from tests.app.failing import RAISE
from tests.app.models import Log
from tests.fixtures.pools import execute

pytestmark = pytest.mark.django_db(transaction=True)

Post = Callable[[str], Any]

runs: list[str] = []


def work(request: HttpRequest) -> HttpResponse:
    """Writes a row and fails the first time."""
    runs.append(request.method or "")
    assert len(connections["default"].atomic_blocks) == 1
    Log.objects.create(key=f"run {len(runs)} {request.body.decode()}")
    if len(runs) == 1:
        execute("default", "SELECT raise_for_test('40001')")
    return HttpResponse(f"run {len(runs)}")


@transaction.retrying
def bare(request: HttpRequest) -> HttpResponse:
    return work(request)


@transaction.retrying(attempts=5)
def named(request: HttpRequest, word: str) -> HttpResponse:
    return work(request)


@method_decorator(transaction.retrying, name="dispatch")
class OfClass(View):
    def post(self, request: HttpRequest) -> HttpResponse:
        return work(request)


class Overridden(View):
    @transaction.retrying
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return super().dispatch(request, *args, **kwargs)

    def post(self, request: HttpRequest) -> HttpResponse:
        return work(request)


class Handler(View):
    """Too far inside: Django asks the view whether it wants ATOMIC_REQUESTS, not its methods."""

    @method_decorator(transaction.retrying)
    def post(self, request: HttpRequest) -> HttpResponse:
        return work(request)


@transaction.retrying(atomic=False)
async def asynchronous(request: HttpRequest) -> HttpResponse:
    runs.append("async")
    await Log.objects.acount()
    if len(runs) == 1:
        await sync_to_async(execute)("default", "SELECT raise_for_test('40001')")
    await Log.objects.acreate(key=f"run {len(runs)}")
    return HttpResponse(f"run {len(runs)}")


class AsynchronousClass(View):
    @method_decorator(transaction.retrying(atomic=False))
    async def post(self, request: HttpRequest) -> HttpResponse:
        return await asynchronous.__wrapped__(request)  # type: ignore[attr-defined, no-any-return]


def plain(request: HttpRequest) -> HttpResponse:
    """What decorates nothing keeps Django's transaction."""
    return HttpResponse(str(len(connections["default"].atomic_blocks)))


urlpatterns = [
    path("bare/", bare),
    path("named/<word>/", named),
    path("class/", OfClass.as_view()),
    path("overridden/", Overridden.as_view()),
    path("handler/", Handler.as_view()),
    path("async/", asynchronous),
    path("async-class/", AsynchronousClass.as_view()),
    path("plain/", plain),
]


@pytest.fixture(params=[True, False], ids=["ATOMIC_REQUESTS", ""])
def atomic_requests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", request.param)
    return bool(request.param)


@pytest.fixture(autouse=True)
def site(observer: psycopg.Connection[Any]) -> Iterator[None]:
    observer.execute(RAISE)
    runs.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield
    observer.execute("DROP TABLE fails_at_commit")


@pytest.fixture(params=["wsgi", "asgi"])
def post(request: pytest.FixtureRequest) -> Post:
    def by_asgi(url: str) -> Any:
        async def main() -> Any:
            try:
                return await AsyncClient().post(url, "body", content_type="text/plain")
            finally:
                await sync_to_async(lambda: connections["default"].close())()

        return async_to_sync(main)()

    def by_wsgi(url: str) -> Any:
        return Client().post(url, "body", content_type="text/plain")

    return by_wsgi if request.param == "wsgi" else by_asgi


@pytest.mark.parametrize("url", ["/bare/", "/named/x/", "/class/", "/overridden/"])
def test_view_is_repeated_as_a_whole(atomic_requests: bool, post: Post, url: str) -> None:
    """Each time in a transaction of its own, and with the same body."""
    assert post(url).content == b"run 2"
    assert runs == ["POST", "POST"]
    assert [log.key for log in Log.objects.all()] == ["run 2 body"]


@pytest.mark.parametrize("url", ["/async/", "/async-class/"])
def test_asynchronous_view(monkeypatch: pytest.MonkeyPatch, post: Post, url: str) -> None:
    if url == "/async/":  # Django refuses asynchronous views otherwise
        monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    assert post(url).content == b"run 2"
    assert [log.key for log in Log.objects.all()] == ["run 2"]


def test_decorated_too_far_inside(monkeypatch: pytest.MonkeyPatch, post: Post) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    with pytest.raises(RetryingInsideTransaction, match="ATOMIC_REQUESTS"):
        post("/handler/")
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", False)
    assert post("/handler/").content == b"run 2"


def test_other_views_keep_their_transaction(atomic_requests: bool, post: Post) -> None:
    assert post("/plain/").content == str(int(atomic_requests)).encode()


def test_the_mark_is_the_decorated_function_s_own() -> None:
    @djangos.non_atomic_requests(using="other")
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    decorated: Any = transaction.retrying("default")(view)
    assert decorated._non_atomic_requests == {"default", "other"}
    assert view._non_atomic_requests == {"other"}
