"""
The public names as an application uses them, with the types that it may count on.

What has to be refused is at the end: an ignore comment that nothing needs is an error too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, assert_type

import sentry_sdk
from django.contrib.admin import AdminSite
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql import base
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

import django_dbpool
from django_dbpool import advice, alerts, errors, operations, reports, server_counts, transaction
from django_dbpool.admin import ConnectionPoolAdmin, reserved_view
from django_dbpool.asgi import lifespan
from django_dbpool.audit import Finding, Report, audit, audit_paths
from django_dbpool.backends.mixin import PooledDatabaseMixin
from django_dbpool.batch import (
    BatchProgress,
    BatchResult,
    Delivery,
    FailedItem,
    Message,
    arun_batches,
    idempotency_key,
    outbox,
    run_batches,
)
from django_dbpool.conf import from_url_options
from django_dbpool.contrib import opentelemetry, prometheus
from django_dbpool.contrib.gunicorn import child_exit
from django_dbpool.contrib.sentry import DatabasePoolIntegration
from django_dbpool.core.ledger import Holder
from django_dbpool.core.stopping import ShutdownResult
from django_dbpool.decorators import fallback, replayable
from django_dbpool.fleet import (
    FleetUnavailable,
    Process,
    Session,
    commands,
    processes,
    register_section,
    server_of,
    snapshot,
)
from django_dbpool.fleet.socket_client import LocalAnswer, LocalProcesses, ask_local, local_processes
from django_dbpool.middleware import DatabasePoolMiddleware, SessionVariablesMiddleware
from django_dbpool.models import ConnectionPool
from django_dbpool.pool.managed import ManagedPool
from django_dbpool.pool.reporting import PoolSnapshot
from django_dbpool.statements import (
    Activity,
    RepeatedStatement,
    ServerStatements,
    SlowStatement,
    activity,
    repeated_statements,
    server_statements,
    slow_statements,
)
from django_dbpool.testing import SessionStateLeaked, strict_sessions
from django_dbpool.threads import ThreadPoolExecutor, TooManyThreads, spawn, spawn_on_commit

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


# -- asking and telling processes -----------------------------------------------------------------------------------


def ask() -> None:
    found = local_processes(timeout=1)
    assert_type(found, LocalProcesses)
    assert_type(found.answers, tuple[LocalAnswer, ...])
    assert_type(found.refused, tuple[str, ...])
    for process in found.answers:
        assert_type(process.pid, int)
        assert_type(process.ok, bool)
        assert_type(process.error, str)
        assert_type(process.to_json(), dict[str, Any])
    assert_type(ask_local("drain", pid=4711, alias="default"), LocalProcesses)


def tell() -> None:
    sent = commands.send("0f3a9c51d2e87b64", "drain", using="default", lifetime=10, alias="other")
    assert_type(sent, commands.Sent)
    assert_type(commands.result_of(sent), commands.CommandResult | None)
    result = commands.wait_for(sent, timeout=5.0)
    assert_type(result.outcome, str)
    assert_type(result.to_json(), dict[str, Any])


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


# -- statements -----------------------------------------------------------------------------------------------------


def worst_statements() -> list[str]:
    assert_type(slow_statements(), tuple[SlowStatement, ...])
    assert_type(repeated_statements(), tuple[RepeatedStatement, ...])
    assert_type(activity(), tuple[Activity, ...])
    lines = [f"{row.count} x {row.mean:.1f} s in {row.name}: {row.sql}" for row in slow_statements()]
    lines += [f"{row.most} x from {row.where}: {row.sql}" for row in repeated_statements()]
    lines += [f"{row.name}: {row.held.five_minutes:.1f} of {row.baseline:.1f}" for row in activity()]
    found = server_statements("default", limit=5)
    assert_type(found, ServerStatements)
    lines += [f"{row.total:.0f} s in {row.calls} calls: {row.sql}" for row in found.statements]
    return [*lines, found.reason or ""]


def as_json() -> dict[str, Any]:
    return {"slow": [row.to_json() for row in slow_statements()], "server": server_statements().to_json()}


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


# -- operations and threads -----------------------------------------------------------------------------------------


@operations.track_operation("import", total=10, tags={"supplier": "7"})
def imported(number: int) -> str:
    operations.advance(2, total=20)
    return str(number)


@operations.track_operation("import later")
async def imported_later(number: int) -> str:
    return str(number)


async def watched(holder: Holder) -> None:
    assert_type(imported(7), str)
    assert_type(await imported_later(7), str)
    async with operations.track_operation("export") as operation:
        operation.advance()
    for each in (*operations.running(), *operations.recent()):
        assert_type(each.to_json(), dict[str, Any])
        assert_type(each.holding, float | None)
        assert_type([held.backend_pid for held in each.held], list[int])
        if each.progress is not None:
            assert_type(each.progress.seconds_left, float | None)
    target = operations.aim(holder)
    assert_type(operations.Target.from_json(target.to_json()), operations.Target)
    outcome = operations.terminate(target) if holder.since_seconds > 60 else operations.cancel(target)
    assert_type(outcome, operations.Outcome)


def threads() -> None:
    try:
        assert_type(spawn(imported, 7, name="seven", tags={"a": "b"}), Future[str])
    except TooManyThreads:
        spawn_on_commit(imported, 7, using="default")
    with ThreadPoolExecutor(2, name="numbers") as executor:
        assert_type(executor.submit(imported, 7), Future[str])


# -- the fleet ------------------------------------------------------------------------------------------------------


def fleet() -> None:
    register_section("mail", lambda: {"waiting": 7})
    assert_type(snapshot(), dict[str, Any])
    try:
        found = processes(ended=True)
    except FleetUnavailable as error:
        assert_type(str(error), str)
        return
    assert_type(found, tuple[Process, ...])
    for process in found:
        assert_type(f"{process.name} {process.identity.host} {process.state}", str)
        assert_type(process.age + process.holders[0].since_seconds, float)
        assert_type([pool.snapshot.in_use for pool in process.pools], list[int])
        assert_type(process.stale, bool)
        assert_type(process.to_json(), dict[str, Any])
    server = server_of("default", found)
    assert_type(server.strangers, tuple[Session, ...])
    assert_type([held.idle_in_transaction_seconds for held in server.held], list[float | None])
    assert_type(server.max_connections - server.connections, int)


# -- reports --------------------------------------------------------------------------------------------------------


def what_people_see() -> None:
    fleet = reports.read(servers=True)
    assert_type(fleet.processes, tuple[Process, ...])
    assert_type(reports.remembered(), reports.Fleet | None)
    whole = reports.overview(reports.own())
    assert_type(whole.sentence, str)
    assert_type(whole.problems, tuple[reports.Problem, ...])
    for database in whole.databases:
        assert_type(database.waits.p95, float | None)
        assert_type(database.series.active, tuple[int, ...])
        assert_type(database.circuit_changes, tuple[reports.CircuitStep, ...])
    page = reports.holders(fleet, page=2, q="reports", state="idle", sort="-age")
    assert_type(page, reports.Page[reports.HolderRow])
    assert_type(reports.target_of(page.items[0].key), tuple[str, str, int, int])
    assert_type([each.text for each in reports.culprits(fleet)], list[str])
    assert_type(reports.processes(fleet).items, tuple[reports.ProcessRow, ...])
    assert_type(reports.operations(fleet, running=False), reports.Page[reports.OperationRow])
    assert_type(reports.slow_statements(fleet), reports.Page[reports.SlowStatementRow])
    assert_type(reports.repeated_statements(fleet), reports.Page[reports.RepeatedStatementRow])
    assert_type(reports.alerts(fleet, active=True), reports.Page[reports.AlertRow])
    assert_type(reports.strangers(fleet), tuple[reports.StrangerRow, ...])
    assert_type(reports.advice(fleet), tuple[reports.AdviceReport, ...])
    assert_type(page.to_json(), dict[str, Any])


# -- exporters ------------------------------------------------------------------------------------------------------


def own_site() -> list[URLPattern]:
    operators = AdminSite(name="operators")
    operators.register(ConnectionPool, ConnectionPoolAdmin)
    assert_type(reserved_view(operators.login), Callable[..., HttpResponseBase])
    return [path("operators/login/", reserved_view(operators.login))]


class OwnDashboard(ConnectionPoolAdmin):
    def has_operate_permission(self, request: HttpRequest) -> bool:
        return super().has_operate_permission(request) and request.META["REMOTE_ADDR"] == "127.0.0.1"


def exported() -> None:
    registry = CollectorRegistry()
    prometheus.register()
    prometheus.register(registry)
    prometheus.unregister(registry=registry)
    prometheus.unregister()
    assert_type(prometheus.metrics(HttpRequest()), HttpResponse)
    assert_type(path("metrics/", prometheus.metrics), URLPattern)
    hook: Callable[[Any, Any], None] = child_exit
    assert callable(hook)


def tracing(meters: MeterProvider, tracers: TracerProvider) -> None:
    opentelemetry.install()
    opentelemetry.install(meters, tracers, histograms="recorded", server_interval=None)
    opentelemetry.uninstall()
    server_counts.watch("shop", interval=30.0)
    counts = server_counts.latest("default")
    assert_type(counts, server_counts.ServerCounts | None)
    server_counts.unwatch("shop")
    sentry_sdk.init(integrations=[DatabasePoolIntegration(), DatabasePoolIntegration(expected="drop")])


# -- alerts and advice ----------------------------------------------------------------------------------------------


def on_alert(change: alerts.Change, **kwargs: Any) -> None:
    assert_type(change.alert, alerts.Alert)
    assert_type(change.seconds, float)
    assert_type(change.to_json(), dict[str, Any])


def wrong_now() -> list[str]:
    alerts.alert_changed.connect(on_alert)
    alerts.provide("server_connections", lambda alias: (87, 100))
    alerts.provide("strangers", lambda alias: None)
    alerts.provide("activity", None)
    assert_type(alerts.recent(), tuple[alerts.Change, ...])
    return [f"{alert.severity} {alert.text} {alert.todo} {alert.holders}" for alert in alerts.active()]


def load() -> float:
    assert_type(advice.load_section(), dict[str, Any] | None)
    return max((load.peak_load for load in advice.own_load().aliases.values()), default=0.0)


# -- batches --------------------------------------------------------------------------------------------------------


def retire(users: list[User]) -> None:
    for user in users:
        outbox.put("farewell", {"user": user.pk}, key=idempotency_key(user))
    User.objects.filter(pk__in=[user.pk for user in users]).update(is_active=False)


def say(progress: BatchProgress) -> None:
    assert_type(progress.seconds_left, float | None)


async def say_later(progress: BatchProgress) -> None:
    await asyncio.sleep(0)


def skip_staff(failed: FailedItem[User]) -> Literal["raise", "skip"]:
    return "skip" if failed.item.is_staff else "raise"


def farewell(message: Message) -> None:
    print(message.topic, message.payload["user"], message.key)


def retire_all() -> None:
    users = User.objects.filter(is_active=True)
    result = run_batches(
        users,
        retire,
        key=("username", "id"),
        size=100,
        pause=0.5,
        using="default",
        checkpoint="retire users 2026",
        deadline=3600,
        on_progress=say,
        should_stop=lambda: False,
        on_error=skip_staff,
        statement_timeout=5,
        busy_above=None,
    )
    assert_type(result, BatchResult)
    assert_type(result.finished, bool)
    assert_type(outbox.deliver("farewell", farewell, limit=10), Delivery)


async def retire_later() -> None:
    assert_type(await arun_batches(User.objects.all(), retire, on_progress=say_later, on_error="skip"), BatchResult)


if TYPE_CHECKING:

    def refused_batches(result: BatchResult) -> None:
        run_batches(User.objects.all(), len, on_error="ignore")  # type: ignore[arg-type]
        run_batches([1, 2], print)  # type: ignore[arg-type]
        run_batches(User.objects.all(), retire, size="50")  # type: ignore[arg-type]
        run_batches(User.objects, retire)  # type: ignore[arg-type]
        result.done = 7  # type: ignore[misc]

    def refused_tracing(meters: MeterProvider) -> None:
        opentelemetry.install(tracer_provider=meters)  # type: ignore[arg-type]
        opentelemetry.install(histograms="exact")  # type: ignore[arg-type]
        DatabasePoolIntegration("drop")  # type: ignore[call-arg]

    def refused() -> None:
        prometheus.register("default")  # type: ignore[arg-type]

        alerts.provide("weather", None)  # type: ignore[call-overload]
        alerts.provide("server_connections", lambda alias: 7)  # type: ignore[call-overload]
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
        checked()  # type: ignore[call-arg]

    def refused_attributes(error: errors.PoolError, pool: ManagedPool) -> None:
        assert error.maybe_committed  # type: ignore[attr-defined]
        error.holders[0].since = 1  # type: ignore[attr-defined]
        error.holders[0].state = "idle"  # type: ignore[misc]
        pool.snapshot().in_use = 1  # type: ignore[misc]
        pool.holders(True)  # type: ignore[call-arg]
        from_url_options("postgres://")  # type: ignore[arg-type]
        replayable(attempts="3")  # type: ignore[call-overload]
        page(HttpRequest(), "2026")  # type: ignore[arg-type]
        fallback(nothing_for, on="CircuitOpen")  # type: ignore[arg-type]
        fallback(nothing_for)(label)  # type: ignore[arg-type]
        numbers("north", 2)  # type: ignore[call-arg]
        django_dbpool.shutdown("5")  # type: ignore[arg-type]
        django_dbpool.warm(using=7)  # type: ignore[arg-type]
        lifespan(label)  # type: ignore[arg-type]
        DatabasePoolMiddleware(label)  # type: ignore[arg-type]
        SessionVariablesMiddleware(label)  # type: ignore[arg-type]
        strict_sessions(["work_mem"])  # type: ignore[call-arg]

    def refused_operations(operation: operations.Operation, target: operations.Target) -> None:
        operations.track_operation(7)  # type: ignore[arg-type]
        operations.track_operation("a", tags={"a": 1})  # type: ignore[dict-item]
        operations.advance("1")  # type: ignore[arg-type]
        operation.state = "done"  # type: ignore[misc]
        target.generation = 1  # type: ignore[misc]
        operations.cancel(operation)  # type: ignore[arg-type]
        spawn(imported, tags=["a"])  # type: ignore[arg-type]
        ThreadPoolExecutor(2).submit(imported, "7")  # type: ignore[arg-type]
        imported("7")  # type: ignore[arg-type]

    def refused_fleet(process: Process) -> None:
        processes(True)  # type: ignore[call-arg]
        server_of("default")  # type: ignore[call-arg]
        register_section("mail", 7)  # type: ignore[arg-type]
        process.age = 0.0  # type: ignore[misc]

    def refused_audit(finding: Finding) -> None:
        audit_paths("shop", select=7)  # type: ignore[arg-type]
        audit_paths(["shop"], ["DBP1"])  # type: ignore[call-arg]
        finding.line = 1  # type: ignore[misc]
