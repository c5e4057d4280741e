"""Requests that are quick, and requests that hold a connection until the test lets them go."""

import os
import time
from pathlib import Path

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse

from django_dbpool.pool.managed import ManagedPool

from .settings import FOLDER


def alive(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def items(request: HttpRequest) -> HttpResponse:
    """Quick, like most."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM auth_permission, pg_sleep(0.005)")
        return HttpResponse(cursor.fetchone()[0])


def pay(request: HttpRequest, pk: int) -> HttpResponse:
    """Waits for somebody else's server inside a transaction."""
    if is_full():
        return HttpResponse(str(os.getpid()), status=409)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT id, username FROM auth_user WHERE id = %s FOR UPDATE SKIP LOCKED", [pk])
        tell_that_it_holds(request)
        wait_for(request.GET.get("until", "payments"))
    return HttpResponse("paid")


def report(request: HttpRequest, year: int) -> HttpResponse:
    """One statement that takes as long as it is told to."""
    if is_full():
        return HttpResponse(str(os.getpid()), status=409)
    tell_that_it_holds(request)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT date_trunc('month', date_joined), count(*) FROM pg_sleep(%s) "
            "LEFT JOIN auth_user ON date_part('year', date_joined) = %s GROUP BY 1",
            [float(request.GET.get("seconds", "600")), year],
        )
    return HttpResponse("done")


def search(request: HttpRequest) -> HttpResponse:
    """Pins its connection by a setting of the session."""
    if is_full():
        return HttpResponse(str(os.getpid()), status=409)
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '64MB'")
    tell_that_it_holds(request)
    wait_for("searches")
    return HttpResponse("found")


def authors(request: HttpRequest) -> HttpResponse:
    """Asks for each row separately."""
    with connection.cursor() as cursor:
        for pk in range(40):
            cursor.execute("SELECT username FROM auth_user WHERE id = %s", [pk])
    return HttpResponse("listed")


def is_full() -> bool:
    """This process can hold no more: whoever wants to fill all of them asks again and comes to another."""
    pool = connection.pool
    assert isinstance(pool, ManagedPool)
    numbers = pool.snapshot()
    return numbers.in_use >= numbers.max_size


def tell_that_it_holds(request: HttpRequest) -> None:
    Path(request.headers["X-Begun"]).touch()


def wait_for(flag: str) -> None:
    """Until the file of that name has gone."""
    path = FOLDER / flag
    while path.exists():
        time.sleep(0.05)
