"""Django REST framework: its exception handler passes on what it doesn't know, after its own rollback."""

# The library has no types.
# mypy: disable-error-code=misc

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from tests.app import failing
from tests.fixtures.failures import FAILURES, HELD, check
from tests.fixtures.pools import hold, in_use
from tests.fixtures.workers import Worker

pytest.importorskip("rest_framework", reason="Django REST framework is not installed")

from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.response import Response
from rest_framework.serializers import CharField, Serializer
from rest_framework.views import APIView

pytestmark = pytest.mark.django_db(transaction=True)


class Authentication(BaseAuthentication):
    def authenticate(self, request: Any) -> None:
        failing.fail_at("authentication", request)


class Permission(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        failing.fail_at("permission", request)
        return True


class ItemSerializer(Serializer):
    name = CharField()

    def to_representation(self, instance: Any) -> Any:
        failing.fail_at("serializer", self.context["request"])
        return super().to_representation(instance)


class View(APIView):
    authentication_classes = (Authentication,)
    permission_classes = (Permission,)

    def get(self, request: Any) -> Response:
        failing.fail_at("view", request)
        return Response(ItemSerializer({"name": "a"}, context={"request": request}).data)


urlpatterns = [path("items/", View.as_view())]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django_dbpool.middleware.DatabasePoolMiddleware"],
        REST_FRAMEWORK={
            "UNAUTHENTICATED_USER": None,
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        },
    ):
        yield


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("place", ["authentication", "permission", "serializer", "view"])
def test_problem(make_pool: Callable[..., str], worker: Worker, place: str, debug: bool, atomic: bool) -> None:
    alias = make_pool(POOL={"timeout": 0.3}, ATOMIC_REQUESTS=atomic)
    worker(hold, alias)
    client = Client(raise_request_exception=False, headers={"Accept": "application/json"})
    query = {"place": place, "failure": "exhausted", "alias": alias}
    with override_settings(DEBUG=debug):
        response: Any = client.get("/items/", query)
        assert response.status_code == 503
        assert int(response["Retry-After"]) >= 1
        assert json.loads(response.content)["type"].endswith(":busy")
        assert in_use(alias) == 1
        worker(transaction.rollback, alias)
        assert client.get("/items/", {**query, "place": "nowhere"}).json() == {"name": "a"}


@pytest.mark.ci
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", ["authentication", "permission", "serializer", "view"])
@pytest.mark.parametrize("atomic", [False, True])
def test_every_failure_in_every_place(
    failing_alias: Callable[..., str], caplog: pytest.LogCaptureFixture, atomic: bool, place: str, failure: str
) -> None:
    if atomic and failure == "lost write":
        pytest.skip("that is a statement outside of a transaction")
    alias = failing_alias(failure, ATOMIC_REQUESTS=atomic)
    query = {"place": place, "failure": failure, "alias": alias}
    for debug, kind in itertools.product((False, True), (Client, AsyncClient)):
        caplog.clear()
        client = kind(raise_request_exception=False)
        get = async_to_sync(client.get) if isinstance(client, AsyncClient) else client.get
        with override_settings(DEBUG=debug):
            response = get("/items/", query, headers={"Accept": "application/json"})
        check(response, failure, alias, caplog)
        assert in_use(alias) == HELD.get(failure, 0)
