"""``@fallback``: something less good instead of an error, and never instead of a lost write."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import cache
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, TestCase, override_settings
from django.urls import path

from django_dbpool.decorators import fallback
from django_dbpool.decorators.degrading import CALM, Transitions
from django_dbpool.errors import DatabaseUnavailable, PoolError, PoolExhausted, raised_in_request
from testproject.postgres import free_port
from testproject.reports.stale import last_good
from tests.app import failing
from tests.app.models import Item
from tests.fixtures.pools import execute, hold
from tests.fixtures.workers import Worker

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Caplog = pytest.LogCaptureFixture


def cached_names(error: PoolError, alias: str) -> list[str]:
    return [type(error).__name__]


@fallback(cached_names)
def names(alias: str) -> list[str]:
    """Those of all items."""
    return [item.name for item in Item.objects.using(alias).all()]


@pytest.fixture
def busy(make_pool: MakePool, worker: Worker) -> str:
    alias = make_pool(POOL={"timeout": 0.3})
    worker(hold, alias)
    return alias


@pytest.fixture
def down(make_pool: MakePool) -> str:
    return make_pool(PORT=str(free_port()))


# -- functions -------------------------------------------------------------------------------------------------------


def test_answers_where_the_database_cannot(busy: str, down: str, make_pool: MakePool) -> None:
    alias = make_pool(POOL={"breaker": True})
    Item.objects.using(alias).create(name="a")
    assert names(alias) == ["a"]
    assert names(busy) == ["PoolExhausted"]
    assert names(alias=down) == ["DatabaseUnavailable"]
    connections[alias].pool.connector.breaker.isolate()
    connections[alias].pool.drain()
    assert names(alias) == ["CircuitOpen"]
    connections[alias].pool.connector.breaker.reset()
    assert names(alias) == ["a"]
    assert (names.__name__, names.__doc__) == ("names", "Those of all items.")


def test_statement_that_took_too_long(make_pool: MakePool) -> None:
    alias = make_pool(POOL={"command_timeout": 0.05})

    @fallback(cached_names)
    def slow(alias: str) -> list[str]:
        return [str(execute(alias, "SELECT pg_sleep(60)"))]

    assert slow(alias) == ["LeaseTimedOut"]


def test_mistakes_are_not_for_it(make_pool: MakePool) -> None:
    alias = make_pool()

    @fallback(cached_names)
    def mistaken(alias: str) -> list[str]:
        return [str(execute(alias, "SELECT * FROM no_such_table"))]

    with pytest.raises(DatabaseError):
        mistaken(alias)


def test_the_errors_can_be_chosen(busy: str, down: str) -> None:
    only_down = fallback(cached_names, on=DatabaseUnavailable)(names.__wrapped__)
    both = fallback(cached_names, on=(DatabaseUnavailable, PoolExhausted))(names.__wrapped__)
    with pytest.raises(PoolExhausted):
        only_down(busy)
    assert (only_down(down), both(busy)) == (["DatabaseUnavailable"], ["PoolExhausted"])


def test_may_raise_the_error_again(busy: str) -> None:
    def cannot(error: PoolError, alias: str) -> list[str]:
        raise error

    with pytest.raises(PoolExhausted) as caught:
        fallback(cannot)(names.__wrapped__)(busy)
    assert caught.value.alias == busy


def test_methods(busy: str) -> None:
    class Shop:
        def __init__(self, alias: str) -> None:
            self.alias = alias

        def without(self_or_error: Any, self: Any, limit: int) -> list[str]:  # type: ignore[misc]
            return [type(self_or_error).__name__, self.alias][:limit]

        @fallback(without)
        def names(self, limit: int) -> list[str]:
            return names.__wrapped__(self.alias)[:limit]

    assert Shop(busy).names(limit=2) == ["PoolExhausted", busy]


def test_asynchronous(busy: str, make_pool: MakePool) -> None:
    async def later(error: PoolError, alias: str) -> list[str]:
        return [type(error).__name__]

    @fallback(later)
    async def names_later(alias: str) -> list[str]:
        return [item.name async for item in Item.objects.using(alias).all()]

    good = make_pool()
    assert async_to_sync(names_later)(good) == []
    assert async_to_sync(names_later)(busy) == ["PoolExhausted"]
    with pytest.raises(PoolExhausted), transaction.atomic(good):
        Item.objects.using(good).create(name="a")
        async_to_sync(names_later)(busy)
    assert not Item.objects.using(good).exists()


def test_what_cannot_be_decorated() -> None:
    async def later(error: PoolError) -> int:
        return 1

    def rows() -> Iterator[int]:
        yield 1

    async def arows() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="both be asynchronous"):
        fallback(later)(lambda: 1)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="both be asynchronous"):
        fallback(lambda error: 1)(later)  # type: ignore[arg-type]
    for function in (rows, arows):
        with pytest.raises(TypeError, match="generator"):
            fallback(lambda error: 1)(function)  # type: ignore[arg-type]


# -- transactions ----------------------------------------------------------------------------------------------------


def test_never_inside_of_a_transaction_that_has_done_something(make_pool: MakePool, busy: str) -> None:
    alias = make_pool()
    with pytest.raises(PoolExhausted), transaction.atomic(alias):
        Item.objects.using(alias).create(name="a")
        names(busy)
    assert names(alias) == []
    transaction.set_autocommit(False, using=alias)
    Item.objects.using(alias).create(name="b")
    with pytest.raises(PoolExhausted):
        names(busy)
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


def test_never_inside_of_a_transaction_of_another_engine(make_pool: MakePool, busy: str) -> None:
    alias = make_pool(ENGINE="django.db.backends.postgresql", POOL={})
    del connections.settings[alias]["POOL"]
    with pytest.raises(PoolExhausted), transaction.atomic(alias):
        names(busy)


def test_inside_of_a_transaction_that_has_not_begun(busy: str) -> None:
    """Nothing can be lost with it: ATOMIC_REQUESTS of a request whose first query fails."""
    with transaction.atomic(busy):
        assert names(busy) == ["PoolExhausted"]


def test_own_transaction_is_rolled_back_by_then(make_pool: MakePool, busy: str) -> None:
    target = make_pool()

    @fallback(cached_names)
    @transaction.atomic(using=target)
    def copy(alias: str) -> list[str]:
        Item.objects.using(target).create(name="a")
        return [item.name for item in Item.objects.using(alias).all()]

    assert copy(busy) == ["PoolExhausted"]
    assert names(target) == []


def test_transaction_of_a_test_case_is_not_one(busy: str) -> None:
    found: list[Any] = []

    class Case(TestCase):
        databases = {"default"}

        def test(self) -> None:
            Item.objects.create(name="a")
            found.append(names(busy))

    Case("test").debug()
    Case.doClassCleanups()
    assert found == [["PoolExhausted"]]


@pytest.mark.parametrize("attribute", ["maybe_committed", "committed"])
def test_never_after_a_write_that_may_be_there(busy: str, attribute: str) -> None:
    @fallback(cached_names)
    def written(alias: str) -> list[str]:
        try:
            return names.__wrapped__(alias)
        except PoolExhausted as error:
            setattr(error, attribute, True)
            raise

    with pytest.raises(PoolExhausted):
        written(busy)


# -- the log ---------------------------------------------------------------------------------------------------------


def test_log_has_one_line_for_each_transition(busy: str, make_pool: MakePool, caplog: Caplog) -> None:
    now = [100.0]
    log = Transitions("shop.names", clock=lambda: now[0])
    for _ in range(5):
        with pytest.raises(PoolExhausted) as caught:
            names.__wrapped__(busy)
        log.used(caught.value)
        log.worked()  # every other call works
    assert log.degraded
    now[0] += CALM
    for _ in range(3):
        log.worked()
    assert not log.degraded
    begin, end = [record for record in caplog.records if record.name == "django_dbpool.fallback"]
    assert (begin.levelno, end.levelno) == (logging.WARNING, logging.WARNING)
    assert begin.getMessage().startswith("shop.names is answered by its fallback from now on: No connection to")
    assert "\n" not in begin.getMessage()
    assert (vars(begin)["error_type"], vars(begin)["alias"]) == ("PoolExhausted", busy)
    assert end.getMessage() == "shop.names works again; its fallback has answered 5 times in 10 s"


def test_each_function_has_transitions_of_its_own(busy: str, caplog: Caplog) -> None:
    for _ in range(3):
        for function in [fallback(cached_names)(names.__wrapped__), fallback(cached_names)(names.__wrapped__)]:
            function(busy)
    assert len([record for record in caplog.records if record.name == "django_dbpool.fallback"]) == 6


# -- views -----------------------------------------------------------------------------------------------------------


def without_items(error: PoolError, request: HttpRequest) -> HttpResponse:
    return HttpResponse("not now")


async def without_items_later(error: PoolError, request: HttpRequest) -> HttpResponse:
    return HttpResponse("not now")


@fallback(without_items)
def items(request: HttpRequest) -> HttpResponse:
    return HttpResponse(",".join(names.__wrapped__(request.GET["alias"])))


@fallback(without_items_later)
async def items_later(request: HttpRequest) -> HttpResponse:
    return HttpResponse(",".join(await sync_to_async(names.__wrapped__)(request.GET["alias"])))


def mistaken(request: HttpRequest) -> HttpResponse:
    """Lives with the failure and then has one of its own."""
    items(request)
    raise ZeroDivisionError


def refusing(request: HttpRequest) -> HttpResponse:
    items(request)
    return HttpResponse("no", status=int(request.GET["status"]))


@last_good
def remembered(request: HttpRequest) -> HttpResponse:
    return items.__wrapped__(request)


urlpatterns = [
    path("items/", items),
    path("later/", items_later),
    path("mistaken/", mistaken),
    path("refusing/", refusing),
    path("remembered/", remembered),
]


@pytest.fixture
def site() -> Iterator[None]:
    with override_settings(
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django_dbpool.middleware.DatabasePoolMiddleware", "django.middleware.common.CommonMiddleware"],
        ALLOWED_HOSTS=["testserver"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    ):
        yield
        cache.clear()


def get(path: str, client: type[Any], **query: str) -> Any:
    if client is AsyncClient:
        return async_to_sync(AsyncClient(raise_request_exception=False).get)(path, query)
    return Client(raise_request_exception=False).get(path, query)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("path", ["/items/", "/later/"])
def test_answer_of_a_fallback_is_marked_and_stays(
    site: None, busy: str, make_pool: MakePool, caplog: Caplog, path: str, client: type[Any]
) -> None:
    """The middleware doesn't take it for a failure, whatever was raised on the way."""
    response = get(path, client, alias=busy)
    assert (response.status_code, response.content) == (200, b"not now")
    assert (response["Degraded"], response["Cache-Control"]) == ("busy", "no-store")
    assert not {"Retry-After", "Error-Reference"} & set(response.headers)
    assert [record for record in caplog.records if record.name == "django_dbpool.request"] == []
    response = get(path, client, alias=make_pool())
    assert (response.status_code, response.content) == (200, b"")
    assert not {"Degraded", "Cache-Control"} & set(response.headers)


