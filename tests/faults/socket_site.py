"""A site with a view that is busy in the database for as long as somebody holds a lock."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

LOCK = 7785


def busy(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [LOCK])
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("busy/", busy)]
application = get_wsgi_application()
