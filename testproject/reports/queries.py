"""The same summary of all regions, read twice: as the incident's page did, and as its cure does."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Count, Max, Sum

from testproject.reports.models import Entry, Region


@dataclass(frozen=True)
class RegionSummary:
    region: str
    entries: int
    total: Decimal
    last_booking: dt.date | None


def one_query_per_row() -> list[RegionSummary]:
    """Ask for every row by itself, all at once: a thread for each, and on the stock engine a connection."""
    regions = list(Region.objects.all())
    if not regions:
        return []
    with ThreadPoolExecutor(max_workers=len(regions)) as executor:
        return list(executor.map(_summarise, regions))  # noqa: DBP201  # the incident


def one_query() -> list[RegionSummary]:
    """Let the server group the rows: one query, one connection, in the thread of the request."""
    rows = (
        Region.objects.annotate(
            entries=Count("reports__entries"),
            total=Sum("reports__entries__amount"),
            last=Max("reports__entries__booked_on"),
        )
        .order_by("name")  # grouping drops the model's ordering
        .values_list("name", "entries", "total", "last")
    )
    return [RegionSummary(name, entries, total or Decimal(0), last) for name, entries, total, last in rows]


def _summarise(region: Region) -> RegionSummary:
    found = Entry.objects.filter(report__region=region).aggregate(
        entries=Count("id"), total=Sum("amount"), last=Max("booked_on")
    )
    return RegionSummary(region.name, found["entries"], found["total"] or Decimal(0), found["last"])
