"""The answer 503 by itself: which errors, which form, which language, what is and what is not in it. No server."""

from __future__ import annotations

import asyncio
import gettext
import json
import logging
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.utils import translation
from django.utils.log import log_response
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors as driver
from psycopg_pool import PoolTimeout

from django_dbpool import errors
from django_dbpool.core import sqlstate
from django_dbpool.core.errors import Refusal
from django_dbpool.errors import DatabaseUnavailable, PoolError, PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures import failure, uncaught
from django_dbpool.middleware.failures.answer import _spread
from django_dbpool.middleware.failures.failure import Kind, failure_of
from django_dbpool.middleware.failures.report import _NUMBERS

REFUSAL = Refusal("main", waited=2.0, in_use=4, max_size=4, waiting=7)
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
KINDS = {kind.slug: kind for kind in vars(failure).values() if isinstance(kind, Kind)}


def answer(error: Exception, method: str = "get", *, random: float = 0.0, **headers: str) -> HttpResponse:
    """What the middleware makes of an error that a view has raised."""
    middleware = DatabasePoolMiddleware(lambda request: HttpResponse())
    middleware.random = lambda: random  # type: ignore[method-assign]
    request = getattr(RequestFactory(), method)("/reports/7/?name=secret", headers=headers)
    response = middleware.process_exception(request, error)
    assert response is not None
    return response


def of_driver(cause: BaseException, kind: type[DatabaseError] = OperationalError) -> DatabaseError:
    """As Django wraps an error of its driver."""
    error = kind(*cause.args)
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def templates() -> Iterator[None]:
    backend = {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}
    with override_settings(TEMPLATES=[backend]):
        yield


# -- which errors ----------------------------------------------------------------------------------------------------

DRIVER_ERRORS = sorted(
    {
        error
        for error in vars(driver).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    },
    key=lambda error: str(error.sqlstate),
)


@pytest.mark.parametrize("error", DRIVER_ERRORS, ids=lambda error: str(error.sqlstate))
def test_errors_of_the_server_by_their_code(error: type[psycopg.Error]) -> None:
    found = failure_of(of_driver(error("..."), DatabaseError))
    assert (found is not None) == sqlstate.is_unavailable_answer(error.sqlstate)
    assert found is None or (found.name, found.sqlstate) == (error.__name__, error.sqlstate)


@pytest.mark.parametrize(
    ("cause", "slug", "terminated"),
    [
        (psycopg.OperationalError("connection failed: connection refused"), "unavailable", False),
        (psycopg.OperationalError("failed: FATAL:  sorry, too many clients already"), "busy", False),
        (psycopg.OperationalError("consuming input failed: server closed the connection"), "interrupted", True),
        (psycopg.OperationalError("the connection is closed"), "interrupted", True),
        (driver.ConnectionTimeout("connection timeout expired"), "unavailable", False),
        (driver.AdminShutdown("terminating connection"), "interrupted", True),
        (driver.IdleInTransactionSessionTimeout("..."), "timeout", True),
        (driver.CannotConnectNow("..."), "unavailable", False),
        (driver.TooManyConnections("..."), "busy", False),
        (PoolTimeout("couldn't get a connection after 10.00 sec"), "busy", False),
    ],
    ids=repr,
)
def test_kinds(cause: Exception, slug: str, terminated: bool) -> None:
    found = failure_of(of_driver(cause))
    assert found is not None
    assert (found.kind.slug, found.connection_terminated) == (slug, terminated)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no database at all"),
        psycopg.OperationalError("not raised by Django"),
        OperationalError("without a cause"),
        of_driver(sqlite3.OperationalError("no such table: item")),
        of_driver(psycopg.InternalError("not of the connection"), DatabaseError),
    ],
    ids=repr,
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert failure_of(error) is None
    middleware = DatabasePoolMiddleware(lambda request: HttpResponse())
    assert middleware.process_exception(RequestFactory().get("/"), error) is None


def test_every_public_error_has_a_kind_of_its_own() -> None:
    for name in errors.__all__:
        if issubclass(getattr(errors, name), PoolError):
            assert name in failure._BY_CLASS


