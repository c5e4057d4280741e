"""What there is to be asked: each endpoint with its parameters, the fields of its answer and where they come from."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from django.http import HttpResponse
from django.utils.encoding import escape_uri_path

from .. import health, reports
from ..core.process import Kind
from ..reports import Fleet, Page
from ..reports.holder_rows import SORTS
from ..reports.page import page_of
from . import metrics, openapi
from .answers import sealed
from .endpoint import Asked, Endpoint
from .parameters import PAGE, SEARCH, Parameter, choice, flag, text

READING: dict[str, Any] = {
    "source": Literal["fleet", "host", "process", "remembered"],
    "timestamp": float,
    "age": float,
    "stale": bool,
    "remarks": tuple[str, ...],
}
"""Of every answer about the fleet: where it comes from, and of when it is."""

PAGED: dict[str, Any] = {"page": int, "pages": int, "total": int, "per_page": int}

ALIAS = text("alias", "Only this database.")
SERVERS = flag("servers", "Ask the database servers for their sessions, too: one more query for each.")


def _read(asked: Asked) -> Fleet:
    fleet = reports.read(servers=bool(asked.values.get("servers")))
    if asked.viewer.strangers:
        return fleet
    hidden = tuple(dataclasses.replace(server, strangers=()) for server in fleet.servers)
    return dataclasses.replace(fleet, servers=hidden)


def _reading(fleet: Fleet) -> dict[str, Any]:
    return {
        "source": fleet.source,
        "timestamp": fleet.at,
        "age": fleet.age,
        "stale": fleet.stale,
        "remarks": list(fleet.remarks),
    }


def _paged(page: Page[Any]) -> dict[str, Any]:
    values = page.to_json()
    return {"page": values.pop("number"), **values}


def _listing(find: Callable[..., Page[Any]]) -> Callable[[Asked], dict[str, Any]]:
    """An endpoint that gives a page of a list, filtered by parameters that are named as the function's arguments."""
    taken = set(inspect.signature(find).parameters)

    def read(asked: Asked) -> dict[str, Any]:
        fleet = _read(asked)
        return {
            **_reading(fleet),
            **_paged(find(fleet, **{key: asked.values[key] for key in taken & set(asked.values)})),
        }

    return read


def _list(
    name: str,
    path: str,
    summary: str,
    row: type,
    find: Callable[..., Page[Any]],
    *parameters: Parameter,
    description: str = "",
) -> Endpoint:
    answer = {**READING, **PAGED, "items": tuple[row, ...]}  # type: ignore[valid-type]
    return Endpoint(name, path, summary, answer, _listing(find), (PAGE, SEARCH, *parameters), description)


# -- pools and holders --------------------------------------------------------------------------------------------


def _pools(asked: Asked) -> dict[str, Any]:
    return reports.overview(_read(asked)).to_json()


def _holders(asked: Asked) -> dict[str, Any]:
    values = dict(asked.values)
    servers = values.pop("servers")
    fleet = _read(asked)
    found = reports.holders(fleet, **values)
    may_see = servers and asked.viewer.strangers
    return {
        **_reading(fleet),
        **_paged(found),
        "left_out": reports.holders_left_out(fleet),
        "strangers": [each.to_json() for each in reports.strangers(fleet)] if may_see else None,
    }


def _alerts(asked: Asked) -> dict[str, Any]:
    values = dict(asked.values)
    active = {"active": True, "over": False}.get(values.pop("state"))
    fleet = _read(asked)
    return {**_reading(fleet), **_paged(reports.alerts(fleet, active=active, **values))}


def _advice(asked: Asked) -> dict[str, Any]:
    fleet = _read(asked)
    return {**_reading(fleet), "items": [each.to_json() for each in reports.advice(fleet)]}


def _batches(asked: Asked) -> dict[str, Any]:
    found = reports.batches(**asked.values)
    return {"timestamp": time.time(), "remarks": list(found.remarks), **_paged(found.rows)}


def _batch_failures(asked: Asked) -> dict[str, Any]:
    found, why = reports.batch_failures(**asked.values)
    return {"timestamp": time.time(), "remarks": [why] if why else [], **_paged(found)}


def _metrics(asked: Asked) -> dict[str, Any] | HttpResponse:
    exported = metrics.for_prometheus(asked.request)
    if exported is not None:
        return sealed(exported)
    fleet = _read(asked)
    page = page_of(metrics.counted(fleet.processes), asked.values["page"], lambda make: make())
    return {**_reading(fleet), **_paged(page)}


# -- the document -------------------------------------------------------------------------------------------------

COMPUTED: Mapping[type, tuple[str, ...]] = {
    reports.Percentiles: ("mean",),
    reports.AdviceReport: ("changes",),
    health.Saturation: ("is_exhausted",),
}
"""What these classes say of themselves besides their fields."""


def _openapi(asked: Asked) -> dict[str, Any]:
    # Where it was asked for: a project may have put these paths into a namespace of its own, or into two places.
    here = escape_uri_path(asked.request.path)
    return {**_document(), "servers": [{"url": here.removesuffix("/openapi.json")}]}


