"""Many tenants on few connections: each sees its own rows, by schema and by row-level security, without a pin."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.test import RequestFactory, override_settings

from django_dbpool.backends.session import SessionMixin
from django_dbpool.middleware import SessionVariablesMiddleware
from django_dbpool.transaction import atomic, session
from tests.fixtures.pools import execute, size, value

pytestmark = pytest.mark.django_db(transaction=True)

TENANTS = 20
THREADS = 16
CONNECTIONS = 4
READS = 10_000
ROWS = 3
ROLE = "dbpool_tenant"

Variables = Callable[[int], dict[str, Any]]


@pytest.fixture
def schemas(observer: psycopg.Connection[Any]) -> Iterator[Variables]:
    """A schema for each tenant with a table of the same name."""
    for number in range(TENANTS):
        observer.execute(f"CREATE SCHEMA tenant_{number}")
        observer.execute(
            f"CREATE TABLE tenant_{number}.invoice AS SELECT {number} AS tenant FROM generate_series(1, 3)"
        )
    yield lambda number: {"search_path": [f"tenant_{number}"]}
    for number in range(TENANTS):
        observer.execute(f"DROP SCHEMA tenant_{number} CASCADE")


@pytest.fixture
def policy(observer: psycopg.Connection[Any]) -> Iterator[Variables]:
    """One table for all tenants, with a policy that compares with a variable."""
    observer.execute(f"CREATE ROLE {ROLE} LOGIN")  # superusers see everything
    observer.execute("CREATE TABLE invoice AS SELECT t AS tenant FROM generate_series(0, 19) t, generate_series(1, 3)")
    observer.execute("ALTER TABLE invoice ENABLE ROW LEVEL SECURITY")
    observer.execute("CREATE POLICY own ON invoice USING (tenant::text = current_setting('app.tenant', true))")
    observer.execute(f"GRANT SELECT ON invoice TO {ROLE}")
    yield lambda number: {"app.tenant": number}
    observer.execute("DROP TABLE invoice")
    observer.execute(f"DROP ROLE {ROLE}")


@pytest.fixture(params=["schemas", "policy"])
def variables(request: pytest.FixtureRequest) -> Variables:
    found: Variables = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def alias(variables: Variables, request: pytest.FixtureRequest, make_pool: Callable[..., str]) -> Iterator[str]:
    alias = make_pool(size=CONNECTIONS, USER=ROLE if "policy" in request.fixturenames else "postgres")
    yield alias
    connections[alias].close()
    connections[alias].close_pool()  # before the role goes


class Sets:
    """Counts the round trips that set variables, and those that were not needed."""

    def __init__(self) -> None:
        self.count = 0
        self.needless = 0
        self.lock = threading.Lock()
        self.known: dict[int, dict[str, str | None]] = {}


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> Sets:
    sets = Sets()
    original = SessionMixin._set_variables

    def counted(self: Any, raw: psycopg.Connection[Any], state: Any, changes: Any, in_transaction: bool) -> None:
        with sets.lock:
            known = sets.known.setdefault(raw.info.backend_pid, {})
            sets.count += 1
            sets.needless += not changes or all(known.get(name) == value for name, value in changes.items())
            known.update(changes)
        original(self, raw, state, changes, in_transaction)

    monkeypatch.setattr(SessionMixin, "_set_variables", counted)
    return sets


def test_ten_thousand_reads(alias: str, variables: Variables, sets: Sets, pins: list[str]) -> None:
    """20 tenants, 16 threads, 4 connections; statements alone, in transactions, and in failed ones."""
    foreign: list[tuple[int, list[Any]]] = []

    def read(seed: int) -> int:
        choose = random.Random(seed)
        done = 0
        try:
            while done < READS // THREADS:
                tenant = choose.randrange(TENANTS)
                with session(alias, **variables(tenant)):
                    for _ in range(choose.randrange(1, 6)):
                        kind = choose.random()
                        if kind < 0.7:
                            found = execute(alias, "SELECT tenant FROM invoice")
                        else:
                            try:
                                with atomic(alias):
                                    found = execute(alias, "SELECT tenant FROM invoice")
                                    if kind > 0.9:
                                        raise ZeroDivisionError
                            except ZeroDivisionError:
                                pass
                        done += 1
                        if found != [(tenant,)] * ROWS:
                            foreign.append((tenant, found))
            return done
        finally:
            connections[alias].close()

    with ThreadPoolExecutor(THREADS) as threads:
        done = sum(threads.map(read, range(THREADS)))
    assert done >= READS
    assert foreign == []
    assert pins == []
    assert size(alias) <= CONNECTIONS
    assert 0 < sets.count < done
    assert sets.needless == 0


def test_round_trip_only_where_the_tenant_changes(alias: str, variables: Variables, sets: Sets) -> None:
    for tenant in (1, 1, 1, 2, 2, 1):
        with session(alias, **variables(tenant)):
            for _ in range(10):
                assert execute(alias, "SELECT DISTINCT tenant FROM invoice") == [(tenant,)]
    assert sets.count == 3


def test_without_a_tenant_there_are_no_rows(policy: Variables, make_pool: Callable[..., str]) -> None:
    """Not even on the connection that has just served one."""
    alias = make_pool(USER=ROLE)
    with session(alias, **policy(3)):
        assert value(alias, "SELECT count(*) FROM invoice") == ROWS
    assert value(alias, "SELECT count(*) FROM invoice") == 0
    connections[alias].close_pool()


# -- the middleware -------------------------------------------------------------------------------------------------

TENANT = "SELECT current_setting('app.tenant', true)"


def by_header(request: HttpRequest) -> dict[str, Any] | None:
    tenant = request.headers.get("X-Tenant")
    return {"app.tenant": tenant} if tenant else None


async def by_header_async(request: HttpRequest) -> dict[str, Any] | None:
    return by_header(request)


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(value("default", TENANT) or "nobody")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(value("default", TENANT) or "nobody") + " " for _ in range(3))


async def read_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse(await sync_to_async(value)("default", TENANT) or "nobody")


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> Any:
        for _ in range(3):
            yield str(await sync_to_async(value)("default", TENANT) or "nobody") + " "

    return StreamingHttpResponse(parts())


def body(response: HttpResponseBase) -> str:
    if isinstance(response, StreamingHttpResponse):
        parts = []
        for part in response:
            # Between two parts the thread belongs to somebody else.
            parts.append(part.decode() + ("" if value("default", TENANT) in (None, "") else "!"))
        return "".join(parts)
    assert isinstance(response, HttpResponse)
    return response.content.decode()


async def body_async(response: HttpResponseBase) -> str:
    if isinstance(response, StreamingHttpResponse):
        parts = []
        async for part in response:
            other = await sync_to_async(value)("default", TENANT)
            parts.append(part.decode() + ("" if other in (None, "") else "!"))
        return "".join(parts)
    assert isinstance(response, HttpResponse)
    return response.content.decode()


@pytest.mark.parametrize(("view", "expected"), [(read, "7"), (stream, "7 7 7 ")])
def test_request_hook(view: Callable[..., Any], expected: str) -> None:
    request = RequestFactory().get("/", headers={"X-Tenant": "7"})
    with override_settings(DBPOOL={"SESSION_FROM_REQUEST": by_header}):
        assert body(SessionVariablesMiddleware(view)(request)) == expected  # type: ignore[arg-type]
        anonymous = SessionVariablesMiddleware(view)(RequestFactory().get("/"))
        assert "7" not in body(anonymous)  # type: ignore[arg-type]
    assert value("default", TENANT) in (None, "")


@pytest.mark.parametrize("hook", [by_header, by_header_async])
@pytest.mark.parametrize(("view", "expected"), [(read_async, "7"), (stream_async, "7 7 7 ")])
def test_request_hook_async(view: Callable[..., Any], expected: str, hook: Callable[..., Any]) -> None:
    @async_to_sync
    async def respond() -> str:
        request = RequestFactory().get("/", headers={"X-Tenant": "7"})
        with override_settings(DBPOOL={"SESSION_FROM_REQUEST": hook}):
            return await body_async(await SessionVariablesMiddleware(view)(request))  # type: ignore[misc]

    assert respond() == expected


def test_files_are_left_to_sendfile() -> None:
    response = FileResponse(io.BytesIO(b"x"))
    with override_settings(DBPOOL={"SESSION_FROM_REQUEST": "tests.integration.test_tenants.by_header"}):
        assert SessionVariablesMiddleware(lambda request: response)(RequestFactory().get("/")) is response
    assert response.file_to_stream is not None
    response.close()


@pytest.mark.parametrize(
    ("hook", "text"),
    [
        ({}, "needs DBPOOL"),
        ({"SESSION_FROM_REQUEST": "no.such.function"}, "can't be imported"),
        ({"SESSION_FROM_REQUEST": lambda request: "7"}, "must return a dictionary"),
    ],
)
def test_bad_hooks(hook: dict[str, Any], text: str) -> None:
    with override_settings(DBPOOL=hook), pytest.raises(ImproperlyConfigured, match=text):
        SessionVariablesMiddleware(read)(RequestFactory().get("/"))