def test_derived_errors_and_their_attributes() -> None:
    """Errors yet to come: the nearest known class counts, and what they know of the outcome."""

    class PoolOverloaded(PoolExhausted):
        retry_after = 7.0

    class CommitUnknown(PoolError):
        pass

    overloaded, lost = failure_of(PoolOverloaded(REFUSAL)), failure_of(CommitUnknown(REFUSAL))
    assert overloaded is not None and lost is not None
    assert (overloaded.kind, overloaded.retry_after, overloaded.maybe_committed) == (failure.BUSY, 7.0, False)
    assert (lost.kind, lost.maybe_committed) == (failure.OUTCOME_UNKNOWN, True)
    written = DatabaseUnavailable(REFUSAL)
    written.maybe_committed = True  # type: ignore[attr-defined]
    found = failure_of(written)
    assert found is not None
    assert found.kind is failure.OUTCOME_UNKNOWN


def test_groups_are_failures_if_all_in_them_are() -> None:
    failures, mistakes = [PoolExhausted(REFUSAL), PoolExhausted(REFUSAL)], [PoolExhausted(REFUSAL), ValueError()]
    found = failure_of(ExceptionGroup("", [failures[0], ExceptionGroup("", failures[1:])]))
    assert found is not None
    assert found.error is failures[0]
    assert failure_of(ExceptionGroup("", mistakes)) is None


# -- the form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_json"),
    [
        ({}, False),
        ({"Accept": "*/*"}, False),
        ({"Accept": ""}, False),
        ({"Accept": HTML}, False),
        ({"Accept": "text/*"}, False),
        ({"Accept": "image/png"}, False),
        ({"Accept": "text/html, application/json"}, False),
        ({"Accept": "application/json, text/html;q=0.9"}, True),
        ({"Accept": "application/json"}, True),
        ({"Accept": "application/json, text/plain, */*"}, True),
        ({"Accept": "application/problem+json"}, True),
        ({"Accept": "application/vnd.api+json"}, True),
        ({"Accept": "application/*"}, True),
        ({"Accept": "*/*", "Content-Type": "application/json"}, True),
        ({"Accept": HTML, "Content-Type": "application/json"}, False),
    ],
    ids=str,
)
def test_programs_get_json_and_people_a_page(headers: dict[str, str], is_json: bool) -> None:
    sent = dict(headers)
    request = RequestFactory().generic(
        "POST", "/", b"{}", content_type=sent.pop("Content-Type", "application/octet-stream"), headers=sent
    )
    response = DatabasePoolMiddleware(lambda r: HttpResponse()).process_exception(request, PoolExhausted(REFUSAL))
    assert response is not None
    assert response["Content-Type"] == ("application/problem+json" if is_json else "text/html; charset=utf-8")
    assert "Accept" in response["Vary"]


def test_problem() -> None:
    response = answer(PoolExhausted(REFUSAL), accept="application/json", random=0.999)
    problem = json.loads(response.content)
    reference = response["Error-Reference"]
    assert problem == {
        "type": "urn:problem-type:django-dbpool:busy",
        "title": "Very busy just now",
        "status": 503,
        "detail": "More is being asked of this site at the moment than it can answer at once.",
        "instance": f"urn:problem-instance:django-dbpool:{reference}",
        "reference": reference,
        "retry_after": int(response["Retry-After"]),
        "maybe_committed": False,
    }


@pytest.mark.parametrize("method", ["get", "head", "options", "post", "put", "delete"])
def test_every_method_gets_the_same_headers(method: str) -> None:
    response = answer(PoolExhausted(REFUSAL), method)
    assert response.status_code == 503
    assert (response["Retry-After"], response["Cache-Control"]) == ("1", "no-store")
    assert len(response["Error-Reference"]) == 8


@pytest.mark.parametrize(
    ("seconds", "random", "expected"),
    [
        (0, 0, 1),
        (0.2, 0, 1),
        (1, 0, 1),
        (1, 0.999, 2),
        (1.2, 0, 2),
        (60, 0, 60),
        (60, 0.999, 76),
        (60, 1.0, 76),
        (math.inf, 0, 3600),
    ],
)
def test_retry_after_is_spread(seconds: float, random: float, expected: int) -> None:
    assert _spread(seconds, lambda: random) == expected


