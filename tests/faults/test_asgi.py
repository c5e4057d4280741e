"""Requests through the ASGI handler, in every combination of threads: nothing outlives the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.test import override_settings

from testproject.processes import wait_until
from tests.faults import urls
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Database

MODES = pytest.mark.parametrize("mode", ["transaction", "session"])
SHORT = 3.0
"""Seconds for a thread that has just answered to come to rest."""
KEPT_BY_THE_EXECUTOR = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a pin or session-mode lease in an executor's thread is kept until its next job or its end",
)


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF="tests.faults.urls", ALLOWED_HOSTS=["*"], MIDDLEWARE=[]):
        yield


def communicator(path: str, **query: str) -> ApplicationCommunicator:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": "&".join(f"{key}={value}" for key, value in query.items()).encode(),
        "headers": [(b"host", b"testserver")],
        "server": ("testserver", 80),
    }
    return ApplicationCommunicator(ASGIHandler(), scope)


async def get(path: str, **query: str) -> tuple[int, bytes]:
    """Status and body; returns when the handler has returned."""
    link = communicator(path, **query)
    await link.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await link.receive_output(PATIENCE)
    body = b""
    more = True
    while more:
        part = await link.receive_output(PATIENCE)
        body += part.get("body", b"")
        more = part.get("more_body", False)
    await link.wait(PATIENCE)
    return start["status"], body


def answer(path: str, database: Database, **query: str) -> Any:
    """The answer to one request in an event loop of its own, checked as soon as the handler has returned."""

    async def ask() -> bytes:
        status, body = await get(path, alias=database.alias, **query)
        assert status == 200
        snapshot = database.pool.snapshot()
        assert (snapshot.in_use, snapshot.waiting) == (0, 0), database.pool.holders()
        return body

    return json.loads(asyncio.run(ask()))


@MODES
@pytest.mark.parametrize("path", ["/query/", "/pinned/", "/async/sensitive/", "/async/pinned/"])
def test_nothing_is_held_after_the_request(make_database: MakeDatabase, mode: str, path: str) -> None:
    """Thread-sensitive code, synchronous or not: leases and pins end with the request."""
    database = make_database(mode=mode, max_size=2)
    backends = {answer(path, database)["backend"] for _ in range(5)}
    assert len(backends) == (5 if "pinned" in path else 1)
    assert wait_until(lambda: len(database.backends()) == (0 if "pinned" in path else 1), PATIENCE)
    database.assert_whole()


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("transaction", "/async/other-thread/"),
        pytest.param("transaction", "/async/pinned-in-other-thread/", marks=KEPT_BY_THE_EXECUTOR),
        pytest.param("session", "/async/other-thread/", marks=KEPT_BY_THE_EXECUTOR),
        pytest.param("session", "/async/pinned-in-other-thread/", marks=KEPT_BY_THE_EXECUTOR),
    ],
)
def test_other_executors(make_database: MakeDatabase, mode: str, path: str) -> None:
    """Threads that nobody tells of the end of a request, and that live on after it, hold nothing either."""
    database = make_database(mode=mode, max_size=2)

    async def one_after_the_other() -> None:
        for _ in range(5):
            assert (await get(path, alias=database.alias))[0] == 200
            assert wait_until(lambda: database.pool.snapshot().in_use == 0, SHORT)

    asyncio.run(one_after_the_other())
    database.assert_whole()


@MODES
def test_session_state_ends_with_the_request(make_database: MakeDatabase, mode: str) -> None:
    """The next job of an executor's thread, for another request, does not meet what the last one has set."""
    database = make_database(mode=mode, max_size=2)

    async def one_after_the_other() -> list[bytes]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        bodies = []
        for _ in range(5):
            assert (await get("/async/pinned-in-other-thread/", alias=database.alias))[0] == 200
            bodies.append((await get("/async/leftover/", alias=database.alias))[1])
        return bodies

    assert asyncio.run(one_after_the_other()) == [b'{"found": "0"}'] * 5
    database.assert_whole()


def test_job_that_outlives_its_request(make_database: MakeDatabase) -> None:
    """It keeps its session to its own end, and nothing longer than that."""
    database = make_database(max_size=2)
    urls.gate.clear()

    async def outlive() -> str:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        try:
            assert (await get("/async/outliving/", alias=database.alias))[0] == 200
            assert database.pool.snapshot().in_use == 1
        finally:
            urls.gate.set()
        return str(await urls.outliving.pop())

    assert asyncio.run(outlive()) == "4321s"
    database.assert_whole()


