"""
Eight holders with names, each doing something else, in a pool of eight. The error, the log, ``dbpool status``, the
published snapshot and the server name the same.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from celery import Celery
from django.core.management import BaseCommand, call_command
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

import django_dbpool.contrib.celery  # noqa: F401  (names tasks)
from django_dbpool import transaction
from django_dbpool.errors import PoolExhausted
from django_dbpool.fleet import processes, server_of, snapshot
from django_dbpool.fleet.snapshot import encoded
from django_dbpool.fleet.table import TableStore
from django_dbpool.operations import track_operation
from django_dbpool.threads import spawn
from testproject.processes import wait_until
from tests.app.models import Item
from tests.faults.helpers import PATIENCE, Task
from tests.fixtures.pools import execute, value

pytestmark = [pytest.mark.ci, pytest.mark.django_db(transaction=True, databases=["default", "other"])]

LIMIT = 8
SECRET = "Hunter2"

alias = ""
"""Of the test that runs."""
holding: dict[str, int] = {}
"""The backend of each holder, by what it calls itself."""
go_on = threading.Event()


def wait(name: str, pid: int) -> None:
    holding[name] = pid
    go_on.wait(PATIENCE)


def pid_of_lease() -> int:
    return int(value(alias, "SELECT pg_backend_pid()"))


# -- eight ways to hold a connection ------------------------------------------------------------------------------


def long_statement(request: HttpRequest) -> HttpResponse:
    """One statement outside of any transaction. Its backend is known from the statement itself."""
    execute(alias, "SELECT pg_advisory_lock(471101), %s", [SECRET])
    return HttpResponse()


def idle_in_transaction(request: HttpRequest, pk: int) -> HttpResponse:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT %s", [SECRET])
        wait("GET /idle/<int:pk>/", pid_of_lease())
    return HttpResponse()


def pinned(request: HttpRequest) -> HttpResponse:
    execute(alias, "SET work_mem = '5MB'")
    wait("GET /pinned/", pid_of_lease())
    return HttpResponse()


async def streams(request: HttpRequest) -> HttpResponse:
    await sync_to_async(cursor_of_the_server)()
    return HttpResponse()


def cursor_of_the_server() -> None:
    rows = Item.objects.using(alias).filter(name=SECRET).iterator(chunk_size=2)
    with connections[alias].cursor() as other:  # shares the lease that the open cursor holds
        next(rows)
        other.execute("SELECT pg_backend_pid()")
        wait("GET /stream/", other.fetchone()[0])
    rows.close()


def copies() -> None:
    with connections[alias].cursor() as cursor:
        pid = cursor.connection.pgconn.backend_pid
        with cursor.copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as copy:
            next(iter(copy))
            wait("thread export", pid)
            for _ in copy:
                pass


app = Celery("eight", set_as_current=False)


@app.task(name="shop.tasks.reindex")
def reindex() -> None:
    with transaction.atomic(using=alias):
        wait("task shop.tasks.reindex", pid_of_lease())


class Command(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None:
        with track_operation("nightly import"), transaction.atomic(using=alias):
            wait("operation 'nightly import'", pid_of_lease())


def thumbnails() -> None:
    with transaction.pin(using=alias):
        wait("thread 'thumbnails'", pid_of_lease())


def refused(request: HttpRequest) -> HttpResponse:
    pid_of_lease()
    return HttpResponse()


urlpatterns = [
    path("slow/", long_statement),
    path("idle/<int:pk>/", idle_in_transaction),
    path("pinned/", pinned),
    path("stream/", streams),
    path("refused/", refused),
]

STATES = {
    "GET /slow/": ("running", "active"),
    "GET /idle/<int:pk>/": ("idle in transaction", "idle in transaction"),
    "GET /pinned/": ("idle", "idle"),
    "GET /stream/": ("idle", "idle"),
    "thread export": ("running", "active"),
    "task shop.tasks.reindex": ("idle in transaction", "idle in transaction"),
    "operation 'nightly import'": ("idle in transaction", "idle in transaction"),
    "thread 'thumbnails'": ("idle", "idle"),
}
"""By name: the state as our process knows it, and as the server does."""


def get(path: str) -> None:
    assert Client().get(path).status_code == 200


def get_asynchronously(path: str) -> None:
    assert async_to_sync(AsyncClient().get)(path).status_code == 200


def named(name: str, call: Callable[..., object], *args: Any) -> Callable[[], None]:
    def run() -> None:
        threading.current_thread().name = name
        try:
            call(*args)
        finally:
            connections.close_all()

    return run


JOBS = [
    named("web-1", get, "/slow/"),
    named("web-2", get, "/idle/7/"),
    named("web-3", get, "/pinned/"),
    named("web-4", get_asynchronously, "/stream/"),
    named("export", copies),
    named("pool-worker", lambda: reindex.apply(throw=True)),
    named("manage.py", lambda: call_command(Command())),
    named("starter", lambda: spawn(thumbnails, name="thumbnails").result()),
]


@contextmanager
def eight_at_work(observer: psycopg.Connection[Any]) -> Iterator[dict[str, int]]:
    go_on.clear()
    holding.clear()
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory'"
    observer.execute("SELECT pg_advisory_lock(471101)")
    tasks = [Task(job) for job in JOBS]
    try:
        assert wait_until(lambda: len(holding) == LIMIT - 1 and bool(observer.execute(waiting).fetchone()), PATIENCE), (
            holding
        )
        (row,) = observer.execute(waiting).fetchall()
        yield {**holding, "GET /slow/": row[0]}
    finally:
        observer.execute("SELECT pg_advisory_unlock(471101)")
        go_on.set()
        for task in tasks:
            task.result()


@pytest.fixture
def eight(make_pool: Callable[..., str], observer: psycopg.Connection[Any]) -> Iterator[AbstractContextManager[Any]]:
    global alias
    alias = make_pool(size=LIMIT, POOL={"timeout": 0.5, "queue_target": None}, OPTIONS={"application_name": "eight"})
    Item.objects.bulk_create([Item(name=SECRET, n=n) for n in range(10)])
    settings: dict[str, Any] = {
        "ROOT_URLCONF": __name__,
        "MIDDLEWARE": ["django_dbpool.middleware.DatabasePoolMiddleware"],
        "DBPOOL": {"FLEET": {"using": alias}},
    }
    with override_settings(**settings):
        yield eight_at_work(observer)


def names_in(text: str, held: dict[str, int]) -> dict[str, int]:
    """By name: the backend whose line has it."""
    found = {}
    for name, pid in held.items():
        words = name.removeprefix("thread ")  # of one without a unit
        lines = [line for line in text.splitlines() if str(pid) in line.replace(",", " ").split() and words in line]
        assert len(lines) == 1, (name, pid, text)
        found[name] = pid
    return found


def test_all_name_the_same(
    eight: AbstractContextManager[dict[str, int]], observer: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with eight as held:
        assert set(held) == set(STATES)
        assert len(set(held.values())) == LIMIT
        told: dict[str, dict[str, int]] = {}

        # 1. the error
        with pytest.raises(PoolExhausted) as caught:
            pid_of_lease()
        told["error"] = names_in(str(caught.value), held)
        assert {holder.backend_pid for holder in caught.value.holders} == set(held.values())

        # 2. the log
        assert Client().get("/refused/").status_code == 503
        (record,) = [each for each in caplog.records if each.name == "django_dbpool.request"]
        assert record.levelno == logging.WARNING
        told["log"] = names_in(record.getMessage(), held)

        # 3. the snapshot, published through the reserve
        store = TableStore(alias)
        document = {**snapshot(), "instance": "8" * 16}
        store.put("8" * 16, encoded(document), delay=0, expire=30)
        store.close()
        (process,) = processes()
        by_pid = {holder.backend_pid: holder for holder in process.holders if holder.alias == alias}
        told["snapshot"] = {
            name: pid for name, pid in held.items() if name in (by_pid[pid].unit or f"thread {by_pid[pid].thread}")
        }
        assert {name: by_pid[pid].state for name, pid in held.items()} == {
            name: each[0] for name, each in STATES.items()
        }
        assert by_pid[held["GET /pinned/"]].pinned is not None
        assert by_pid[held["thread 'thumbnails'"]].pinned == "transaction.pin()"

        # 4. the server
        server = server_of(alias, processes())
        sessions = {each.holder.backend_pid: each.session for each in server.held if each.holder.alias == alias}
        told["server"] = {name: pid for name, pid in held.items() if sessions[pid] is not None}
        on_server = {name: each.state for name, pid in held.items() if (each := sessions[pid]) is not None}
        assert on_server == {name: each[1] for name, each in STATES.items()}
        activity = observer.execute(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = 'eight'"
        ).fetchall()
        assert {pid for pid, _ in activity} >= set(held.values())

        # 5. the command
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("dbpool", "status", stdout=out, no_color=True)
        assert ended.value.code == 1
        told["status"] = names_in(out.getvalue(), held)
        out_json = io.StringIO()
        with pytest.raises(SystemExit):
            call_command("dbpool", "status", "--json", stdout=out_json)
        listed = json.loads(out_json.getvalue())["processes"][0]["holders"]
        assert {holder["backend_pid"] for holder in listed if holder["alias"] == alias} == set(held.values())

        assert told == dict.fromkeys(told, held)
        everything = (str(caught.value), record.getMessage(), out.getvalue(), out_json.getvalue(), encoded(document))
        assert SECRET not in "".join(everything)

        # 6. what runs, a part of the snapshot
        running = " ".join(operation["name"] for operation in process.document["sections"]["operations"])
        assert all(name in running for name in ("nightly import", "thumbnails", "shop.tasks.reindex", "GET /slow/"))