@cache
def _document() -> dict[str, Any]:
    return openapi.document(ENDPOINTS, PROBES, computed=COMPUTED)


PROBES: tuple[tuple[str, str, type], ...] = (
    ("health/live", "Whether this process answers", health.Live),
    ("health/ready", "Whether requests should be sent to this process", health.Ready),
)

ENDPOINTS = (
    Endpoint(
        "pools",
        "pools",
        "How everything is: a sentence, what is wrong, and the figures of every database",
        get_type_hints(reports.Overview),
        _pools,
        (SERVERS,),
    ),
    _list(
        "processes",
        "processes",
        "Which processes there are",
        reports.ProcessRow,
        reports.processes,
        choice("role", "Only such.", get_args(Kind)),
        choice("state", "Only such.", ["active", "idle", "ended", "stale"]),
    ),
    Endpoint(
        "holders",
        "holders",
        "Who holds connections",
        {
            **READING,
            **PAGED,
            "items": tuple[reports.HolderRow, ...],
            "left_out": int,
            "strangers": tuple[reports.StrangerRow, ...] | None,
        },
        _holders,
        (
            PAGE,
            SEARCH,
            ALIAS,
            text("process", "Only those of this process: its name or instance."),
            choice(
                "state",
                "Only such. idle: all that run no statement.",
                ["running", "idle", "idle in transaction", "failed transaction", "lost", "pinned", "reserved"],
            ),
            choice(
                "sort",
                "age: the longest first. With - the other way round.",
                [*SORTS, *(f"-{each}" for each in SORTS)],
                "age",
            ),
            SERVERS,
        ),
        "Each process tells of those 50 that have held longest; left_out is how many more there are. strangers, "
        "sessions that no process knows of, are told with servers=true to those who may see them.",
    ),
    _list(
        "operations",
        "operations",
        "What runs, and what has lately ended",
        reports.OperationRow,
        reports.operations,
        flag("running", "Those that run; else those that have ended.", default=True),
        choice("kind", "Only such.", ["request", "task", "command", "operation", "thread"]),
    ),
    Endpoint(
        "batches",
        "batches",
        "Runs of batches, the latest first",
        {"timestamp": float, "remarks": tuple[str, ...], **PAGED, "items": tuple[reports.BatchRow, ...]},
        _batches,
        (
            PAGE,
            SEARCH,
            ALIAS,
            choice("state", "Only such. trouble: open, and dead, given up or failed.", reports.BATCH_STATES),
        ),
        "Each database that remembers runs is asked; remarks tell which could not be. Pages have 25 runs.",
    ),
    Endpoint(
        "batches-failures",
        "batches/failures",
        "Items that one run of batches could not do, the latest first",
        {"timestamp": float, "remarks": tuple[str, ...], **PAGED, "items": tuple[reports.BatchFailureRow, ...]},
        _batch_failures,
        (PAGE, SEARCH, text("name", "Of the run."), text("alias", "Its database.", "default")),
    ),
    _list(
        "statements-slow",
        "statements/slow",
        "Statements that took longer than DBPOOL['SLOW_STATEMENT']",
        reports.SlowStatementRow,
        reports.slow_statements,
        ALIAS,
        choice("sort", "total: the most time first.", ["count", "longest", "at"], "total"),
    ),
    _list(
        "statements-repeated",
        "statements/repeated",
        "Statements that single requests or tasks execute again and again",
        reports.RepeatedStatementRow,
        reports.repeated_statements,
        ALIAS,
        choice("sort", "total: what makes the most statements first.", ["count", "most", "at"], "total"),
    ),
    Endpoint(
        "alerts",
        "alerts",
        "Alerts of all processes",
        {**READING, **PAGED, "items": tuple[reports.AlertRow, ...]},
        _alerts,
        (
            PAGE,
            SEARCH,
            ALIAS,
            choice("severity", "Only such.", ["critical", "warning"]),
            choice("state", "Only those that are so now, or only those that are over.", ["active", "over"]),
        ),
    ),
    Endpoint(
        "advice",
        "advice",
        "Which settings fit the measured load",
        {**READING, "items": tuple[reports.AdviceReport, ...]},
        _advice,
    ),
    Endpoint(
        "metrics",
        "metrics",
        "What each process has counted since it began",
        {**READING, **PAGED, "items": tuple[metrics.Counted, ...]},
        _metrics,
        (PAGE,),
        "Where the app django_dbpool.contrib.prometheus is installed and the request prefers OpenMetrics or text/plain "
        "(Prometheus does), the answer is what that app exports of this process.",
    ),
    Endpoint(
        "openapi",
        "openapi.json",
        "This document",
        {
            "openapi": str,
            "info": Mapping[str, Any],
            "servers": tuple[Mapping[str, Any], ...],
            "security": tuple[Mapping[str, Any], ...],
            "tags": tuple[Mapping[str, Any], ...],
            "paths": Mapping[str, Any],
            "components": Mapping[str, Any],
        },
        _openapi,
    ),
)
