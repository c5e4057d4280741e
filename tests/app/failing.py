"""A site that fails where and how the query string says: ``?place=view&failure=exhausted&alias=extra1``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import wraps
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import BACKEND_SESSION_KEY, SESSION_KEY
from django.contrib.auth.decorators import login_required
from django.contrib.sessions.backends import db
from django.db import connections, transaction
from django.db.models.base import ModelState
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.urls import path
from django.utils.deprecation import MiddlewareMixin

from django_dbpool import errors
from django_dbpool.core.errors import Refusal

# Installed by the tests. DO would do as well, but it pins the connection.
RAISE = """
    CREATE OR REPLACE FUNCTION raise_for_test(code text) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'made for a test' USING ERRCODE = code; END $$;
    CREATE OR REPLACE FUNCTION raise_at_commit() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        IF NEW.code = 'die' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
        IF NEW.code = 'sleep' THEN PERFORM pg_sleep(60); END IF;
        PERFORM raise_for_test(NEW.code);
    END $$;
    CREATE TABLE IF NOT EXISTS fails_at_commit (code text);
    DROP TRIGGER IF EXISTS fails_at_commit ON fails_at_commit;
    CREATE CONSTRAINT TRIGGER fails_at_commit AFTER INSERT ON fails_at_commit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise_at_commit();
"""


def raising(code: str) -> str:
    return f"SELECT raise_for_test('{code}')"


# What to execute in a transaction; where the connection itself is the failure, any statement will do.
FAILURES = {
    "exhausted": "SELECT 1",
    "down": "SELECT 1",
    "full": "SELECT 1",
    "open": "SELECT 1",
    "slow": "SELECT pg_sleep(60)",
    "57014": "SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(60)",
    "55P03": "SET LOCAL lock_timeout = '20ms'; SELECT pg_advisory_xact_lock(4711)",
    "25006": "SET TRANSACTION READ ONLY; CREATE TABLE not_made ()",
    "40001": raising("40001"),
    "40P01": raising("40P01"),
    "53100": raising("53100"),
    "57P01": "SELECT pg_terminate_backend(pg_backend_pid())",
    "lost write": "INSERT INTO fails_at_commit SELECT '' FROM pg_terminate_backend(pg_backend_pid())",
    "lost commit": "INSERT INTO fails_at_commit VALUES ('die')",
}
RAISED = ("PoolOverloaded", "ShuttingDown")
"""Failures of the pool's own state, which other tests bring about; here an error is like the other."""

REFUSAL = Refusal("extra", waited=0.5, in_use=1, max_size=1, waiting=7)
MISTAKES = {"42P01": "SELECT * FROM no_such_table", "23505": raising("23505"), "08P01": raising("08P01")}


def fail(request: HttpRequest) -> None:
    alias, failure = request.GET["alias"], request.GET["failure"]
    if failure in RAISED:
        raise getattr(errors, failure)(REFUSAL)
    with ExitStack() as stack:
        if failure != "lost write":  # outside of a transaction
            stack.enter_context(transaction.atomic(using=alias))
        stack.enter_context(connections[alias].cursor()).execute({**FAILURES, **MISTAKES}[failure])


def fail_at(place: str, request: HttpRequest) -> None:
    if request.GET.get("place") == place:
        fail(request)


asked: list[HttpRequest] = []
"""The request that is being answered, for those who aren't told."""


class SavedSession:
    _state = ModelState()

    def save(self, **kwargs: Any) -> None:
        fail_at("session save", asked[0])


class SessionStore(db.SessionStore):
    """Of a visitor whom the backend below knows; has no table, and saves nothing."""

    model = SavedSession  # type: ignore[assignment]

    def load(self) -> dict[str, Any]:
        fail_at("session load", asked[0])
        return {SESSION_KEY: "1", BACKEND_SESSION_KEY: f"{__name__}.Users"}

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        return SavedSession()


class Users:
    """Of django.contrib.auth."""

    def get_user(self, user_id: int) -> None:
        fail_at("user", asked[0])


class FailingMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        fail_at("middleware's request", request)
        if request.GET.get("place") == "session load":
            request.session.get("visits")

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        fail_at("middleware's response", request)
        return response

    def process_view(self, request: HttpRequest, *args: object) -> None:
        fail_at("process_view", request)

    def process_template_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        fail_at("process_template_response", request)
        return response


class OuterMiddleware(MiddlewareMixin):
    """Adds to every response what an API's browser clients need to be allowed to read it."""

    def process_request(self, request: HttpRequest) -> None:
        asked[:] = [request]

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response["Access-Control-Allow-Origin"] = "https://shop.example"
        response.set_cookie("seen", "yes")
        return response


def context_processor(request: HttpRequest) -> dict[str, Any]:
    fail_at("context processor", request)
    return {}


def template(source: str) -> Any:
    return engines["django"].from_string(source)


def guarded(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    @wraps(view)
    def wrapper(request: HttpRequest) -> HttpResponse:
        fail_at("decorator", request)
        return view(request)

    return wrapper


@guarded
def view(request: HttpRequest) -> HttpResponse:
    fail_at("view", request)
    if request.GET["place"] == "user":
        assert not request.user.is_authenticated
    if request.GET["place"] == "session save":
        request.session["visits"] = 1
    if request.GET["place"] == "commit hook":
        with transaction.atomic(using=request.GET["alias"]):
            transaction.on_commit(lambda: fail(request), using=request.GET["alias"])
    if request.GET["place"] == "error handler":
        raise Http404
    return TemplateResponse(
        request, template("{{ fail|default:'ok' }}"), {"fail": lambda: fail_at("template", request)}
    )


async def async_view(request: HttpRequest) -> HttpResponse:
    """As the other one, with two branches at the same time."""
    if request.GET["place"] == "task group":
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(sync_to_async(fail)(request))
    return await sync_to_async(view)(request)


def writing(request: HttpRequest) -> HttpResponse:
    """Goes well until ATOMIC_REQUESTS commits."""
    with connections[request.GET["alias"]].cursor() as cursor:
        cursor.execute("INSERT INTO fails_at_commit VALUES (%s)", [request.GET["failure"]])
    return HttpResponse("ok")


@login_required
def private(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


meanwhile: list[Callable[[], object]] = []
"""What happens in the rest of the world while the view with the session runs."""


def with_session(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    for happens in meanwhile:
        happens()
    return HttpResponse("ok")


def handled(request: HttpRequest) -> HttpResponse:
    """Lives with the failure, then answers with an error of its own."""
    try:
        fail(request)
    except Exception:  # the test says which
        return HttpResponse("not from here", status=400)
    raise AssertionError


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "first,"
        fail(request)
        yield "last"

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "first,"
        await sync_to_async(fail)(request)
        yield "last"

    return StreamingHttpResponse(parts())


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    fail_at("error handler", request)
    return HttpResponse("nothing here", status=404)


def handler500(request: HttpRequest) -> HttpResponse:
    fail_at("broken error handler", request)
    return HttpResponse("a mistake of ours", status=500)


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


urlpatterns = [
    path("view/", view),
    path("async/", async_view),
    path("writing/", writing),
    path("private/", private),
    path("session/", with_session),
    path("handled/", handled),
    path("stream/", stream),
    path("async-stream/", async_stream),
    path("broken/", broken),
]
