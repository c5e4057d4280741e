"""503 with Retry-After, wherever in a request the database fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.models import Session
from django.db import connections
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient, Client, override_settings

from django_dbpool.middleware import DatabasePoolMiddleware
from tests.app import failing
from tests.fixtures.aliases import Everything
from tests.fixtures.pools import execute, hold, in_use
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
MakeFailing = Callable[[str], str]
Get = Callable[..., Any]
Caplog = pytest.LogCaptureFixture

OURS = "django_dbpool.middleware.DatabasePoolMiddleware"
FAILING = "tests.app.failing.FailingMiddleware"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["tests.app.failing.context_processor"]},
    }
]
KINDS = {
    "exhausted": ("busy", logging.WARNING, "PoolExhausted"),
    "down": ("unavailable", logging.ERROR, "DatabaseUnavailable"),
    "57014": ("timeout", logging.WARNING, "QueryCanceled"),
    "55P03": ("timeout", logging.WARNING, "LockNotAvailable"),
    "25006": ("read-only", logging.ERROR, "ReadOnlySqlTransaction"),
    "40001": ("conflict", logging.WARNING, "SerializationFailure"),
    "40P01": ("conflict", logging.WARNING, "DeadlockDetected"),
    "53100": ("unavailable", logging.ERROR, "DiskFull"),
    "57P01": ("interrupted", logging.WARNING, "ConnectionLost"),
}
PLACES = [
    "view",
    "template",
    "context processor",
    "middleware's request",
    "middleware's response",
    "process_view",
    "process_template_response",
    "commit hook",
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF="tests.app.failing",
        MIDDLEWARE=[OURS, "django.middleware.common.CommonMiddleware", "tests.app.failing.OuterMiddleware", FAILING],
        TEMPLATES=TEMPLATES,
        ALLOWED_HOSTS=["testserver"],
    ):
        yield


@pytest.fixture(params=[False, True], ids=["", "DEBUG"])
def debug(request: pytest.FixtureRequest) -> Iterator[bool]:
    with override_settings(DEBUG=request.param):
        yield request.param


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Get:
    """GET from the WSGI or the ASGI handler; exceptions have become responses, as with a server."""
    if request.param == "sync":
        return Client(raise_request_exception=False).get
    # In this thread, so that the tests' connections are the views'.
    return async_to_sync(AsyncClient(raise_request_exception=False).get)


def records(caplog: Caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "django_dbpool.request"]


def check(response: Any, failure: str, alias: str, caplog: Caplog) -> logging.LogRecord:
    """A complete answer that tells nothing, and one line in the log that tells all. Returns the line."""
    slug, level, name = KINDS[failure]
    assert response.status_code == 503
    assert int(response["Retry-After"]) >= 1
    assert response["Cache-Control"] == "no-store"
    reference = response["Error-Reference"]
    text = response.content.decode()
    assert f"<code>{reference}</code>" in text
    for internal in (alias, "127.0.0.1", "psycopg", "SELECT", "worker-1", "Traceback", "postgres", "timeout_"):
        assert internal not in text
        assert internal not in str(response.headers)
    (record,) = records(caplog)
    found = vars(record)
    assert (found["levelno"], found["error_type"], found["reference"]) == (level, name, reference)
    assert reference in record.getMessage()
    assert found["sqlstate"] == (failure if failure.isupper() or failure.isdigit() else None)
    assert slug
    return record


# -- places and failures ---------------------------------------------------------------------------------------------


def ask(get: Get, path: str, failure: str, alias: str, **more: str) -> Any:
    return get(path, {"failure": failure, "alias": alias, **more})


@pytest.mark.parametrize("place", PLACES)
def test_every_place(get: Get, debug: bool, failing_alias: MakeFailing, caplog: Caplog, place: str) -> None:
    """Also what the middleware around the place has added to the response is there."""
    alias = failing_alias("exhausted")
    response = ask(get, "/view/", "exhausted", alias, place=place)
    record = vars(check(response, "exhausted", alias, caplog))
    assert response["Access-Control-Allow-Origin"] == "https://shop.example"
    assert response.cookies["seen"].value == "yes"
    assert int(response["Content-Length"]) == len(response.content)
    assert (record["alias"], record["in_use"], record["max_size"]) == (alias, 1, 1)
    assert record["waited"] >= 0.05
    assert len(record["holders"]) == 1
    assert record["route"] == (None if place == "middleware's request" else "view/")
    # What Django has caught itself in another middleware is in its log already when we learn of it.
    django = [record for record in caplog.records if record.name == "django.request"]
    assert len(django) == (0 if place in ("view", "template", "context processor", "commit hook") else 1)


@pytest.mark.parametrize("failure", KINDS)
def test_every_failure(get: Get, failing_alias: MakeFailing, caplog: Caplog, failure: str) -> None:
    alias = failing_alias(failure)
    response = ask(get, "/view/", failure, alias, place="view")
    check(response, failure, alias, caplog)
    assert in_use(alias) == (1 if failure == "exhausted" else 0)


@pytest.mark.parametrize("place", ["view", "middleware's request"])
@pytest.mark.parametrize("method", ["head", "options"])
def test_methods_without_a_page(
    failing_alias: MakeFailing, monkeypatch: pytest.MonkeyPatch, place: str, method: str
) -> None:
    """HEAD has the headers of GET and no body; OPTIONS fails as the view does."""
    monkeypatch.setattr(DatabasePoolMiddleware, "random", lambda self: 0.0)  # the page tells the seconds
    query = {"place": place, "failure": "exhausted", "alias": failing_alias("exhausted")}
    client = Client(raise_request_exception=False)
    full = client.get("/view/", query)
    response = getattr(client, method)("/view/", query_params=query)
    assert response.status_code == 503
    assert set(response.headers) == set(full.headers)
    assert response["Content-Length"] == full["Content-Length"]
    assert (response.content == b"") == (method == "head")


@pytest.mark.parametrize("mistake", failing.MISTAKES)
@pytest.mark.parametrize("place", ["view", "middleware's request"])
def test_mistakes_are_left_to_django(
    get: Get, failing_alias: MakeFailing, caplog: Caplog, place: str, mistake: str
) -> None:
    response = ask(get, "/view/", mistake, failing_alias(mistake), place=place)
    assert (response.status_code, response.content) == (500, b"a mistake of ours")
    assert "Error-Reference" not in response
    assert records(caplog) == []


def test_nothing_is_added_to_what_goes_well(get: Get, make_pool: MakePool, caplog: Caplog) -> None:
    response = ask(get, "/view/", "-", make_pool(), place="nowhere")
    assert (response.status_code, response.content) == (200, b"ok")
    assert not {"Retry-After", "Error-Reference", "Cache-Control"} & set(response.headers)
    assert get("/broken/").status_code == 500
    assert records(caplog) == []


# -- commit, error handlers, groups ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["40001", "53100"])
def test_commit_of_atomic_requests(make_pool: MakePool, observer: Any, caplog: Caplog, debug: bool, code: str) -> None:
    observer.execute(failing.RAISE)
    alias = make_pool(ATOMIC_REQUESTS=True)
    response = ask(Client(raise_request_exception=False).get, "/writing/", code, alias)
    check(response, code, alias, caplog)
    assert observer.execute("SELECT count(*) FROM fails_at_commit").fetchone() == (0,)


def test_error_handler_that_needs_the_database(get: Get, failing_alias: MakeFailing, caplog: Caplog) -> None:
    alias = failing_alias("exhausted")
    check(ask(get, "/view/", "exhausted", alias, place="error handler"), "exhausted", alias, caplog)


@pytest.mark.parametrize("failure", ["exhausted", "40001"])
def test_handler_of_500_that_fails_as_well(get: Get, failing_alias: MakeFailing, caplog: Caplog, failure: str) -> None:
    """Django gives up then: the exception comes out of every middleware."""
    alias = failing_alias(failure)
    check(ask(get, "/broken/", failure, alias, place="broken error handler"), failure, alias, caplog)


def test_handler_of_500_that_fails_for_another_reason() -> None:
    with override_settings(ROOT_URLCONF="tests.app.failing"), pytest.raises(KeyError):
        Client(raise_request_exception=False).get("/broken/", {"place": "broken error handler"})


def test_group_of_tasks(failing_alias: MakeFailing, caplog: Caplog) -> None:
    """Both branches of an asynchronous view fail at the same time."""
    alias = failing_alias("exhausted")
    get = async_to_sync(AsyncClient(raise_request_exception=False).get)
    check(ask(get, "/async/", "exhausted", alias, place="task group"), "exhausted", alias, caplog)


@pytest.mark.parametrize("place", ["view", "template"])
def test_asynchronous_view(failing_alias: MakeFailing, caplog: Caplog, place: str) -> None:
    alias = failing_alias("exhausted")
    get = async_to_sync(AsyncClient(raise_request_exception=False).get)
    check(ask(get, "/async/", "exhausted", alias, place=place), "exhausted", alias, caplog)


def test_failure_that_the_view_has_handled_is_its_own(get: Get, failing_alias: MakeFailing, caplog: Caplog) -> None:
    response = ask(get, "/handled/", "exhausted", failing_alias("exhausted"))
    assert (response.status_code, response.content) == (400, b"not from here")
    assert records(caplog) == []


def test_good_path_needs_no_thread(make_pool: MakePool) -> None:
    """Between asynchronous neighbours nothing of the middleware runs elsewhere."""

    async def inner(request: Any) -> HttpResponseBase:
        return HttpResponse("ok")

    async def respond() -> Any:
        def refuse(*_: Any) -> NoReturn:
            raise AssertionError("something was given to a thread")

        asyncio.get_running_loop().run_in_executor = refuse  # type: ignore[assignment,method-assign]
        return await DatabasePoolMiddleware(inner)(None)  # type: ignore[arg-type,misc]

    assert asyncio.run(respond()).content == b"ok"


# -- sessions and users ----------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(make_pool: MakePool, settings: Any) -> Iterator[str]:
    """An alias, one connection wide, on which sessions and users live; its name."""
    settings.MIDDLEWARE = [
        OURS,
        "tests.app.failing.OuterMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ]
    alias = Everything.alias = make_pool(POOL={"timeout": 0.3})
    settings.DATABASE_ROUTERS = [Everything()]
    yield alias
    failing.meanwhile.clear()
    connections[alias].close_pool()
    Session.objects.using(alias).all().delete()


def new_session() -> str:
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session["_auth_user_id"] = "1"
    session.create()
    return str(session.session_key)


@pytest.fixture
def visitor(request: pytest.FixtureRequest, sessions: str) -> Get:
    """GET with the cookie of a session that exists."""
    client = Client(raise_request_exception=False)
    client.cookies["sessionid"] = new_session()
    return client.get


@pytest.mark.parametrize("path", ["/session/", "/private/"])
def test_session_and_user_that_cannot_be_loaded(
    visitor: Get, sessions: str, debug: bool, worker: Worker, caplog: Caplog, path: str
) -> None:
    worker(hold, sessions)
    check(visitor(path), "exhausted", sessions, caplog)


def test_session_that_cannot_be_saved(visitor: Get, sessions: str, debug: bool, worker: Worker, caplog: Caplog) -> None:
    """Django itself answers 400, as if the visitor had logged out meanwhile."""
    failing.meanwhile.append(lambda: worker(hold, sessions))
    response = visitor("/session/")
    check(response, "exhausted", sessions, caplog)
    assert response["Access-Control-Allow-Origin"] == "https://shop.example"


def test_session_that_was_deleted_is_left_to_django(visitor: Get, sessions: str, caplog: Caplog) -> None:
    failing.meanwhile.append(lambda: execute(sessions, "DELETE FROM django_session"))
    assert visitor("/session/").status_code == 400
    assert records(caplog) == []


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("failure", ["exhausted", "57014", "42P01"])
@pytest.mark.parametrize("path", ["/stream/", "/async-stream/"])
def test_stream_that_has_begun_breaks_off_and_is_logged(
    failing_alias: MakeFailing, caplog: Caplog, path: str, failure: str
) -> None:
    """It ends with the exception, so that no client takes a part for the whole; the server closes the connection."""
    alias = failing_alias(failure)
    received = []

    async def consume() -> None:
        response = await AsyncClient().get(path, {"failure": failure, "alias": alias})
        assert response.status_code == 200
        async for part in response:
            received.append(part)

    if path == "/stream/":
        response = Client().get(path, {"failure": failure, "alias": alias})
        parts = iter(response)
        assert next(parts) == b"first,"
        with pytest.raises(Exception, match=r"no_such_table|statement timeout|No connection"):
            next(parts)
        response.close()
    else:
        with pytest.raises(Exception, match=r"no_such_table|statement timeout|No connection"):
            async_to_sync(consume)()
        assert received == [b"first,"]
    if failure == "42P01":
        assert records(caplog) == []
    else:
        (record,) = records(caplog)
        assert "was broken off" in record.getMessage()
        assert (vars(record)["streamed"], vars(record)["error_type"]) == (True, KINDS[failure][2])
