"""``@replayable``: a view never runs again if anything was done that stays, or has been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import messages
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.views import View

from django_dbpool.decorators import replayable
from django_dbpool.transaction import dedicated, pin
from tests.app.models import Item
from tests.fixtures.pools import execute, hold, rows_of
from tests.fixtures.workers import Worker
from tests.integration.replay.site import (
    Act,
    MakePool,
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


def refused(path: str = "/once_more/", status: int = 503) -> None:
    response = get(path)
    assert (site.runs, response.status_code) == (1, status)


def test_undecorated(atomic: str) -> None:
    site.fail = kill
    refused("/plain/")


@pytest.mark.parametrize("method", ["post", "put", "delete", "options"])
def test_other_methods(atomic: str, method: str) -> None:
    site.fail = kill
    response = getattr(Client(raise_request_exception=False), method)("/once_more/")
    assert (site.runs, response.status_code) == (1, 503)


WRITES: dict[str, Act] = {
    "insert": write,
    "update": lambda request, alias: Item.objects.using(alias).update(n=2),
    "delete": lambda request, alias: Item.objects.using(alias).all()._raw_delete(alias),  # delete() would read first
    "raw SQL": lambda request, alias: execute(alias, "SELECT 1"),
    "executemany": lambda request, alias: connections[alias].cursor().executemany("SELECT %s", [(1,)]),
    "callproc": lambda request, alias: connections[alias].cursor().callproc("now"),
    "raw queryset": lambda request, alias: list(Item.objects.using(alias).raw("SELECT * FROM app_item")),
}


def committed(request: HttpRequest, alias: str) -> None:
    with transaction.atomic(alias):
        write(request, alias)


def copied(request: HttpRequest, alias: str) -> None:
    with connections[alias].cursor() as cursor, cursor.copy("COPY app_item (name, n) FROM STDIN") as copy:
        copy.write_row(("a", 1))


def in_thread(request: HttpRequest, alias: str) -> None:
    """As asyncio.to_thread and sync_to_async do, with the context of the caller."""
    asyncio.run(asyncio.to_thread(committed, request, alias))


def by_raw_connection(request: HttpRequest, alias: str) -> None:
    with pin(alias) as connection:
        connection.connection.execute("SELECT 1")


def by_dedicated_connection(request: HttpRequest, alias: str) -> None:
    with dedicated(alias) as connection:
        connection.execute("SELECT 1")


def by_hand(request: HttpRequest, alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    write(request, alias)
    transaction.commit(using=alias)
    transaction.set_autocommit(True, using=alias)


OTHERS = (committed, copied, in_thread, by_raw_connection, by_dedicated_connection, by_hand)


@pytest.mark.parametrize("act", [*WRITES.values(), *OTHERS], ids=[*WRITES, *(act.__name__ for act in OTHERS)])
def test_after_a_write(autocommit: str, act: Act) -> None:
    site.act, site.fail = act, kill
    refused()


@pytest.mark.parametrize("name", ["insert", "raw SQL", "callproc"])
def test_after_a_write_with_the_pool_switched_off(make_pool: MakePool, name: str) -> None:
    site.alias = make_pool(POOL={"enabled": False})
    site.act, site.fail = WRITES[name], raising("40001")
    refused()


def test_after_a_write_of_an_asynchronous_view(autocommit: str) -> None:
    site.act, site.fail = write, kill
    get("/asynchronous/", AsyncClient)
    assert site.runs == 1


def test_after_a_write_of_a_view_inside(autocommit: str) -> None:
    """The inner view may not run again, and so the outer one may not either."""
    site.act, site.fail = write, kill
    refused("/with_inner/")


@pytest.mark.parametrize(("work", "rows"), [(write, 1), (read, 0)], ids=["write", "read"])
def test_hook_that_fails_after_the_commit(atomic: str, observer: Observer, work: Act, rows: int) -> None:
    """Hooks before it have run, whatever they did."""

    def act(request: HttpRequest, alias: str) -> None:
        work(request, alias)
        transaction.on_commit(lambda: kill(request, alias), using=alias)

    site.act = act
    refused()
    assert rows_of(observer, "app_item") == rows


def test_commit_whose_outcome_is_unknown(atomic: str, observer: Observer) -> None:
    observer.execute(
        "CREATE OR REPLACE FUNCTION dies() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;"
        "CREATE TABLE dies_at_commit (n int);"
        "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON dies_at_commit DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION dies()"
    )
    try:
        site.act = lambda request, alias: execute(alias, "INSERT INTO dies_at_commit VALUES (1)")
        refused()
    finally:
        observer.execute("DROP TABLE dies_at_commit; DROP FUNCTION dies")


def test_exhausted_pool(make_pool: MakePool, worker: Worker) -> None:
    site.alias = make_pool(POOL={"timeout": 0.3})
    worker(hold, site.alias)
    site.act = read
    refused()


@pytest.mark.parametrize("code", ["57014", "55P03", "53100", "25006"])
def test_overload_and_limits(atomic: str, code: str) -> None:
    site.fail = raising(code)
    refused()


@pytest.mark.parametrize("code", ["23505", "42P01"])
def test_mistakes(atomic: str, code: str) -> None:
    site.fail = raising(code)
    refused(status=500)


def test_inside_of_a_transaction(autocommit: str) -> None:
    site.fail = kill
    with pytest.raises(OperationalError), transaction.atomic(autocommit):
        once_more(RequestFactory().get("/"))
    assert site.runs == 1


@pytest.mark.parametrize(
    "decorate",
    [
        lambda alias, view: transaction.non_atomic_requests(alias)(replayable(view)),
        lambda alias, view: replayable(transaction.non_atomic_requests(alias)(view)),
    ],
    ids=["outside", "inside"],
)
def test_view_that_has_opted_out_of_atomic_requests(atomic: str, decorate: Callable[[str, Any], Any]) -> None:
    """The transaction is ours to open; this view doesn't want it."""
    blocks: list[int] = []

    def view(request: HttpRequest) -> HttpResponse:
        blocks.append(len(connections[atomic].atomic_blocks))
        return HttpResponse()

    for decorated in (replayable(view), decorate(atomic, view)):
        urls = type("Urls", (), {"urlpatterns": [path("", decorated)]})
        with override_settings(ROOT_URLCONF=urls):
            assert get("/").status_code == 200
    assert blocks == [1, 0]


