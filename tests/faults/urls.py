"""Views of the fault tests; which alias they use is in the query string."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.contenttypes.models import ContentType
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

gate = threading.Event()
"""Holding views wait for it; tests that use them clear it first and set it at the end."""
gate.set()
arrived = threading.Semaphore(0)
"""Released once by each holding view that has its connection."""


def ask(alias: str) -> dict[str, Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    return {"backend": backend, "thread": threading.current_thread().name}


def query(request: HttpRequest) -> JsonResponse:
    return JsonResponse(ask(request.GET["alias"]))


def hold(request: HttpRequest, number: int) -> JsonResponse:
    """Keep a connection in a transaction for as long as the test wants."""
    alias = request.GET["alias"]
    with transaction.atomic(using=alias):
        answer = ask(alias)
        arrived.release()
        wait_for_the_test_to_go_on()
    return JsonResponse(answer)


def wait_for_the_test_to_go_on() -> None:
    gate.wait(60)


urlpatterns = [
    path("query/", query),
    path("hold/<int:number>/", hold),
]
