"""
Every failure in every place of a request: one answer. What the answer looks like in detail is in test_middleware.py.

A test asks six times: with DEBUG and without, the WSGI handler, the ASGI handler, and that one for a coroutine view.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError
from django.test import AsyncClient, Client, override_settings

from tests.app import failing
from tests.fixtures.failures import FAILURES, HELD, check
from tests.fixtures.pools import in_use

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.ci]

MakePool = Callable[..., str]
MakeFailing = Callable[[str], str]
Caplog = pytest.LogCaptureFixture


PLACES = [
    "middleware's request",
    "session load",
    "process_view",
    "decorator",
    "view",
    "user",
    "commit hook",
    "process_template_response",
    "template",
    "context processor",
    "error handler",
    "middleware's response",
    "session save",
]
AT_COMMIT = {
    **{code: code for code in ("57014", "55P03", "25006", "40001", "40P01", "53100")},
    "slow": "sleep",
    "lost commit": "die",
}
"""What a COMMIT can fail with: by then there is a connection. And what the trigger has to be told."""


def test_size() -> None:
    assert len(PLACES) + len(["commit of ATOMIC_REQUESTS", "stream"]) >= 12
    assert len(FAILURES) >= 9
    assert failing.FAILURES.keys() | failing.RAISED.keys() == FAILURES.keys()


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF="tests.app.failing",
        MIDDLEWARE=[
            "django_dbpool.middleware.DatabasePoolMiddleware",
            "django.middleware.common.CommonMiddleware",
            "tests.app.failing.OuterMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "tests.app.failing.FailingMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["tests.app.failing.context_processor"]},
            }
        ],
        SESSION_ENGINE="tests.app.failing",
        AUTHENTICATION_BACKENDS=["tests.app.failing.Users"],
        DATABASE_ROUTERS=[],
        ALLOWED_HOSTS=["testserver"],
    ):
        yield


def ask(kind: type[Any], path: str, failure: str, alias: str, place: str) -> Any:
    client = kind(raise_request_exception=False)
    client.cookies["sessionid"] = "a" * 32
    # In this thread, so that the tests' connections are the views'.
    get = async_to_sync(client.get) if kind is AsyncClient else client.get
    query = {"failure": failure, "alias": alias, "place": place}
    return get(path, query, headers={"Accept": "application/json"})


def ways(place: str) -> Iterator[tuple[bool, type[Any], str]]:
    for debug, (kind, path) in itertools.product(
        (False, True), ((Client, "/view/"), (AsyncClient, "/view/"), (AsyncClient, "/async/"))
    ):
        if place == "error handler" and debug:
            continue  # Django has a page of its own then
        yield debug, kind, path


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", PLACES)
def test_every_failure_in_every_place(failing_alias: MakeFailing, caplog: Caplog, place: str, failure: str) -> None:
    alias = failing_alias(failure)
    for debug, kind, path in ways(place):
        caplog.clear()
        with override_settings(DEBUG=debug):
            response = ask(kind, path, failure, alias, place)
        check(response, failure, alias, caplog)
        assert response["Access-Control-Allow-Origin"] == "https://shop.example"
        assert response.cookies["seen"].value == "yes"
        assert in_use(alias) == HELD.get(failure, 0)


@pytest.mark.parametrize("failure", AT_COMMIT)
def test_commit_of_atomic_requests(make_pool: MakePool, observer: Any, caplog: Caplog, failure: str) -> None:
    observer.execute(failing.RAISE)
    limit = {"command_timeout": 0.05} if failure == "slow" else {}
    alias = make_pool(ATOMIC_REQUESTS=True, POOL={"retry": False, **limit})
    for debug, kind in itertools.product((False, True), (Client, AsyncClient)):
        caplog.clear()
        with override_settings(DEBUG=debug):
            response = ask(kind, "/writing/", AT_COMMIT[failure], alias, "commit")
        check(response, failure, alias, caplog)
        assert response["Access-Control-Allow-Origin"] == "https://shop.example"
        assert response.cookies["seen"].value == "yes"
        assert observer.execute("SELECT count(*) FROM fails_at_commit").fetchone() == (0,)
        assert in_use(alias) == 0


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("failure", FAILURES)
def test_stream_that_has_begun(failing_alias: MakeFailing, caplog: Caplog, failure: str) -> None:
    """Of either kind, under either handler: it breaks off with the exception, and the log has it."""
    alias = failing_alias(failure)
    expected = FAILURES[failure]

    async def consume(path: str) -> None:
        response = await AsyncClient().get(path, {"failure": failure, "alias": alias})
        async for _ in response:
            pass

    for debug, kind, path in itertools.product((False, True), (Client, AsyncClient), ("/stream/", "/async-stream/")):
        caplog.clear()
        with override_settings(DEBUG=debug), pytest.raises(DatabaseError) as caught:
            if kind is AsyncClient:
                async_to_sync(consume)(path)
            else:
                response = Client().get(path, {"failure": failure, "alias": alias})
                try:
                    list(response)
                finally:
                    response.close()
        (record,) = [record for record in caplog.records if record.name == "django_dbpool.request"]
        found = vars(record)
        assert "was broken off" in record.getMessage()
        assert (found["streamed"], found["error_type"], found["levelno"]) == (True, expected.name, expected.level)
        assert expected.name in (type(caught.value).__name__, type(caught.value.__cause__).__name__)
        assert in_use(alias) == HELD.get(failure, 0)
