"""Responses of others that are replaced, and what passes through. No server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from django_dbpool import errors
from django_dbpool.errors import PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures import uncaught
from tests.fixtures.answers import REFUSAL, answer

pytestmark = pytest.mark.usefixtures("templates")


def test_replaced_response_keeps_what_is_not_about_its_body() -> None:
    closed: list[str] = []
    old = HttpResponse(b"x" * 5000, status=500, content_type="text/plain")
    old["Content-Encoding"], old["ETag"], old["X-Frame-Options"] = "gzip", '"1"', "DENY"
    old["Cache-Control"] = "max-age=600"
    old.set_cookie("seen", "yes")
    old._resource_closers.append(lambda: closed.append("file"))  # type: ignore[attr-defined]
    new = uncaught.replace(old, answer(PoolExhausted(REFUSAL)))
    assert (new["X-Frame-Options"], new["Cache-Control"], new.cookies["seen"].value) == ("DENY", "no-store", "yes")
    assert new["Content-Type"].startswith("text/html")
    assert new["Content-Length"] == str(len(new.content))
    assert not {"ETag", "Content-Encoding"} & set(new.headers)
    assert closed == []
    new.close()
    assert closed == ["file"]


class Saved:
    """A session's store, or some model."""

    def save(self) -> None:
        raise PoolExhausted(REFUSAL)


@pytest.mark.parametrize(("status", "same", "found"), [(400, True, True), (400, False, False), (200, True, False)])
def test_only_the_save_of_this_requests_session_explains_a_400(status: int, same: bool, found: bool) -> None:
    session = Saved()
    request = RequestFactory().get("/")
    request.session = session if same else Saved()  # type: ignore[assignment]
    with pytest.raises(PoolExhausted) as caught:
        session.save()
    error = uncaught.error_behind(request, HttpResponse(status=status), [ValueError(), caught.value])
    assert error is (caught.value if found else None)


# -- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_interrupts_pass_through(interrupt: type[BaseException]) -> None:
    def raising(request: HttpRequest) -> HttpResponse:
        raise interrupt

    async def araising(request: HttpRequest) -> HttpResponse:
        raise interrupt

    with pytest.raises(interrupt):
        DatabasePoolMiddleware(raising)(RequestFactory().get("/"))

    async def respond() -> None:
        with pytest.raises(interrupt):
            await DatabasePoolMiddleware(araising)(RequestFactory().get("/"))  # type: ignore[misc]

    asyncio.run(respond())


def test_nothing_of_a_failed_request_outlives_it() -> None:
    """The errors hold tracebacks, and those hold frames: neither the thread nor a long request may collect them."""
    collected: list[int] = []

    def handled(request: HttpRequest) -> HttpResponse:
        for _ in range(1000):
            PoolExhausted(REFUSAL)
        collected.append(len(errors.raised_in_request.get() or ()))
        return HttpResponse()

    def broken(request: HttpRequest) -> HttpResponse:
        raise PoolExhausted(REFUSAL)

    def mistaken(request: HttpRequest) -> HttpResponse:
        PoolExhausted(REFUSAL)
        raise ValueError

    for view in (handled, broken):
        middleware: Callable[[HttpRequest], Any] = DatabasePoolMiddleware(view)
        middleware(RequestFactory().get("/"))
        assert errors.raised_in_request.get() is None
    with pytest.raises(ValueError):
        DatabasePoolMiddleware(mistaken)(RequestFactory().get("/"))
    assert errors.raised_in_request.get() is None
    assert collected == [64]
