"""User code: looking at processes from outside, and exporting what they know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_type

import sentry_sdk
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry

from django_dbpool import advice, alerts, reports, server_counts
from django_dbpool.admin import ConnectionPoolAdmin, reserved_view
from django_dbpool.contrib import opentelemetry, prometheus
from django_dbpool.contrib.gunicorn import child_exit
from django_dbpool.contrib.sentry import DatabasePoolIntegration
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
from django_dbpool.models import ConnectionPool
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


if TYPE_CHECKING:

    def refused() -> None:
        prometheus.register("default")  # type: ignore[arg-type]
        alerts.provide("weather", None)  # type: ignore[call-overload]
        alerts.provide("server_connections", lambda alias: 7)  # type: ignore[call-overload]

    def refused_fleet(process: Process) -> None:
        processes(True)  # type: ignore[call-arg]
        server_of("default")  # type: ignore[call-arg]
        register_section("mail", 7)  # type: ignore[arg-type]
        process.age = 0.0  # type: ignore[misc]

    def refused_tracing(meters: MeterProvider) -> None:
        opentelemetry.install(tracer_provider=meters)  # type: ignore[arg-type]
        opentelemetry.install(histograms="exact")  # type: ignore[arg-type]
        DatabasePoolIntegration("drop")  # type: ignore[call-arg]
