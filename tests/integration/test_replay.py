"""``@replayable``: a view runs again if its transaction was lost, and never if anything was done that stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib import messages
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_dbpool.decorators import replayable
from django_dbpool.errors import raised_in_request
from django_dbpool.transaction import dedicated, idempotent, pin
from tests.app import failing
from tests.app.models import Item
from tests.fixtures.pools import execute, hold, in_use, rows_of
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
Caplog = pytest.LogCaptureFixture
Act = Callable[[HttpRequest, str], object]


class Site:
    """What the views of this test do."""

    def __init__(self) -> None:
        self.alias = ""
        self.runs = 0
        self.act: Act = lambda request, alias: None
        """In each run."""
        self.fail: Act = lambda request, alias: None
        """After it, in the first run."""
        self.failing_runs = 1

    def run(self, request: HttpRequest) -> HttpResponse:
        self.runs += 1
        self.act(request, self.alias)
        if self.runs <= self.failing_runs:
            self.fail(request, self.alias)
        return HttpResponse(f"run {self.runs}")


site = Site()


@replayable
def once_more(request: HttpRequest) -> HttpResponse:
    return site.run(request)


@replayable(attempts=4)
def often(request: HttpRequest) -> HttpResponse:
    return site.run(request)


def plain(request: HttpRequest) -> HttpResponse:
    return site.run(request)


@replayable
async def asynchronous(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(site.run)(request)


@method_decorator(replayable, name="dispatch")
class OfClass(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return site.run(request)

    post = get


@replayable
def with_inner(request: HttpRequest) -> HttpResponse:
    return once_more(request)


@replayable
def streaming(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        yield "first,"
        site.run(request)

    return StreamingHttpResponse(parts())


VIEWS = (once_more, often, plain, asynchronous, with_inner, streaming)
urlpatterns = [
    *(path(f"{view.__name__}/", view) for view in VIEWS),
    path("of_class/", OfClass.as_view()),
]


def kill(request: HttpRequest, alias: str) -> None:
    """The server ends the session, in the middle of a transaction."""
    with transaction.atomic(alias):
        execute(alias, "SELECT pg_terminate_backend(pg_backend_pid())")


def raising(code: str) -> Act:
    return lambda request, alias: execute(alias, failing.raising(code))


@pytest.fixture(autouse=True)
def setting(observer: Observer) -> Iterator[Site]:
    site.__init__()  # type: ignore[misc]
    observer.execute(failing.RAISE)
    middleware = ["django_dbpool.middleware.DatabasePoolMiddleware"]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]):
        yield site


@pytest.fixture
def atomic(make_pool: MakePool) -> str:
    site.alias = make_pool(ATOMIC_REQUESTS=True)
    return site.alias


@pytest.fixture
def autocommit(make_pool: MakePool) -> str:
    site.alias = make_pool()
    return site.alias


def get(path: str, client: type[Any] = Client) -> Any:
    if client is AsyncClient:
        return async_to_sync(AsyncClient(raise_request_exception=False).get)(path)
    return Client(raise_request_exception=False).get(path)


def read(request: HttpRequest, alias: str) -> None:
    list(Item.objects.using(alias).all())


def write(request: HttpRequest, alias: str) -> None:
    Item.objects.using(alias).create(name="a")


# -- it runs again ---------------------------------------------------------------------------------------------------


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


# -- it does not -----------------------------------------------------------------------------------------------------


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