@given(seconds=st.floats(0, 3600), random=st.floats(0, 1))
def test_nobody_is_called_back_too_early_or_much_too_late(seconds: float, random: float) -> None:
    spread = _spread(seconds, lambda: random)
    assert max(1, seconds) <= spread <= 1.25 * seconds + 3


def test_references_differ() -> None:
    assert len({answer(PoolExhausted(REFUSAL))["Error-Reference"] for _ in range(50)}) == 50


# -- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text by the tag around it."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1][0] if self.tags else ""
        self.texts[tag] = self.texts.get(tag, "") + data


@pytest.mark.parametrize("error", [PoolExhausted(REFUSAL), DatabaseUnavailable(REFUSAL)], ids=repr)
def test_page_is_one_that_everybody_can_read(error: Exception) -> None:
    """One heading, a title, a language, light and dark; no script, nothing to be fetched."""
    response = answer(error, accept=HTML)
    page = Page(response)
    names = [tag for tag, _ in page.tags]
    assert (names[0], page.tags[0][1]["lang"]) == ("html", "en-us")
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert page.texts["h1"].strip() == page.texts["title"].strip() != ""
    assert page.texts["code"].strip().startswith(response["Error-Reference"])
    metas = {attributes.get("name"): attributes.get("content") for tag, attributes in page.tags if tag == "meta"}
    assert metas["color-scheme"] == "light dark"
    assert "width=device-width" in str(metas["viewport"])
    assert not {"script", "img", "link", "iframe", "form"} & set(names)
    assert not any(key in attributes for _, attributes in page.tags for key in ("src", "href", "onload", "style"))
    assert b"http" not in response.content


def test_page_warns_those_who_were_sending_something() -> None:
    notice = b"check whether it has arrived"
    assert notice not in answer(PoolExhausted(REFUSAL), "get").content
    assert notice in answer(PoolExhausted(REFUSAL), "post").content


def test_page_needs_no_template_settings_at_all() -> None:
    expected = answer(PoolExhausted(REFUSAL))
    with override_settings(TEMPLATES=[]):
        response = answer(PoolExhausted(REFUSAL))
    old, new = expected["Error-Reference"].encode(), response["Error-Reference"].encode()
    assert response.content == expected.content.replace(old, new)


def failing_processor(request: HttpRequest) -> dict[str, Any]:
    raise AssertionError("context processors read the session and the user, that is, the database")


def project_with(directory: Path, **pages: str) -> Any:
    for name, source in pages.items():
        (directory / f"{name}.html").write_text(source)
    return override_settings(
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [directory],
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": [f"{__name__}.failing_processor"]},
            }
        ]
    )


def test_project_may_have_a_page_of_its_own(tmp_path: Path) -> None:
    source = "{{ title }}|{{ retry_after }}|{{ reference }}|{{ kind }}|{{ request.user }}"
    with project_with(tmp_path, **{"503": source}):
        response = answer(PoolExhausted(REFUSAL))
    assert response.content.decode() == f"Very busy just now|1|{response['Error-Reference']}|busy|"


def test_projects_page_that_fails_is_replaced_by_ours(tmp_path: Path) -> None:
    with project_with(tmp_path, **{"503": "{% include 'no_such_template.html' %}"}):
        assert b"Very busy just now" in answer(PoolExhausted(REFUSAL)).content


# -- languages -------------------------------------------------------------------------------------------------------

LOCALE = override_settings(MIDDLEWARE=["django.middleware.locale.LocaleMiddleware"], LANGUAGE_CODE="en")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.slug)
def test_german(kind: Kind) -> None:
    with translation.override("en"):
        english = (str(kind.title), str(kind.detail))
    with translation.override("de"):
        german = (str(kind.title), str(kind.detail))
    assert not set(english) & set(german)


def test_compiled_catalogue_is_the_one_that_people_edit() -> None:
    """Each text of django.po is in django.mo."""
    folder = Path(failure.__file__).parents[2] / "locale/de/LC_MESSAGES"
    with (folder / "django.mo").open("rb") as file:
        compiled = set(gettext.GNUTranslations(file)._catalog.values())
    source = (folder / "django.po").read_text(encoding="utf-8")
    texts = re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', source, re.MULTILINE)
    edited = {"".join(re.findall(r'"(.*)"', text)).replace("\\n", "\n") for text in texts}
    assert len(edited) > 15
    assert edited == compiled