def test_middleware_does_not_hear_of_it(busy: str) -> None:
    raised: list[BaseException] = []
    raised_in_request.set(raised)
    try:
        assert names(busy) == ["PoolExhausted"]
    finally:
        raised_in_request.set(None)
    assert raised == []


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_errors_that_come_after_a_fallback_are_left_alone(site: None, busy: str, client: type[Any]) -> None:
    assert get("/mistaken/", client, alias=busy).status_code == 500
    for status in ("400", "500", "502"):
        response = get("/refusing/", client, alias=busy, status=status)
        assert (str(response.status_code), response.content) == (status, b"no")


def test_view_with_atomic_requests(site: None, make_pool: MakePool, worker: Worker) -> None:
    alias = make_pool(ATOMIC_REQUESTS=True, POOL={"timeout": 0.3})
    worker(hold, alias)
    assert get("/items/", Client, alias=alias)["Degraded"] == "busy"


def test_last_good_answer(site: None, make_pool: MakePool, worker: Worker) -> None:
    """The example of the guide."""
    alias = make_pool(POOL={"timeout": 0.3})
    Item.objects.using(alias).create(name="a")
    good = get("/remembered/", Client, alias=alias)
    assert "Age" not in good
    worker(hold, alias)
    stale = get("/remembered/", Client, alias=alias)
    assert (stale.status_code, stale.content, stale["Content-Type"]) == (200, b"a", good["Content-Type"])
    assert (stale["Degraded"], int(stale["Age"]) >= 0) == ("busy", True)
    other = get("/remembered/", Client, alias=alias, page="2")
    assert (other.status_code, "Retry-After" in other) == (503, True)


def test_other_errors_may_be_chosen_for_a_view(site: None, make_pool: MakePool, observer: Any) -> None:
    observer.execute(failing.RAISE)
    alias = make_pool()

    @fallback(lambda error: HttpResponse("other"), on=(OperationalError, IntegrityError))
    def view() -> HttpResponse:
        execute(alias, failing.raising("23505"))
        raise AssertionError

    assert view()["Degraded"] == "other"
