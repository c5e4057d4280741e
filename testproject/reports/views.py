from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.db import OperationalError
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import aget_object_or_404, get_object_or_404, render

from testproject.reports import engine, queries
from testproject.reports.errors import describe, failure_response, friendly_errors, wants_json
from testproject.reports.models import Entry, Report
from testproject.reports.rates import aeuro_rate, euro_rate
from testproject.reports.stale import last_good


@friendly_errors
def index(request: HttpRequest) -> HttpResponseBase:
    report = Report.objects.select_related("region").first()
    return render(request, "reports/index.html", {"report": report, "engine": engine.facts()})


@friendly_errors
def naive(request: HttpRequest) -> HttpResponseBase:
    """The page of the incident."""
    return _summary(request, "naive", queries.one_query_per_row)


@friendly_errors
def fixed(request: HttpRequest) -> HttpResponseBase:
    """The page as it was repaired."""
    return _summary(request, "fixed", queries.one_query)


@friendly_errors
@last_good
def kept(request: HttpRequest) -> HttpResponse:
    """The repaired page, as it was when the database could last be asked."""
    return _summary(request, "kept", queries.one_query)


@friendly_errors
def priced(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Query, wait for another service, query again."""
    report = get_object_or_404(Report.objects.select_related("region"), pk=pk)
    rate = euro_rate(report.currency)
    total = _entries(report).aggregate(total=Sum("amount"))["total"]
    return _priced_response(request, report, total, rate)


async def priced_async(request: HttpRequest, pk: int) -> HttpResponse:
    """The same as a coroutine: it waits without a thread, and the ORM runs in the thread of the request."""
    try:
        report = await aget_object_or_404(Report.objects.select_related("region"), pk=pk)
        rate = await aeuro_rate(report.currency)
        total = (await _entries(report).aaggregate(total=Sum("amount")))["total"]
    except OperationalError as error:
        return failure_response(request, describe(error))
    return _priced_response(request, report, total, rate)


def _summary(request: HttpRequest, page: str, read: Callable[[], list[queries.RegionSummary]]) -> HttpResponse:
    started = time.perf_counter()
    rows = read()
    milliseconds = (time.perf_counter() - started) * 1000
    if wants_json(request):
        return JsonResponse({"page": page, "rows": [_as_json(row) for row in rows]})
    context = {"page": page, "rows": rows, "milliseconds": milliseconds, "engine": engine.facts()}
    return render(request, "reports/summary.html", context)


def _entries(report: Report) -> Any:
    return Entry.objects.filter(report=report)


def _priced_response(request: HttpRequest, report: Report, total: Decimal | None, rate: Decimal) -> HttpResponse:
    facts = {
        "report": report.pk,
        "region": report.region.name,
        "currency": report.currency,
        "total": total or Decimal(0),
        "euros": ((total or Decimal(0)) * rate).quantize(Decimal("0.01")),
    }
    if wants_json(request):
        return JsonResponse(facts)
    return render(request, "reports/priced.html", {**facts, "report": report, "engine": engine.facts()})


def _as_json(row: queries.RegionSummary) -> dict[str, object]:
    return {
        "region": row.region,
        "entries": row.entries,
        "total": str(row.total),
        "last_booking": row.last_booking and row.last_booking.isoformat(),
    }
