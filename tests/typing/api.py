"""
The public names as an application uses them, with the types that it may count on.

What has to be refused is at the end: an ignore comment that nothing needs is an error too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, assert_type

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from django_dbpool import errors, transaction
from django_dbpool.audit import Finding, Report, audit, audit_paths
from django_dbpool.backends.mixin import PooledDatabaseMixin
from django_dbpool.conf import from_url_options
from django_dbpool.core.ledger import Holder
from django_dbpool.middleware import DatabasePoolMiddleware, SessionVariablesMiddleware
from django_dbpool.pool.managed import ManagedPool
from django_dbpool.pool.reporting import PoolSnapshot
from django_dbpool.testing import SessionStateLeaked, strict_sessions

# -- transactions ---------------------------------------------------------------------------------------------------


@transaction.atomic
def bare(number: int) -> str:
    return str(number)


@transaction.atomic()
def total(numbers: list[int], *, start: int = 0) -> int:
    return sum(numbers, start)


@transaction.atomic(using="default", savepoint=False, durable=True, eager=True)
def label(number: int) -> str:
    return str(number)


def atomic() -> None:
    assert_type(total([1], start=2), int)
    assert_type(label(7), str)
    assert_type(bare(1), str)
    with transaction.atomic("default", durable=True) as nothing:
        assert_type(nothing, None)


def pin() -> None:
    with transaction.pin() as connection:
        assert_type(connection, BaseDatabaseWrapper)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    with transaction.pin(using="default"):
        pass


def dedicated() -> None:
    with transaction.dedicated("default", autocommit=False, application_name="leader") as connection:
        connection.execute("SELECT 1")
        connection.commit()
        assert_type(connection.info.backend_pid, int)


# -- session variables ----------------------------------------------------------------------------------------------


@transaction.session(statement_timeout="5s")
def report(year: int, *, title: str = "") -> str:
    return f"{title}{year}"


@transaction.session("default", search_path=["tenant_7", "public"], **{"app.tenant": 7})
async def report_later(year: int) -> list[int]:
    return [year]


class Reports:
    @transaction.session(using="default", lock_timeout=1.5)
    def of(self, year: int) -> str:
        return str(year)


def session() -> None:
    assert_type(report(2026, title="a"), str)
    assert_type(asyncio.run(report_later(2026)), list[int])
    assert_type(Reports().of(2026), str)
    with transaction.session() as nothing:
        assert_type(nothing, None)
    with transaction.session(**{"app.tenant": 7, "app.region": "north", "app.beta": True, "app.left": None}):
        pass
    of_tenant: Mapping[str, object] = {"app.tenant": 7}
    with transaction.session(**of_tenant):
        pass


async def cancelling() -> int:
    async with transaction.cancel_with_task() as nothing:
        assert_type(nothing, None)
        return 1


# -- errors ---------------------------------------------------------------------------------------------------------


def of_pool(error: errors.PoolError) -> str:
    as_djangos: OperationalError = error
    assert_type(error.alias, str)
    assert_type(error.waited, float)
    assert_type(error.in_use, int)
    assert_type(error.max_size, int)
    assert_type(error.waiting, int)
    assert_type(error.retry_after, float)
    assert_type(error.holders, tuple[Holder, ...])
    for holder in error.holders:
        of_holder(holder)
    return str(as_djangos)


def of_holder(holder: Holder) -> None:
    assert_type(holder.backend_pid, int)
    assert_type(holder.thread, str)
    assert_type(holder.thread_ident, int)
    assert_type(holder.unit, str | None)
    assert_type(holder.since_seconds, float)
    assert_type(holder.pinned, str | None)
    assert_type(holder.state, str)
    assert_type(holder.stack, tuple[str, ...])


def kind_of(error: Exception) -> str:
    """Each of them can be told from the others."""
    match error:
        case errors.PoolExhausted():
            return of_pool(error)
        case errors.DatabaseUnavailable() | errors.CircuitOpen() | errors.ServerConnectionsExhausted():
            assert_type(error, errors.DatabaseUnavailable | errors.CircuitOpen | errors.ServerConnectionsExhausted)
            return of_pool(error)
        case errors.LeaseTimedOut():
            assert_type(error.setting, str)
            assert_type(error.limit, float | None)
            assert_type(error.maybe_committed, bool)
            return of_pool(error)
        case errors.RawAccessRefused() | errors.RawAccessWarning():
            return "raw"
    return ""


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
        transaction.atomic(eagre=True)  # type: ignore[call-overload]
        transaction.atomic("default", True, False, True)  # type: ignore[call-overload]
        transaction.pin(7)  # type: ignore[arg-type]
        transaction.dedicated(autocommit="no")  # type: ignore[arg-type]
        transaction.session(7)  # type: ignore[call-overload]
        transaction.session("default", "other")  # type: ignore[call-overload]
        transaction.session()(7)  # type: ignore[type-var]
        with transaction.cancel_with_task():  # type: ignore[attr-defined]
            pass

    def refused_signatures() -> None:
        report("2026")  # type: ignore[arg-type]
        report(2026, name="a")  # type: ignore[call-arg]
        report_later(2026) + 1  # type: ignore[operator]
        total("1")  # type: ignore[arg-type]
        checked()  # type: ignore[call-arg]

    def refused_attributes(error: errors.PoolError, pool: ManagedPool) -> None:
        assert error.maybe_committed  # type: ignore[attr-defined]
        error.holders[0].since = 1  # type: ignore[attr-defined]
        error.holders[0].state = "idle"  # type: ignore[misc]
        pool.snapshot().in_use = 1  # type: ignore[misc]
        pool.holders(True)  # type: ignore[call-arg]
        from_url_options("postgres://")  # type: ignore[arg-type]
        DatabasePoolMiddleware(label)  # type: ignore[arg-type]
        SessionVariablesMiddleware(label)  # type: ignore[arg-type]
        strict_sessions(["work_mem"])  # type: ignore[call-arg]

    def refused_audit(finding: Finding) -> None:
        audit_paths("shop", select=7)  # type: ignore[arg-type]
        audit_paths(["shop"], ["DBP1"])  # type: ignore[call-arg]
        finding.line = 1  # type: ignore[misc]
