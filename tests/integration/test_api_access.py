"""Every role at every endpoint by every method."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.test import Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver, reverse

from django_dbpool.fleet import server
from django_dbpool.health import readiness
from testproject.postgres import Server
from tests.fixtures.api import (
    KNOWN,
    LET_IN,
    NON_ASCII,
    ROLES,
    SEE_STRANGERS,
    TOKEN,
    body,
    client_of,
    digest,
    publish,
    site,
)  # fmt: skip

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PROBES = ("health-live", "health-ready")
LISTS = (
    "pools", "processes", "holders", "operations", "batches", "batches-failures", "statements-slow",
    "statements-repeated", "alerts", "advice", "metrics", "openapi",
)  # fmt: skip
ALL = (*PROBES, *LISTS, "status")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
SAFE = ("GET", "HEAD")


@pytest.fixture(autouse=True)
def endpoints(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readiness, "TIMEOUT", 20.0)  # who may ask is the question, not how busy this machine is
    with site():
        yield


def url(name: str) -> str:
    return reverse(f"django_dbpool:{name}")


def expected(role: str, name: str, method: str) -> int:
    if name == "status" and method == "POST":
        return 415  # it takes a form, whoever sends it: see test_status_page.py
    if method not in SAFE:
        return 405
    if name in PROBES:
        return 200
    if name == "status":
        return 200 if role == "token" else 401
    if role in KNOWN:
        return 403
    return 200 if role in LET_IN else 401


def test_the_table_names_every_endpoint() -> None:
    patterns: list[Any] = get_resolver("django_dbpool.urls").url_patterns
    assert sorted(each.name for each in patterns) == sorted(ALL)
    assert url("health-live") == "/dbpool/health/live"
    assert url("statements-slow") == "/dbpool/statements/slow"


def test_head_has_the_length_and_no_body() -> None:
    """By itself: the test client, as some servers, drops a body that there is; gunicorn warns of it each time."""
    patterns: list[Any] = get_resolver("django_dbpool.urls").url_patterns
    for pattern in patterns:
        response = pattern.callback(RequestFactory(headers={"Authorization": f"Bearer {TOKEN}"}).head("/"))
        assert (response.status_code, response.content) == (200, b""), pattern.name
        assert int(response["Content-Length"]) > 10


def test_no_view_opens_a_transaction() -> None:
    """Whichever alias has ATOMIC_REQUESTS: with the database away, BEGIN would fail before the view is asked."""
    patterns: list[Any] = get_resolver("django_dbpool.urls").url_patterns
    for pattern in patterns:
        atomic = BaseHandler().make_view_atomic(pattern.callback)
        assert atomic is pattern.callback
        for alias in connections:
            assert alias in pattern.callback._non_atomic_requests, pattern.name


@pytest.mark.parametrize("role", ROLES)
def test_who_gets_what(role: str) -> None:
    client = client_of(role)
    found = {}
    for name in ALL:
        for method in METHODS:
            response = client.generic(method, url(name))
            found[name, method] = response.status_code
            assert_sealed(response, name)
            if response.status_code == 405:
                assert response["Allow"] == ("GET, HEAD, POST" if name == "status" else "GET, HEAD")
            if response.status_code == 401:
                assert response["WWW-Authenticate"] == 'Bearer realm="django_dbpool"'
            if method == "HEAD":
                assert response.content == b""
    assert found == {(name, method): expected(role, name, method) for name in ALL for method in METHODS}


def assert_sealed(response: Any, name: str) -> None:
    assert {"no-store", "private"} <= set(response["Cache-Control"].split(", ")), name
    assert response["X-Frame-Options"] == "DENY"
    policy = response["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy, name
    assert "unsafe" not in policy and "script-src" not in policy
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "no-referrer"
    assert response["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in response
    assert not response.cookies, "nobody is given one"


@pytest.mark.parametrize("role", [role for role in ROLES if role not in LET_IN])
def test_who_may_not_is_told_nothing(role: str) -> None:
    publish()
    client = client_of(role)
    for name in LISTS:
        response = client.get(url(name), {"unknown": "parameter"})
        title = "Forbidden" if role in KNOWN else "Unauthorized"
        assert body(response) == {"type": "about:blank", "title": title, "status": response.status_code}
    assert body(client.get(url("health-live"))) == {"status": "ok"}
    assert body(client.get(url("health-ready"))) == {"status": "ready"}


@pytest.mark.parametrize("role", LET_IN)
def test_who_may_sees_details(role: str) -> None:
    publish()
    client = client_of(role)
    assert body(client.get(url("pools")))["databases"][0]["alias"] == "default"
    assert body(client.get(url("holders")))["items"][0]["sql"] == "SELECT %s"
    assert {each["alias"] for each in body(client.get(url("health-ready")))["databases"]} >= {"default"}
    assert ("pid" in body(client.get(url("health-live")))) is (role == "token"), "a session would be a query"


@pytest.fixture
def strangers(session_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions that nobody knows of, more than an alert lets pass; no time is given to those who might know."""
    monkeypatch.setattr(server, "SETTLED", 0.0)
    with ExitStack() as stack:
        for _ in range(7):
            name = connections["default"].settings_dict["NAME"]
            stack.enter_context(session_server.connect(dbname=name, application_name="observer"))
        yield