def test_stream_that_has_begun(autocommit: str) -> None:
    site.fail = kill
    response = Client().get("/streaming/")
    parts = iter(response)
    assert next(parts) == b"first,"
    with pytest.raises(Exception, match=r"terminat|lost|closed"):
        next(parts)
    response.close()
    assert site.runs == 1


@pytest.mark.parametrize("change", ["session", "message", "new session"])
@pytest.mark.parametrize("before", [False, True])
def test_changed_session_and_messages(atomic: str, change: str, before: bool) -> None:
    """It is the view's change that counts, not that of a middleware."""
    from django.contrib.sessions.backends.signed_cookies import SessionStore

    def act(request: Any, alias: str) -> None:
        if change == "session":
            request.session["visits"] = request.session.get("visits", 0) + 1
        elif change == "message":
            messages.info(request, "done")
        else:
            request.session = SessionStore()

    def changes_before(get_response: Any) -> Any:
        def middleware(request: Any) -> Any:
            request.session["seen"] = True
            messages.info(request, "seen")
            response = get_response(request)
            assert request.session.modified and request._messages.added_new
            return response

        return middleware

    globals()["changes_before"] = changes_before
    if not before:
        site.act = act
    site.fail = kill
    with override_settings(
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        MESSAGE_STORAGE="django.contrib.messages.storage.cookie.CookieStorage",
        MIDDLEWARE=[
            "django_dbpool.middleware.DatabasePoolMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            *([f"{__name__}.changes_before"] if before else []),
        ],
    ):
        response = get("/once_more/")
    assert (site.runs, response.status_code) == ((2, 200) if before else (1, 503))


def test_body_that_was_read_in_parts(atomic: str) -> None:
    site.act, site.fail = lambda request, alias: request.read(1), kill
    response = Client(raise_request_exception=False).generic("GET", "/once_more/", b"abc")
    assert (site.runs, response.status_code) == (1, 503)


def test_time_is_up(atomic: str) -> None:
    @replayable(within=0.001)
    def late(request: HttpRequest) -> HttpResponse:
        execute(atomic, "SELECT pg_sleep(0.01)")
        return site.run(request)

    site.fail = raising("40001")
    with pytest.raises(OperationalError), transaction.atomic(atomic):
        late(RequestFactory().get("/"))
    assert site.runs == 1


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValueError):
        replayable(attempts=0)
    with pytest.raises(ValueError):
        replayable(within=-1)


def test_a_method_is_told_how(atomic: str) -> None:
    class Wrong(View):
        @replayable
        def get(self, request: HttpRequest) -> HttpResponse:
            raise AssertionError

    with pytest.raises(TypeError, match="method_decorator"):
        Wrong.as_view()(RequestFactory().get("/"))
