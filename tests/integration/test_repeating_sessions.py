"""What only a second look shows: a block is not repeated in another session, nor after what was committed unseen."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.db import transaction as djangos
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from django_dbpool import transaction
from django_dbpool.decorators import replayable
from django_dbpool.errors import CommitUnknown, ConnectionLost
from tests.app.failing import RAISE, raising
from tests.app.models import Log
from tests.fixtures.pools import execute, rows_of, value
from tests.fixtures.proxy import Proxy

pytestmark = pytest.mark.django_db(transaction=True)

MakePool = Callable[..., str]
Observer = psycopg.Connection[Any]
NOW: Any = {"sleep": lambda seconds: None}


class Tenant:
    """Reads the session's tenant in each run; the first one loses its connection."""

    def __init__(self, alias: str, *, atomic: bool) -> None:
        self.alias = alias
        self.atomic = atomic
        self.seen: list[str | None] = []

    def __call__(self, *args: object) -> HttpResponse:
        if not self.atomic:
            self._run()
        else:
            with djangos.atomic(self.alias):
                self._run()
        return HttpResponse()

    def _run(self) -> None:
        self.seen.append(value(self.alias, "SELECT current_setting('app.tenant', true)"))
        if len(self.seen) == 1:
            execute(self.alias, "SELECT pg_terminate_backend(pg_backend_pid())")


def choose_tenant(alias: str) -> None:
    execute(alias, "SET app.tenant = 'seven'")


@pytest.mark.parametrize("atomic", [True, False])
def test_retrying_not_without_the_state_it_began_with(make_pool: MakePool, atomic: bool) -> None:
    """Another connection has no tenant, or no search_path: the second run would write somewhere else."""
    alias = make_pool(size=2)
    choose_tenant(alias)
    work = Tenant(alias, atomic=False)
    with pytest.raises(ConnectionLost) as raised:
        transaction.retrying(alias, atomic=atomic, **NOW).call(work)
    assert work.seen == ["seven"]
    assert "pinned before it was lost" in raised.value.__notes__[-1]
    connections[alias].close()


def test_nor_if_it_was_another_database_s(make_pool: MakePool) -> None:
    alias, other = make_pool(), make_pool()
    choose_tenant(other)
    work = Tenant(other, atomic=True)
    with pytest.raises(ConnectionLost):
        transaction.retrying(alias, **NOW).call(work)
    assert work.seen == ["seven"]


def test_a_collision_is_repeated_in_the_same_session(make_pool: MakePool, observer: Observer) -> None:
    alias = make_pool()
    choose_tenant(alias)
    seen: list[object] = []

    def work() -> None:
        seen.append(value(alias, "SELECT current_setting('app.tenant', true)"))
        if len(seen) == 1:
            execute(alias, raising("40001"))

    observer.execute(RAISE)
    transaction.retrying(alias, **NOW).call(work)
    assert seen == ["seven", "seven"]
    connections[alias].close()


@pytest.mark.parametrize("atomic", [True, False])
def test_retrying_with_state_of_its_own(make_pool: MakePool, atomic: bool) -> None:
    """Each run sets it anew; what the first one has pinned and lost isn't met by the second."""
    alias = make_pool()
    work = Tenant(alias, atomic=False)

    def run() -> None:
        choose_tenant(alias)
        work()

    transaction.retrying(alias, atomic=atomic, **NOW).call(run)
    assert work.seen == ["seven", "seven"]
    connections[alias].close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_views_are_not_replayed_in_another_session(make_pool: MakePool, asynchronous: bool) -> None:
    alias = make_pool(size=2)
    work = Tenant(alias, atomic=True)

    async def view(request: HttpRequest) -> HttpResponse:
        return await sync_to_async(work)(request)

    run: Any = async_to_sync(replayable(view)) if asynchronous else replayable(work)
    choose_tenant(alias)
    with pytest.raises(ConnectionLost):
        run(RequestFactory().get("/"))
    assert work.seen == ["seven"]


def test_asynchronous_views_are_not_replayed_inside_a_transaction(make_pool: MakePool) -> None:
    """It is in another thread than the event loop's."""
    alias = make_pool(size=2)
    work = Tenant(alias, atomic=False)

    async def view(request: HttpRequest) -> HttpResponse:
        return await sync_to_async(work)(request)

    def outer() -> None:
        try:
            with djangos.atomic(alias):
                async_to_sync(replayable(view))(RequestFactory().get("/"))
        finally:
            connections[alias].close()

    with pytest.raises(ConnectionLost):
        async_to_sync(sync_to_async(outer))()
    assert len(work.seen) == 1


def test_nothing_after_a_commit_whose_error_was_caught(make_pool: MakePool, proxy: Proxy, observer: Observer) -> None:
    """The error that ends the attempt is another one, and would be repeated."""
    observer.execute(RAISE)
    alias = make_pool(HOST=proxy.host, PORT=str(proxy.port))
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        with suppress(CommitUnknown), djangos.atomic(alias):
            Log.objects.using(alias).create(key="a")
            proxy.drop()
        execute(alias, raising("40001"))

    with pytest.raises(djangos.DatabaseError) as raised:
        transaction.retrying(alias, atomic=False, **NOW).call(work)
    assert len(runs) == 1
    assert "may have been committed" in raised.value.__notes__[-1]
    assert rows_of(observer, "app_log") == 0


def in_thread_of_asyncio(call: Callable[[], object]) -> Any:
    return asyncio.to_thread(call)


def in_thread_of_asgiref(call: Callable[[], object]) -> Any:
    return sync_to_async(call, thread_sensitive=False)()


@pytest.mark.parametrize("elsewhere", [in_thread_of_asyncio, in_thread_of_asgiref])
@pytest.mark.parametrize(("writes", "runs"), [(True, 1), (False, 2)])
def test_writes_in_other_threads_of_a_coroutine_count(
    make_pool: MakePool, observer: Observer, elsewhere: Callable[..., Any], writes: bool, runs: int
) -> None:
    """Their connections are others than those that the coroutine's own statements use."""
    observer.execute(RAISE)
    alias = make_pool(size=3)
    ran: list[int] = []

    def act() -> None:
        try:
            if writes:
                Log.objects.using(alias).create(key="a")
            else:
                list(Log.objects.using(alias))
        finally:
            connections[alias].close()

    async def work() -> None:
        ran.append(1)
        await elsewhere(act)
        if len(ran) == 1:
            await sync_to_async(execute)(alias, raising("40001"))

    with suppress(djangos.DatabaseError):
        async_to_sync(transaction.retrying(alias, atomic=False, **NOW).call_async)(work)
    assert (len(ran), rows_of(observer, "app_log")) == (runs, int(writes))


class SoftLimit(Exception):
    pass


def test_a_statement_that_something_else_has_ended_counts(make_pool: MakePool, observer: Observer) -> None:
    """As a soft time limit of Celery does, which the code may catch. Whether it was committed nobody knows."""
    observer.execute(RAISE)
    alias = make_pool()
    runs: list[int] = []

    def strike(*_: object) -> None:
        raise SoftLimit

    def work() -> None:
        runs.append(1)
        with suppress(SoftLimit):
            execute(alias, "INSERT INTO app_log (key) SELECT 'a' FROM pg_sleep(20)")
        execute(alias, raising("40001"))

    before = signal.signal(signal.SIGUSR1, strike)
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(djangos.DatabaseError):
            transaction.retrying(alias, atomic=False, **NOW).call(work)
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert len(runs) == 1
    connections[alias].close()