@pytest.mark.parametrize("role", LET_IN)
@pytest.mark.usefixtures("strangers")
def test_strangers_are_for_those_who_may_see_them(role: str) -> None:
    publish(pools=[])
    publish("b" * 16)
    client = client_of(role)
    found = body(client.get(url("holders"), {"servers": "true"}))["strangers"]
    told = client.get(url("pools"), {"servers": "true"}).content
    if role in SEE_STRANGERS:
        assert [each["application_name"] for each in found].count("observer") >= 7
        assert b"observer" in told, "it is a problem, too"
    else:
        assert found is None
        assert b"observer" not in told + client.get(url("holders"), {"servers": "true"}).content
    assert body(client.get(url("holders")))["strangers"] is None, "no server was asked"


def test_whether_there_are_tokens_is_not_to_be_told_from_the_answers() -> None:
    for path in map(url, ("pools", "status", "health-live")):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}):
            answers = []
            for tokens in ([], [digest(TOKEN)]):
                with site(TOKENS=tokens):
                    response = Client(headers=headers).get(path)
                    content = re.sub(rb'"(pid|timestamp)":[^,]*', b"", response.content)
                    answers.append((response.status_code, content, dict(response.headers) | {"Expires": ""}))
            assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"BEARER  {TOKEN} ", 200),
        (f"Bearer {NON_ASCII}".encode().decode("latin-1"), 200),  # as a server hands it over
        (f"Bearer {NON_ASCII}", 401),
        ("Bearer schl\xfcssel-\ud800", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN.lower()}", 401),
        (f"Bearer {digest(TOKEN)}", 401),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", 401),
        (f"Bearer {TOKEN}\0", 401),
        (f"Bearer\t{TOKEN}", 401),
        (f"Bearer{TOKEN}", 401),
        (f"Token {TOKEN}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("", 401),
        ("Bearer " + "x" * 1_000_000, 401),
        ("Bearer " + TOKEN + " " * 1_000_000, 200),
        ("Bearer " + TOKEN + "x" * 1_000_000, 401),
        ("x" * 1_000_000, 401),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, str) else str(value),
)
def test_headers(header: str, status: int) -> None:
    response = Client().get(url("processes"), HTTP_AUTHORIZATION=header)
    assert response.status_code == status


@pytest.mark.parametrize("name", ["token", "access_token", "bearer", "authorization", "Authorization"])
def test_a_token_in_the_url_is_none(name: str) -> None:
    assert Client().get(url("processes"), {name: TOKEN}).status_code == 401
    assert Client().get(url("status"), {name: TOKEN}).status_code == 401
    refused = client_of("token").get(url("processes"), {name: TOKEN})
    assert refused.status_code == 400 and TOKEN not in refused.content.decode()


def test_another_scheme_leaves_the_session_as_it_is() -> None:
    """A proxy in front may have a password of its own."""
    client = client_of("superuser")
    assert client.get(url("pools"), headers={"Authorization": "Basic YTpi"}).status_code == 200
    assert client.get(url("pools"), headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401


def test_a_token_needs_no_query_and_no_session() -> None:
    client = client_of("token")
    for name in ("health-live", "openapi", "status"):
        with CaptureQueriesContext(connections["default"]) as queries:
            response = client.get(url(name))
        assert (response.status_code, len(queries)) == (200, 0), name
        assert not response.wsgi_request.session.accessed, name
    with CaptureQueriesContext(connections["default"]) as queries:
        client.get(url("pools"))
    sql = [each["sql"] for each in queries]
    assert not [each for each in sql if "auth_user" in each or "permission" in each], sql


def test_a_change_of_permissions_counts_at_once() -> None:
    client = client_of("viewer")
    assert client.get(url("pools")).status_code == 200
    User.objects.get(username="viewer").user_permissions.clear()
    assert client.get(url("pools")).status_code == 403


@pytest.mark.parametrize("role", ["token", "superuser"])
def test_no_cache_of_the_project_keeps_an_answer(role: str) -> None:
    """A project that caches all its pages would give this one to the next visitor."""
    from django.conf import settings

    middleware = [
        "django.middleware.cache.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    caches = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": role}}
    with override_settings(MIDDLEWARE=middleware, CACHES=caches):
        client = client_of(role)
        for name in ("pools", "health-ready", "metrics"):
            assert client.get(url(name)).status_code == 200
            assert Client().get(url(name)).content != client.get(url(name)).content


def test_without_sessions_and_users_only_tokens_are_known() -> None:
    with override_settings(MIDDLEWARE=[]):
        assert Client().get(url("pools")).status_code == 401
        assert client_of("token").get(url("pools")).status_code == 200
        assert body(Client().get(url("health-ready"))) == {"status": "ready"}


def test_settings_with_faults_are_no_error_of_a_probe(caplog: pytest.LogCaptureFixture) -> None:
    """It is to say yes or no, whoever asks; what is wrong is in the log."""
    for wrong in ({"READINESS": {"aliases": ["nowhere"]}}, {"TOKENS": "secret"}):
        for role in ("anonymous", "token"):
            with site(**wrong):
                client = client_of(role)
                assert body(client.get(url("health-live")))["status"] == "ok"
                ready = client.get(url("health-ready"))
                assert (ready.status_code, body(ready)) == (503, {"status": "not_ready"})
    assert "READINESS: aliases names 'nowhere'" in caplog.text
    assert "secret" not in caplog.text
