"""User code: transactions, how long they may take, session variables, and what to do about errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, assert_type

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse

from django_dbpool import errors, transaction
from django_dbpool.core.ledger import Holder

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


@transaction.reserved()
def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@transaction.group("batch")
async def rebuild(number: int) -> str:
    return str(number)


@transaction.priority
def pay(*, cents: int) -> bool:
    return cents > 0


@transaction.priority()
def refund(cents: int) -> bool:
    return cents > 0


@transaction.reserved
async def dashboard(number: int) -> str:
    return str(number)


async def marked() -> None:
    assert_type(health(HttpRequest()), HttpResponse)
    assert_type(await rebuild(1), str)
    assert_type(pay(cents=5), bool)
    assert_type(refund(5), bool)
    assert_type(await dashboard(1), str)
    async with transaction.reserved(), transaction.group("batch"):
        pass
    with transaction.reserved(), transaction.priority(), transaction.group("customer 7") as nothing:
        assert_type(nothing, None)
    try:
        pay(cents=1)
    except errors.PoolOverloaded as error:
        assert_type(error.holders_age, float)
        assert_type([holder.group for holder in error.holders], list[str | None])


def dedicated() -> None:
    with transaction.dedicated("default", autocommit=False, application_name="leader") as connection:
        connection.execute("SELECT 1")
        connection.commit()
        assert_type(connection.info.backend_pid, int)


@transaction.retrying
def book(seat: int, *, name: str = "") -> str:
    return f"{seat}{name}"


@transaction.retrying("default", attempts=3, total=2, max_delay=0.5, on=(ValueError, KeyError))
def book_patiently(seat: int) -> int:
    return seat


@transaction.retrying(atomic=False)
async def vacuum(table: str) -> str:
    return table


class Booking:
    @transaction.retrying(on=ValueError)
    def of(self, seat: int) -> int:
        return seat


def retrying() -> None:
    assert_type(book(7, name="a"), str)
    assert_type(book_patiently(7), int)
    assert_type(asyncio.run(vacuum("orders")), str)
    assert_type(Booking().of(7), int)
    for attempt in transaction.retrying(using="default", clock=lambda: 0.0, sleep=print, random=lambda: 0.5):
        assert_type(attempt.number, int)
        with attempt:
            bare(1)
    assert_type(transaction.retrying().call(bare, 7), str)


async def retrying_later() -> None:
    async for attempt in transaction.retrying(atomic=False, sleep=asyncio.sleep):
        async with attempt:
            assert_type(attempt.number, int)
    assert_type(await transaction.retrying(atomic=False).call_async(vacuum, "orders"), str)


@transaction.idempotent
def read(year: int) -> int:
    return year


@transaction.idempotent()
@transaction.deadline(2.5)
async def read_later(year: int) -> int:
    async with transaction.idempotent(), transaction.deadline(1):
        return year


def limits() -> None:
    assert_type(read(2026), int)
    assert_type(asyncio.run(read_later(2026)), int)
    with transaction.deadline(1) as nothing, transaction.idempotent() as nothing_either:
        assert_type(nothing, None)
        assert_type(nothing_either, None)


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
        case errors.ShuttingDown():
            return of_pool(error)
        case errors.LeaseTimedOut():
            assert_type(error.setting, str)
            assert_type(error.limit, float | None)
            assert_type(error.maybe_committed, bool)
            return of_pool(error)
        case errors.CommitUnknown():
            return "look"
        case errors.ConnectionLost():
            assert_type(error.maybe_committed, bool)
            return "look" if error.maybe_committed else of_pool(error)
        case errors.RetryingInsideTransaction():
            as_djangos: TransactionManagementError = error
            return str(as_djangos)
        case errors.RawAccessRefused() | errors.RawAccessWarning():
            return "raw"
    return ""


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
        transaction.retrying(7)  # type: ignore[call-overload]
        transaction.retrying(attempts="3")  # type: ignore[call-overload]
        transaction.retrying(on=7)  # type: ignore[call-overload]
        transaction.retrying().call(book, "7")  # type: ignore[arg-type]
        transaction.idempotent("default")  # type: ignore[call-overload]
        transaction.deadline()  # type: ignore[call-arg]
        transaction.deadline("1")  # type: ignore[arg-type]

    def refused_signatures() -> None:
        book("7")  # type: ignore[arg-type]
        read("2026")  # type: ignore[arg-type]
        report("2026")  # type: ignore[arg-type]
        report(2026, name="a")  # type: ignore[call-arg]
        report_later(2026) + 1  # type: ignore[operator]
        total("1")  # type: ignore[arg-type]

    def refused_attributes(error: errors.PoolError) -> None:
        assert error.maybe_committed  # type: ignore[attr-defined]
        error.holders[0].since = 1  # type: ignore[attr-defined]
        error.holders[0].state = "idle"  # type: ignore[misc]
