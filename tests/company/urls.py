from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.company.notes.models import Note


def notes(request: HttpRequest) -> JsonResponse:
    """A read outside of a transaction, then one and a write inside; for what is asked, add the text of a new note."""
    found: list[Any] = sorted(Note.objects.values_list("text", flat=True))
    if text := request.GET.get("add"):
        with transaction.atomic():
            list(Note.objects.select_for_update())
            Note.objects.create(text=text)
    return JsonResponse({"notes": found, "schema": getattr(connection, "schema_name", "")})


def fail(request: HttpRequest) -> JsonResponse:
    Note.objects.count()
    raise ZeroDivisionError("on purpose")


def sleep(request: HttpRequest) -> JsonResponse:
    """A statement of 20 ms, then one in a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.02)")
    with transaction.atomic():
        return JsonResponse({"notes": Note.objects.count()})


urlpatterns = [path("sleep/", sleep), path("notes/", notes), path("fail/", fail)]
