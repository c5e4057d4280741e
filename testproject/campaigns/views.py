from __future__ import annotations

import time
from collections.abc import Callable

from django.db.models import Count, F, Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404

from testproject.campaigns.models import Campaign, Recipient
from testproject.reports.errors import ERROR_HEADER, name_of

ELSEWHERE = 0.2
"""Seconds that the service for click rates needs to answer."""


def campaign(request: HttpRequest, pk: int) -> HttpResponse:
    """Query, wait for another service, query again."""
    found = get_object_or_404(Campaign, pk=pk)
    time.sleep(ELSEWHERE)
    counts = Recipient.objects.filter(campaign=found).aggregate(
        recipients=Count("pk"), sent=Count("pk", filter=Q(sent__gt=0)), opened=Count("pk", filter=Q(opened__gt=0))
    )
    return JsonResponse({"subject": found.subject, **counts})


def opened(request: HttpRequest, pk: int) -> HttpResponse:
    """The picture in a letter: somebody reads it."""
    Recipient.objects.filter(pk=pk).update(opened=F("opened") + 1)
    return HttpResponse(b"GIF89a", content_type="image/gif")


class NameErrors:
    """Tells a load by what error a request has failed; the answer itself stays as it is."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        error = getattr(request, "_campaigns_error", None)
        if error is not None:
            response[ERROR_HEADER] = name_of(error)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> None:
        request._campaigns_error = error  # type: ignore[attr-defined]
