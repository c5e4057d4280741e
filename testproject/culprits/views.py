"""Pages of a shop. One is as it should be; two have what takes a site down at night."""

from __future__ import annotations

import datetime as dt
import os
import queue
import threading
import urllib.request

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from testproject.reports.models import Entry, Report

PAYMENTS = os.environ.get("DBPOOL_CULPRITS_PAYMENTS", "")
"""Address of the payment service, which has stopped answering."""

_prices: queue.SimpleQueue[int] = queue.SimpleQueue()


def book(request: HttpRequest, pk: int) -> HttpResponse:
    """As it should be: a short transaction."""
    Entry.objects.create(report_id=pk, booked_on=dt.date(2025, 1, 1), amount=1)
    return HttpResponse("booked\n")


def pay(request: HttpRequest, pk: int) -> HttpResponse:
    """Keeps its transaction, and so its connection, for as long as the payment service takes to answer."""
    with transaction.atomic():
        report = Report.objects.select_for_update().get(pk=pk)
        urllib.request.urlopen(f"{PAYMENTS}/{report.pk}/").close()  # noqa: DBP301  # the culprit
        Entry.objects.create(report=report, booked_on=dt.date(2025, 1, 1), amount=1)
    return HttpResponse("paid\n")


def follow(request: HttpRequest, pk: int) -> HttpResponse:
    """Starts a thread that never gives its connection back."""
    threading.Thread(target=follow_prices, args=(pk,), daemon=True).start()  # noqa: DBP202  # the culprit
    return HttpResponse("followed\n")


def follow_prices(pk: int) -> None:
    transaction.set_autocommit(False)
    report = Report.objects.get(pk=pk)
    while True:
        price = _prices.get()  # nobody puts one there
        Entry.objects.create(report=report, booked_on=dt.date(2025, 1, 1), amount=price)
        transaction.commit()
