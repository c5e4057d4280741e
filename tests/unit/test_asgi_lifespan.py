"""The lifespan protocol, without a server: what is answered to which message, and what is passed on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import django_dbpool
from django_dbpool.asgi import lifespan
from django_dbpool.errors import ShuttingDown
from django_dbpool.pool import stopping
from testproject.processes import wait_until
from tests.fixtures.aliases import MakeAlias
from tests.fixtures.pools import backend, size
from tests.fixtures.workers import PATIENCE

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


@pytest.fixture(autouse=True)
def _resumed() -> Iterator[None]:
    yield
    stopping.resume()


async def inner(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http", "Django's handler refuses all else"
    await send({"type": "served", "scope": scope})


async def converse(*messages: dict[str, str], application: Any = None, answers: list[str] | None = None) -> list[str]:
    """The types of the answers to these messages, which are also put into the list that is given."""
    queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    for message in messages:
        queue.put_nowait(message)
    answers = [] if answers is None else answers

    async def send(message: dict[str, Any]) -> None:
        answers.append(message["type"])

    await (application or lifespan(inner))({"type": "lifespan"}, queue.get, send)
    return answers


def test_everything_else_is_passed_on() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/"}

    async def request() -> None:
        await lifespan(inner)(scope, None, send)

    asyncio.run(request())
    assert sent == [{"type": "served", "scope": scope}]


def test_start_and_end(make_alias: MakeAlias) -> None:
    """Warm when the server is told that it may begin; shut down before it is told that it may go."""
    alias = make_alias(POOL={"min_size": 2, "max_size": 3, "warm": True})

    async def start_only() -> None:
        answers: list[str] = []
        running = asyncio.create_task(converse(STARTUP, answers=answers))
        assert await asyncio.to_thread(wait_until, lambda: bool(answers), PATIENCE)
        assert (answers, size(alias)) == (["lifespan.startup.complete"], 2)
        assert not running.done(), "it waits for the end"
        running.cancel()

    asyncio.run(start_only())
    assert asyncio.run(converse(STARTUP, SHUTDOWN)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ShuttingDown):
        backend(alias)


def test_a_server_that_starts_again_in_the_same_process(make_alias: MakeAlias) -> None:
    """Tests and reloaders do that."""
    alias = make_alias(POOL={"max_size": 2})
    for _ in range(3):
        asyncio.run(converse(STARTUP, SHUTDOWN))
    django_dbpool.shutdown(0)
    served: list[int] = []

    async def restarted() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(converse(STARTUP), 1)
        served.append(await asyncio.to_thread(backend, alias))

    asyncio.run(restarted())
    assert served


def test_a_mistake_in_the_settings_does_not_prevent_the_start(
    make_alias: MakeAlias, caplog: pytest.LogCaptureFixture
) -> None:
    """The first request tells it, to somebody who sees it."""
    alias = make_alias(POOL={"max_size": 0, "warm": True})
    try:
        assert asyncio.run(converse(STARTUP, SHUTDOWN))[0] == "lifespan.startup.complete"
    finally:
        from django.db import connections

        connections.settings[alias]["POOL"] = {"max_size": 1}
        connections[alias].settings_dict["POOL"] = {"max_size": 1}
    assert "connections could not be opened ahead" in caplog.text
    assert "max_size = 0" in caplog.text