@MODES
def test_failing_view(make_database: MakeDatabase, mode: str) -> None:
    database = make_database(mode=mode, max_size=2)
    status, _ = asyncio.run(get("/fails/", alias=database.alias))
    assert status == 500
    assert database.pool.snapshot().in_use == 0
    database.assert_whole()


@MODES
@pytest.mark.django_db(transaction=True)
def test_asynchronous_models(make_database: MakeDatabase, mode: str) -> None:
    """acreate, aget, async for, aiterator, aupdate, arefresh_from_db, adelete, acount."""
    database = make_database(mode=mode, max_size=2, NAME=connections["default"].settings_dict["NAME"])
    assert answer("/async/models/", database, name="alone") == {"left": 0}

    async def together() -> list[tuple[int, bytes]]:
        names = [f"item-{number}" for number in range(10)]
        return await asyncio.gather(*(get("/async/models/", alias=database.alias, name=name) for name in names))

    assert asyncio.run(together()) == [(200, b'{"left": 0}')] * 10
    database.assert_whole()


@pytest.mark.parametrize("thread_sensitive", ["yes", "no"])
def test_requests_that_wait_between_queries_need_no_connection(
    make_database: MakeDatabase, thread_sensitive: str
) -> None:
    """Sixteen requests are all between their two queries at the same moment, on two connections."""
    database = make_database(max_size=2)

    async def together() -> list[tuple[int, bytes]]:
        urls.meetings.append(asyncio.Barrier(16))
        return await asyncio.gather(
            *(
                get("/async/query-wait-query/", alias=database.alias, thread_sensitive=thread_sensitive)
                for _ in range(16)
            )
        )

    answers = asyncio.run(together())
    assert [status for status, _ in answers] == [200] * 16
    assert len({json.loads(body)["before"]["backend"] for _, body in answers}) <= 2
    database.assert_whole()


@MODES
@pytest.mark.parametrize("path", ["/stream/", "/async/stream/"])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators:Warning")
def test_streaming(make_database: MakeDatabase, mode: str, path: str) -> None:
    """A response that queries while it is sent holds its connection to its end and no longer."""
    database = make_database(mode=mode, max_size=2)
    status, body = asyncio.run(get(path, alias=database.alias))
    assert status == 200
    expected = "".join(f"{number}\n" for number in range(1, 101)) if path == "/stream/" else "True" * 10
    assert body.decode() == expected
    assert database.pool.snapshot().in_use == 0
    database.assert_whole()


@pytest.mark.parametrize("path", ["/hold/7/", "/async-hold/7/"])
def test_client_that_goes_away(make_database: MakeDatabase, path: str) -> None:
    """The view's transaction ends when its thread does, and nothing stays leased."""
    database = make_database(max_size=2)
    urls.gate.clear()

    async def leave() -> None:
        link = communicator(path, alias=database.alias)
        await link.send_input({"type": "http.request", "body": b"", "more_body": False})
        assert await asyncio.to_thread(urls.arrived.acquire, timeout=PATIENCE)
        assert database.pool.snapshot().in_use == 1
        await link.send_input({"type": "http.disconnect"})
        urls.gate.set()
        await link.wait(PATIENCE)

    try:
        asyncio.run(leave())
    finally:
        urls.gate.set()
    database.assert_whole()


@pytest.mark.parametrize("path", ["/hold/7/", "/async-hold/7/"])
def test_holder_is_named_by_its_request(make_database: MakeDatabase, path: str) -> None:
    """As under WSGI: method and route."""
    database = make_database(max_size=2)
    urls.gate.clear()

    async def look() -> Any:
        request = asyncio.create_task(get(path, alias=database.alias))
        try:
            assert await asyncio.to_thread(urls.arrived.acquire, timeout=PATIENCE)
            (holder,) = database.pool.holders()
        finally:
            urls.gate.set()
        assert (await request)[0] == 200
        return holder

    route = path.strip("/").replace("7", "<int:number>/")
    assert asyncio.run(look()).unit == f"GET /{route}"
    database.assert_whole()