def test_language_of_the_visitor_before_localemiddleware_had_its_turn() -> None:
    with LOCALE, translation.override("fr"):  # left over from another request in this thread
        response = answer(PoolExhausted(REFUSAL), "post", accept_language="de")
        assert translation.get_language() == "fr"
    text = response.content.decode()
    assert '<html lang="de">' in text
    for german in ("Gerade ist sehr viel los", "Bitte warten Sie", "Kennung", "bevor Sie es noch einmal senden"):
        assert german in text
    assert "Please" not in text


def test_language_that_localemiddleware_has_chosen() -> None:
    with LOCALE:
        request = RequestFactory().get("/", headers={"Accept-Language": "en"})
        request.LANGUAGE_CODE = "de"  # type: ignore[attr-defined]
        response = DatabasePoolMiddleware(lambda r: HttpResponse()).process_exception(request, PoolExhausted(REFUSAL))
    assert response is not None
    assert b'lang="de"' in response.content


def test_without_localemiddleware_the_visitor_is_not_asked() -> None:
    assert b'lang="en-us"' in answer(PoolExhausted(REFUSAL), accept_language="de").content


def test_right_to_left() -> None:
    with LOCALE:
        assert b'<html lang="ar" dir="rtl">' in answer(PoolExhausted(REFUSAL), accept_language="ar").content


# -- the log ---------------------------------------------------------------------------------------------------------


def logged(error: Exception, caplog: pytest.LogCaptureFixture, path: str = "/reports/") -> dict[str, Any]:
    middleware = DatabasePoolMiddleware(lambda request: HttpResponse())
    caplog.set_level(logging.DEBUG)
    middleware.process_exception(RequestFactory().get(path), error)
    (record,) = [record for record in caplog.records if record.name.startswith("django")]
    return {**vars(record), "text": record.getMessage()}


def test_expected_terminations_are_told_from_real_ones(caplog: pytest.LogCaptureFixture) -> None:
    expected = logged(of_driver(driver.AdminShutdown("terminating connection")), caplog)
    caplog.clear()
    real = logged(of_driver(driver.CrashShutdown("terminating connection")), caplog)
    assert (expected["severity"], expected["levelno"], expected["connection_terminated"]) == ("expected", 30, True)
    assert (real["severity"], real["levelno"], real["connection_terminated"]) == ("error", 40, True)


def test_cause_of_an_outage_is_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    error = DatabaseUnavailable(REFUSAL)
    error.__cause__ = psycopg.OperationalError('connection failed: FATAL:  database "shop" does not exist')
    line = logged(error, caplog)
    assert 'database "shop" does not exist' in line["text"]
    assert (line["sqlstate"], line["alias"], line["waited"]) == ("3D000", "main", 2.0)
    assert line["exc_info"] is None


def test_traceback_where_the_place_matters(caplog: pytest.LogCaptureFixture) -> None:
    error = of_driver(driver.QueryCanceled("canceling statement due to statement timeout"))
    assert logged(error, caplog)["exc_info"][1] is error


def test_visitors_write_no_lines(caplog: pytest.LogCaptureFixture) -> None:
    line = logged(PoolExhausted(REFUSAL), caplog, "/a%0AERROR%20all%20is%20lost")
    assert "\nERROR" not in line["text"]


def test_query_string_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert "secret" not in logged(PoolExhausted(REFUSAL), caplog, "/?token=secret")["text"]


def test_django_does_not_log_it_again(caplog: pytest.LogCaptureFixture) -> None:
    """It would as ERROR, and mail it to the admins."""
    response = answer(PoolExhausted(REFUSAL))
    caplog.clear()
    log_response("%s", "/", response=response)
    assert caplog.records == []


# -- replacing -------------------------------------------------------------------------------------------------------


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


def test_numbers_of_a_refusal_reach_the_log() -> None:
    assert set(_NUMBERS) <= {field.name for field in fields(Refusal)}
