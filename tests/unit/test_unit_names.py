"""Naming the unit of another thread leaves that thread alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery.app.task import Context
from django.http import HttpResponse
from django.test import override_settings
from django.urls import Resolver404, clear_url_caches, include, path, re_path, resolve

import django_dbpool.contrib.celery  # noqa: F401
from django_dbpool.core.ledger import current_unit, label_of, name_of


def view(request: object, **_: object) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("reports/<int:pk>/", view),
    path("", view),
    path("shop/", include([path("", view), path("<slug:item>", view), re_path(r"^old/(\d+)/$", view)])),
    path("<uuid:key>/", include([path("<int:year>/<path:rest>", view), path("", include([path("end", view)]))])),
    re_path(r"^wiki/", include([re_path(r"^(?P<page>\w+)$", view), path("<int:number>/", view)])),
    path("", include([re_path(r"^top/$", view)])),
    re_path(r"(?P<rest>.*)\.html$", view),
]
KEY = "0f3a9c51-d2e8-4b64-9a3c-51d2e87b6400"


@pytest.fixture(autouse=True)
def routes() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def test_only_the_request_itself_remembers_its_route() -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/reports/7/"}
    resolve("/reports/7/")
    size = len(environ)
    for number, _ in enumerate(environ):  # as some middleware may be doing when another thread looks
        assert name_of(environ) == "reports/<int:pk>/", number
    assert len(environ) == size
    token = current_unit.set(environ)
    try:
        assert name_of(environ) == "reports/<int:pk>/"
    finally:
        current_unit.reset(token)
    assert len(environ) == size + 1
    environ["PATH_INFO"] = "/changed/"
    assert name_of(environ) == "reports/<int:pk>/"


def test_another_thread_does_not_import_the_routes() -> None:
    """None until the first request has."""
    clear_url_caches()
    environ = {"PATH_INFO": "/reports/7/"}
    assert name_of(environ) is None
    resolve("/reports/7/")
    assert name_of(environ) == "reports/<int:pk>/"
    assert name_of({"path": "/nowhere/"}) is None


@pytest.mark.parametrize(
    "asked",
    [
        *(
            "/",
            "/reports/7/",
            "/reports/x/",
            "/reports/7",
            "/shop/",
            "/shop",
            "/shop/tea",
            "/shop/old/7/",
            "/shop/old/x/",
        ),
        *(f"/{KEY}/2026/a/b", f"/{KEY}/end", f"/{KEY}/", f"/{KEY.upper()}/end", "/wiki/Tea", "/wiki/7/", "/wiki/a b"),
        *("/top/", "/a/b.html", "/nowhere", "//", "", "reports/7/", "/reports/7/\n", "/x\n.html"),
    ],
)
def test_routes_are_those_that_django_finds(asked: str) -> None:
    try:
        route = resolve(asked or "/").route
    except Resolver404:
        route = None
    assert name_of({"PATH_INFO": asked}) == route


def test_tasks_have_names() -> None:
    context = Context(task="shop.tasks.send", id="1f0c")
    assert (name_of(context), label_of(context)) == ("shop.tasks.send", "task shop.tasks.send[1f0c]")
    assert name_of(Context(id="1f0c")) is None
    assert name_of(SimpleNamespace()) is None
