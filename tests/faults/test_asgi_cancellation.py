"""A client that goes away takes its query with it, and nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.db import OperationalError, connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from django.utils.decorators import async_only_middleware

from django_dbpool import cancellation
from django_dbpool.cancellation import cancel_with_task, stream_with_task
from django_dbpool.pool import command as commands
from testproject.postgres import Server
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database

NAP = "SELECT pg_sleep(600)"
errors: list[BaseException] = []
"""What the threads of cancelled requests have met."""


@async_only_middleware
def middleware(get_response: Any) -> Any:
    """What a middleware has to do."""

    async def respond(request: HttpRequest) -> Any:
        async with cancel_with_task():
            response = await get_response(request)
        if response.streaming and response.is_async:
            response.streaming_content = stream_with_task(response.streaming_content)
        return response

    return respond


def sleep_in(alias: str, sql: str = NAP) -> None:
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute(sql)
    except BaseException as error:
        errors.append(error)
        raise


def sleep_in_transaction(alias: str) -> None:
    with transaction.atomic(using=alias):
        sleep_in(alias, "SELECT 1")
        sleep_in(alias)


async def asleep_async(alias: str) -> None:
    await sync_to_async(sleep_in)(alias)


def synchronous(request: HttpRequest) -> HttpResponse:
    sleep_in(request.GET["alias"])
    return HttpResponse()


async def asynchronous(request: HttpRequest) -> HttpResponse:
    await sync_to_async(sleep_in_transaction)(request.GET["alias"])
    return HttpResponse()


async def other_threads(request: HttpRequest) -> HttpResponse:
    alias = request.GET["alias"]
    sleeper = sync_to_async(sleep_in, thread_sensitive=False)
    await asyncio.gather(sleeper(alias), sleeper(alias), asyncio.to_thread(sleep_in, alias))
    return HttpResponse()


def there_and_back(request: HttpRequest) -> HttpResponse:
    """Synchronous code that calls asynchronous code that runs a query."""
    async_to_sync(asleep_async)(request.GET["alias"])
    return HttpResponse()


async def streaming(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await sync_to_async(sleep_in)(request.GET["alias"])
        yield b"never"

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("synchronous/", synchronous),
    path("asynchronous/", asynchronous),
    path("other-threads/", other_threads),
    path("there-and-back/", there_and_back),
    path("streaming/", streaming),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    errors.clear()
    with override_settings(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=["tests.faults.test_asgi_cancellation.middleware"]
    ):
        yield
    assert wait_until(lambda: not commands.running, PATIENCE)


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    return make_database(max_size=3)


def running(database: Database) -> int:
    row = database.observer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state = 'active'", [database.application]
    ).fetchone()
    assert row is not None
    return int(row[0])


async def until(condition: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(wait_until, condition, PATIENCE)


def gone_within(database: Database, seconds: float) -> None:
    """The query is off the server and the lease is back."""
    began = monotonic()
    assert wait_until(lambda: running(database) == 0, PATIENCE)
    assert monotonic() - began < seconds
    assert wait_until(lambda: database.pool.snapshot().in_use == 0, PATIENCE)


@pytest.mark.parametrize(
    ("url", "count"),
    [("synchronous", 1), ("asynchronous", 1), ("other-threads", 3), ("there-and-back", 1), ("streaming", 1)],
)
def test_client_that_goes_away(database: Database, url: str, count: int) -> None:
    async def leave() -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": f"/{url}/",
            "query_string": f"alias={database.alias}".encode(),
            "headers": [(b"host", b"testserver")],
        }
        link = ApplicationCommunicator(ASGIHandler(), scope)
        await link.send_input({"type": "http.request", "body": b"", "more_body": False})
        await until(lambda: running(database) == count)
        await link.send_input({"type": "http.disconnect"})
        await asyncio.to_thread(gone_within, database, 1.0)
        await link.wait(PATIENCE)

    asyncio.run(leave())
    assert [type(error) for error in errors] == [OperationalError] * count
    database.assert_whole()


@pytest.mark.ci
def test_client_of_a_real_server(database: Database, session_server: Server) -> None:
    """uvicorn tells the application of a closed socket; measured from there to the end of the query."""
    settings = connections[database.alias].settings_dict
    program = (
        "import django; from django.conf import settings; "
        f"settings.configure(SECRET_KEY='x', ALLOWED_HOSTS=['*'], ROOT_URLCONF={__name__!r}, "
        f"MIDDLEWARE=['{__name__}.middleware'], INSTALLED_APPS=['django_dbpool'], DATABASES={{'default': "
        f"{ {key: settings[key] for key in ('ENGINE', 'NAME', 'USER', 'PASSWORD', 'HOST', 'PORT', 'OPTIONS')}!r}}}); "
        "import uvicorn; from django.core.asgi import get_asgi_application; "
        "uvicorn.run(get_asgi_application(), fd=int(__import__('sys').argv[1]), log_level='warning')"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(listener.fileno())], pass_fds=[listener.fileno()]
        )
        try:
            for url in ("synchronous", "asynchronous", "there-and-back", "streaming"):
                with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
                    client.sendall(f"GET /{url}/?alias=default HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    assert wait_until(lambda: running(database) == 1, PATIENCE)
                began = monotonic()
                assert wait_until(lambda: running(database) == 0, PATIENCE)
                assert monotonic() - began < 1.0
        finally:
            process.kill()
            process.wait()


# -- one task ----------------------------------------------------------------------------------------------------


def test_time_limit_of_a_task(database: Database) -> None:
    """asyncio.timeout() and wait_for(): the caller goes on at once, its query ends."""

    async def work() -> None:
        sleeper = sync_to_async(sleep_in, thread_sensitive=False)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), cancel_with_task():
                await sleeper(database.alias)

        async def limited() -> None:
            async with cancel_with_task():
                await sleeper(database.alias)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limited(), 0.3)
        await asyncio.to_thread(gone_within, database, 1.0)

    asyncio.run(work())
    assert [type(error) for error in errors] == [OperationalError] * 2
    database.assert_whole()


def test_clean_up_of_the_task_itself(database: Database, table: str) -> None:
    """What an except clause inside the block writes, in whatever thread, is written, though the rest is cancelled."""
    write = f"INSERT INTO {table} SELECT 'kept' FROM pg_sleep(0.2)"

    async def request() -> None:
        async with cancel_with_task():
            try:
                await sync_to_async(sleep_in, thread_sensitive=False)(database.alias)
            except asyncio.CancelledError:
                await sync_to_async(sleep_in, thread_sensitive=False)(database.alias, write)
                raise

    async def work() -> None:
        task = asyncio.create_task(request())
        await until(lambda: running(database) == 1)
        await asyncio.sleep(3 * cancellation.LOOK_EVERY)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.to_thread(gone_within, database, 1.0)

    asyncio.run(work())
    assert len(errors) == 1
    assert database.fetch(f"SELECT key FROM {table}") == "kept"


async def cancelled(coroutine: Any, when: Callable[[], bool]) -> None:
    """Run it in a task that is cancelled on a condition."""
    task = asyncio.create_task(coroutine)
    await until(when)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def test_only_what_runs_in_the_block(database: Database) -> None:
    """Not a neighbour's statement, not the outer block's, not one of a block that ended well."""
    sleeper = sync_to_async(sleep_in, thread_sensitive=False)
    short = "SELECT pg_sleep(1.5)"

    async def inner() -> None:
        async with cancel_with_task():
            await sleeper(database.alias)

    async def outer() -> None:
        async with cancel_with_task():
            beside = asyncio.create_task(sleeper(database.alias, short))
            await cancelled(inner(), lambda: running(database) == 3)
            await beside

    async def both() -> None:
        neighbour = asyncio.create_task(sleeper(database.alias, short))
        await outer()
        await neighbour

    asyncio.run(both())
    assert len(errors) == 1
    database.assert_whole()


@pytest.mark.parametrize("how", ["shield", "create_task"])
def test_work_that_goes_on_is_left_alone(database: Database, table: str, how: str) -> None:
    """A task that was detached from the cancelled one still waits for its statement: the write is not lost."""
    write = f"INSERT INTO {table} SELECT 'kept' FROM pg_sleep(0.5)"
    kept: list[asyncio.Future[Any]] = []

    async def request() -> None:
        async with cancel_with_task():
            kept.append(asyncio.ensure_future(sync_to_async(sleep_in, thread_sensitive=False)(database.alias, write)))
            if how == "shield":
                await asyncio.shield(kept[0])
            await asyncio.sleep(600)

    async def work() -> None:
        await cancelled(request(), lambda: running(database) == 1)
        await kept[0]

    asyncio.run(work())
    assert errors == []
    assert database.fetch(f"SELECT key FROM {table}") == "kept"


def test_each_thread_is_told_once(database: Database, table: str) -> None:
    """The next statement fails if none was running, and what cleans up after the failure works."""
    arrived, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        try:
            sleep_in(database.alias, "SELECT 1")
            arrived.set()
            go_on.wait(PATIENCE)
            try:
                sleep_in(database.alias)
            finally:
                sleep_in(database.alias, f"INSERT INTO {table} VALUES ('cleaned up')")
        finally:
            done.set()

    async def request() -> None:
        async with cancel_with_task():
            await sync_to_async(work, thread_sensitive=False)()

    async def both() -> None:
        await cancelled(request(), arrived.is_set)
        go_on.set()
        await until(done.is_set)

    asyncio.run(both())
    (error,) = errors
    assert "was not sent: the task that it runs for was cancelled" in str(error)
    assert database.fetch(f"SELECT key FROM {table}") == "cleaned up"
    database.assert_whole()


def test_commit_is_not_cancelled(database: Database, table: str) -> None:
    """A transaction whose statements are done is committed, though its task is gone before COMMIT is."""
    with database.observer.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION slow_{table}() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.7); RETURN NULL; END $$"
        )
        cursor.execute(
            f"CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
            f"FOR EACH ROW EXECUTE FUNCTION slow_{table}()"
        )
    done = threading.Event()

    def work() -> None:
        with transaction.atomic(using=database.alias):
            sleep_in(database.alias, f"INSERT INTO {table} VALUES ('kept')")
        done.set()

    async def request() -> None:
        async with cancel_with_task():
            await sync_to_async(work, thread_sensitive=False)()

    async def both() -> None:
        await cancelled(
            request(),
            lambda: bool(
                database.observer.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND query = 'COMMIT' "
                    "AND state = 'active'",
                    [database.application],
                ).fetchone()
            ),
        )
        await until(done.is_set)

    try:
        asyncio.run(both())
        assert database.fetch(f"SELECT key FROM {table}") == "kept"
    finally:
        database.observer.execute(f"DROP FUNCTION slow_{table} CASCADE")


def test_loop_is_not_blocked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the block waits neither for the server nor for a statement that is about to be sent."""
    sent = threading.Event()
    active = commands.Command.active
    monkeypatch.setattr(commands.Command, "active", lambda self: sent.is_set() and active(self))
    seconds: list[float] = []

    async def request() -> None:
        block = cancel_with_task()
        await block.__aenter__()
        try:
            await sync_to_async(sleep_in, thread_sensitive=False)(database.alias)
        except asyncio.CancelledError as error:
            before = monotonic()
            await block.__aexit__(type(error), error, None)
            seconds.append(monotonic() - before)
            sent.set()
            raise

    async def work() -> None:
        await cancelled(request(), lambda: running(database) == 1)
        await asyncio.to_thread(gone_within, database, 1.0)

    asyncio.run(work())
    assert seconds[0] < 0.5


def test_stream_closes_what_it_reads_from() -> None:
    """A consumer that stops in the middle, an end, an error; the scope is in force in steps alone."""
    seen: list[Any] = []

    async def numbers(fail: bool = False) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                seen.append(cancellation.current_scope.get() is not None)
                yield number
            if fail:
                raise ZeroDivisionError
        finally:
            seen.append("closed")

    async def work() -> None:
        assert [number async for number in stream_with_task(numbers())] == [0, 1, 2]
        assert seen == [True, True, True, "closed"]
        with pytest.raises(ZeroDivisionError):
            [number async for number in stream_with_task(numbers(fail=True))]
        seen.clear()
        async with contextlib.aclosing(stream_with_task(numbers())) as stream:
            async for _ in stream:
                assert cancellation.current_scope.get() is None
                break
        assert seen == [True, "closed"]

    asyncio.run(work())
