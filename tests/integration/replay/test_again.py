"""``@replayable``: a view runs again if its transaction was lost."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpRequest
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator

from django_dbpool.decorators import replayable
from django_dbpool.errors import raised_in_request
from django_dbpool.transaction import idempotent
from tests.app.models import Item
from tests.fixtures.pools import execute, in_use, rows_of
from tests.integration.replay.site import (
    Act,
    Caplog,
    Observer,
    get,
    kill,
    once_more,
    raising,
    read,
    site,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("fail", [kill, raising("40001"), raising("40P01")], ids=["lost", "40001", "40P01"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("path", ["/once_more/", "/of_class/"])
def test_transaction_of_the_request_begins_anew(
    atomic: str, observer: Observer, path: str, client: type[Any], fail: Act, caplog: Caplog
) -> None:
    """What the first run wrote was rolled back; the second one's is there once."""
    caplog.set_level(logging.INFO, "django_dbpool.request")
    site.act, site.fail = write, fail
    response = get(path, client)
    assert (response.status_code, response.content) == (200, b"run 2")
    assert rows_of(observer, "app_item") == 1
    assert in_use(atomic) == 0
    (record,) = [record for record in caplog.records if record.name == "django_dbpool.request"]
    assert (record.levelno, vars(record)["attempt"]) == (logging.INFO, 1)
    assert vars(record)["error_type"] in ("ConnectionLost", "SerializationFailure", "DeadlockDetected")


def test_asynchronous_view(autocommit: str) -> None:
    site.act, site.fail = read, kill
    assert get("/asynchronous/", AsyncClient).content == b"run 2"
    assert get("/asynchronous/").content == b"run 3"


def test_reads_of_the_orm_are_no_reason_against_it(autocommit: str) -> None:
    site.act, site.fail = read, kill
    assert get("/once_more/").content == b"run 2"


def test_read_through_a_server_side_cursor(autocommit: str) -> None:
    site.act = lambda request, alias: list(Item.objects.using(alias).iterator())
    site.fail = kill
    assert get("/once_more/").content == b"run 2"


@pytest.mark.parametrize("act", [lambda request, alias: execute(alias, "SELECT 1"), write], ids=["read", "write"])
def test_what_may_run_twice_by_declaration(autocommit: str, observer: Observer, act: Act) -> None:
    site.act, site.fail = idempotent()(act), kill
    assert get("/once_more/").content == b"run 2"
    assert rows_of(observer, "app_item") == (2 if act is write else 0)


def test_own_transaction_that_is_rolled_back(autocommit: str, observer: Observer) -> None:
    def act(request: HttpRequest, alias: str) -> None:
        with transaction.atomic(alias):
            write(request, alias)
            if site.runs == 1:
                kill(request, alias)

    site.act = act
    assert get("/once_more/").content == b"run 2"
    assert rows_of(observer, "app_item") == 1


def test_commit_that_the_server_has_refused(atomic: str, observer: Observer) -> None:
    def act(request: HttpRequest, alias: str) -> None:
        write(request, alias)
        if site.runs == 1:
            execute(alias, "INSERT INTO fails_at_commit VALUES ('40001')")

    site.act = act
    assert get("/once_more/").content == b"run 2"
    assert rows_of(observer, "app_item") == 1


@pytest.mark.parametrize(("failures", "content"), [(3, b"run 4"), (4, None)])
def test_number_of_runs(atomic: str, failures: int, content: bytes | None) -> None:
    site.fail, site.failing_runs = raising("40001"), failures
    response = get("/often/")
    assert site.runs == 4
    assert (response.content if response.status_code == 200 else None) == content


def test_middleware_does_not_hear_of_the_first_run(autocommit: str) -> None:
    raised: list[BaseException] = []
    site.fail = kill
    raised_in_request.set(raised)
    try:
        assert once_more(RequestFactory().get("/")).content == b"run 2"
    finally:
        raised_in_request.set(None)
    assert raised == []


def test_attributes_of_the_request_are_those_of_its_begin(atomic: str) -> None:
    seen: list[dict[str, Any]] = []

    def act(request: HttpRequest, alias: str) -> None:
        seen.append(dict(vars(request)))
        request.total = 1  # type: ignore[attr-defined]
        request.method = "PATCH"
        assert request.body == b"abc"

    site.act, site.fail = act, kill
    response = Client().generic("GET", "/once_more/", b"abc")
    assert response.content == b"run 2"
    assert "total" not in seen[1]
    assert seen[1]["method"] == "GET"
    assert seen[1].keys() - seen[0].keys() <= {"_body", "_read_started"}


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_view_of_the_rest_framework(atomic: str, observer: Observer, client: type[Any]) -> None:
    views = pytest.importorskip("rest_framework.views", reason="Django REST framework is not installed")
    response = pytest.importorskip("rest_framework.response").Response

    @method_decorator(replayable, name="dispatch")
    class Items(views.APIView):  # type: ignore[name-defined]
        def get(self, request: Any) -> Any:
            return response({"answer": site.run(request._request).content.decode()})

    site.act, site.fail = write, kill
    urls = type("Urls", (), {"urlpatterns": [path("items/", Items.as_view())]})
    rest = {"UNAUTHENTICATED_USER": None, "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"]}
    with override_settings(ROOT_URLCONF=urls, REST_FRAMEWORK=rest):
        assert get("/items/", client).json() == {"answer": "run 2"}
    assert rows_of(observer, "app_item") == 1
