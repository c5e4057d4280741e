"""
A site whose processes tell each other what to do. A view that works says first, in a file, whose lease it is; another
acts on a lease of another process.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import get_ident

from django.core.wsgi import get_wsgi_application
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_dbpool.acting import act
from django_dbpool.core.process import this_process
from django_dbpool.operations import aim
from django_dbpool.pool.registry import pools

BUSY_HERE = 409


def who(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(this_process().instance)


def work(request: HttpRequest) -> HttpResponse:
    """In one transaction: a statement, word of the lease, then a statement that takes long."""
    place = Path(os.environ["DBPOOL_TEST_PLACE"]) / request.GET["name"]
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            held = [each for pool in pools() for each in pool.holders() if each.thread_ident == get_ident()]
            place.with_suffix(".new").write_text(json.dumps(aim(held[0]).to_json()))
            place.with_suffix(".new").rename(place)
            cursor.execute("SELECT pg_sleep(%s)", [float(request.GET["seconds"])])
    except DatabaseError as error:
        return HttpResponse(f"{type(error).__name__} {getattr(error.__cause__, 'sqlstate', None)}")
    return HttpResponse("well")


def action(request: HttpRequest) -> HttpResponse:
    given = json.loads(request.GET["target"])
    if given["instance"] == this_process().instance:
        return HttpResponse("it would be this process", status=BUSY_HERE)
    lease = {name: given[name] for name in ("alias", "backend_pid", "generation")}
    acted = act(given["instance"], request.GET["verb"], actor="site", **lease)
    return JsonResponse({**acted.to_json(), "by": this_process().instance})


urlpatterns = [path("who/", who), path("work/", work), path("act/", action)]
application = get_wsgi_application()
