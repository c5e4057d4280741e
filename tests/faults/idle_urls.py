"""One view with a query, one without."""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return HttpResponse(str(cursor.fetchone()[0]))


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("served")


urlpatterns = [path("query/", query), path("nothing/", nothing)]
