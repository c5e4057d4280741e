"""User code: what a project is made of, from its settings to its tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, assert_type

from django.core.asgi import get_asgi_application
from django.db import OperationalError, connections
from django.db.backends.postgresql import base
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

import django_dbpool
from django_dbpool import errors
from django_dbpool.asgi import lifespan
from django_dbpool.audit import Finding, Report, audit, audit_paths
from django_dbpool.backends.mixin import PooledDatabaseMixin
from django_dbpool.conf import from_url_options
from django_dbpool.core.ledger import Holder
from django_dbpool.core.stopping import ShutdownResult
from django_dbpool.decorators import fallback, replayable
from django_dbpool.middleware import DatabasePoolMiddleware, SessionVariablesMiddleware
from django_dbpool.pool.managed import ManagedPool
from django_dbpool.pool.reporting import PoolSnapshot
from django_dbpool.testing import SessionStateLeaked, strict_sessions

# -- start and end of a process -------------------------------------------------------------------------------------


application = lifespan(get_asgi_application())
impatient = lifespan(get_asgi_application(), warm_timeout=1, shutdown_timeout=2.5)


def start_and_end() -> None:
    assert_type(django_dbpool.warm(), bool)
    assert_type(django_dbpool.warm(timeout=5, using="default"), bool)
    result = django_dbpool.shutdown(timeout=5)
    assert_type(result, ShutdownResult)
    assert_type(result.clean, bool)
    assert_type(result.seconds, float)
    assert_type(result.held, tuple[Holder, ...])
    assert_type(result.unfinished, tuple[str, ...])
    assert_type(django_dbpool.shutdown().clean, bool)


# -- settings and middleware ----------------------------------------------------------------------------------------


class Entry(TypedDict, total=False):
    """What dj-database-url returns."""

    ENGINE: str
    NAME: str
    OPTIONS: dict[str, Any]


def settings() -> dict[str, dict[str, Any]]:
    entry: Entry = {"ENGINE": "django_dbpool.backends.postgresql", "OPTIONS": {"connection_limit": 20}}
    assert_type(from_url_options(entry), dict[str, Any])
    return {"default": from_url_options({"NAME": "shop"})}


def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


async def answer_later(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


class Ours(DatabasePoolMiddleware):
    """Deriving is allowed."""


def middleware() -> None:
    for kind in (DatabasePoolMiddleware, SessionVariablesMiddleware, Ours):
        assert_type(kind.async_capable, bool)
    synchronous = DatabasePoolMiddleware(answer)
    assert_type(synchronous(HttpRequest()), HttpResponseBase | Awaitable[HttpResponseBase])
    asynchronous = SessionVariablesMiddleware(answer_later)
    handler: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]] = asynchronous
    assert callable(handler)
    SessionVariablesMiddleware(answer)
    DatabasePoolMiddleware(answer_later)
    DatabasePoolMiddleware(synchronous)
    SessionVariablesMiddleware(synchronous)


# -- decorators -----------------------------------------------------------------------------------------------------


@replayable
def page(request: HttpRequest, year: int) -> HttpResponse:
    return HttpResponse(str(year))


@replayable(attempts=3, within=2.5)
async def page_later(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def nothing_for(error: errors.PoolError, region: str, *, limit: int = 10) -> list[int]:
    return [] if error.alias else [limit]


@fallback(nothing_for)
def numbers(region: str, *, limit: int = 10) -> list[int]:
    return [limit, len(region)]


@fallback(nothing_for, on=(errors.CircuitOpen, OperationalError))
def numbers_of(region: str, *, limit: int = 10) -> list[int]:
    return numbers(region, limit=limit)


async def nothing_later(error: errors.PoolError, region: str) -> list[int]:
    return []


@fallback(nothing_later)
async def numbers_later(region: str) -> list[int]:
    return numbers(region)


def decorators() -> None:
    assert_type(page(HttpRequest(), year=2026), HttpResponse)
    assert_type(asyncio.run(page_later(HttpRequest())), HttpResponse)
    assert_type(numbers("north", limit=2), list[int])
    assert_type(numbers_of("north"), list[int])
    assert_type(asyncio.run(numbers_later("north")), list[int])


# -- engines and tests ----------------------------------------------------------------------------------------------


class DatabaseWrapper(PooledDatabaseMixin, base.DatabaseWrapper):
    tenant = 7

    def session_variables(self) -> Mapping[str, Any]:
        return {"app.tenant": self.tenant}


def pool() -> None:
    connection = connections["default"]
    assert isinstance(connection, PooledDatabaseMixin)
    pool = connection.pool
    assert_type(pool, ManagedPool | None)
    assert pool is not None
    snapshot = pool.snapshot()
    assert_type(snapshot, PoolSnapshot)
    assert_type(snapshot.alias, str)
    assert_type(snapshot.in_use + snapshot.idle + snapshot.waiting, int)
    assert_type(pool.holders(stacks=True), tuple[Holder, ...])


@strict_sessions()
def checked(number: int) -> str:
    return str(number)


def strict() -> None:
    assert_type(checked(1), str)
    with strict_sessions(ignore=["work_mem"]) as nothing:
        assert_type(nothing, None)


def of_leak(error: SessionStateLeaked) -> None:
    as_failure: AssertionError = error
    assert str(as_failure)
    assert_type(error.alias, str)
    assert_type(error.state, tuple[str, ...])
    assert_type(error.statements, tuple[str, ...])


# -- audit ----------------------------------------------------------------------------------------------------------


def sources() -> None:
    found = audit_paths([__file__, Path(__file__)], select=["DBP1"], ignore=("DBP102",), exclude=["migrations"])
    assert_type(found, list[Finding])
    for finding in found:
        assert_type(f"{finding.path}{finding.rule}{finding.message}{finding.fix}", str)
        assert_type(finding.line + finding.column, int)
    report = audit([Path(__file__)])
    assert_type(report, Report)
    assert_type(report.files + report.silenced, int)


if TYPE_CHECKING:

    def refused() -> None:
        from_url_options("postgres://")  # type: ignore[arg-type]
        replayable(attempts="3")  # type: ignore[call-overload]
        page(HttpRequest(), "2026")  # type: ignore[arg-type]
        fallback(nothing_for, on="CircuitOpen")  # type: ignore[arg-type]
        fallback(nothing_for)(checked)  # type: ignore[arg-type]
        numbers("north", 2)  # type: ignore[call-arg]
        django_dbpool.shutdown("5")  # type: ignore[arg-type]
        django_dbpool.warm(using=7)  # type: ignore[arg-type]
        lifespan(checked)  # type: ignore[arg-type]
        DatabasePoolMiddleware(checked)  # type: ignore[arg-type]
        SessionVariablesMiddleware(checked)  # type: ignore[arg-type]
        strict_sessions(["work_mem"])  # type: ignore[call-arg]
        checked()  # type: ignore[call-arg]

    def refused_attributes(pool: ManagedPool) -> None:
        pool.snapshot().in_use = 1  # type: ignore[misc]
        pool.holders(True)  # type: ignore[call-arg]

    def refused_audit(finding: Finding) -> None:
        audit_paths("shop", select=7)  # type: ignore[arg-type]
        audit_paths(["shop"], ["DBP1"])  # type: ignore[call-arg]
        finding.line = 1  # type: ignore[misc]
