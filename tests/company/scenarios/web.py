"""Migrate, requests that read, write and fail, a statement by hand; then what the companion has seen of it."""

from __future__ import annotations

import importlib
import os
from typing import Any

import django
from django.conf import settings as configured

settings = importlib.import_module(os.environ["DJANGO_SETTINGS_MODULE"])
assert configured.DATABASES
if hasattr(settings, "prepare"):
    settings.prepare()
django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import RequestFactory  # noqa: E402

from tests.company.watch import PinLog, leases_left, report  # noqa: E402


def get(application: WSGIHandler, path: str) -> int:
    """As a server does it: the request's signals are sent, the response is closed."""
    environ = RequestFactory()._base_environ(PATH_INFO=path.partition("?")[0], QUERY_STRING=path.partition("?")[2])
    statuses: list[str] = []

    def start_response(status: str, *headers: Any) -> Any:
        statuses.append(status)

    response = application(environ, start_response)
    b"".join(response)
    response.close()
    return int(statuses[0].split()[0])


call_command("migrate", verbosity=0)
connection.close()
pins = PinLog()
application = WSGIHandler()
statuses = [get(application, path) for path in ("/notes/?add=first", "/notes/?add=second", "/notes/", "/fail/")]
left = leases_left()
with connection.cursor() as cursor:
    cursor.execute("SELECT text FROM notes_note ORDER BY text")
    texts = [text for (text,) in cursor.fetchall()]
    cursor.execute("SELECT count(*) FROM notes_note")
    (count,) = cursor.fetchone()
connection.close()
report(
    statuses=statuses,
    texts=texts,
    count=count,
    left=left,
    pins=pins.reasons,
    size=connection.pool.snapshot().size,
    found=settings.found(),
)
