"""
The lifespan of an ASGI server. Django's own handler refuses the protocol's messages.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .backends.warming import warm_at_start
from .core import arguments
from .core.logs import get_logger
from .core.readers import shown
from .pool import stopping

__all__ = ["lifespan"]

logger = get_logger("django_dbpool.pool")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""Of whatever framework; Django's and the servers' own types differ in their mappings."""


def lifespan(application: Application, *, warm_timeout: float = 10.0, shutdown_timeout: float = 10.0) -> Application:
    """
    Open connections when the server starts, for aliases with ``POOL["warm"]``, and shut the pools down when it ends.

    Args:
        application: Django's; it gets everything but the messages of the lifespan.
        warm_timeout: seconds that the start may be delayed by a database that can't be reached.
        shutdown_timeout: seconds for what still runs, see ``django_dbpool.shutdown``. The server has waited for
            requests before.

    Raises:
        TypeError: the application can't be called; a timeout is no number.
        ValueError: a timeout is negative or not finite.

    Example:
        application = lifespan(get_asgi_application())
    """
    if not callable(application):
        raise TypeError(f"lifespan() takes an ASGI application, not {shown(application)}.")
    arguments.seconds("lifespan", "warm_timeout", warm_timeout)
    arguments.seconds("lifespan", "shutdown_timeout", shutdown_timeout)

    async def application_with_lifespan(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send, warm_timeout, shutdown_timeout)
        else:
            await application(scope, receive, send)

    return application_with_lifespan


async def _live(receive: Receive, send: Send, warm_timeout: float, shutdown_timeout: float) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            # Not a thread of asgiref's, which may be the one that requests need.
            await asyncio.to_thread(_start, warm_timeout)
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await asyncio.to_thread(stopping.shutdown, shutdown_timeout)
            await send({"type": "lifespan.shutdown.complete"})
            return


def _start(timeout: float) -> None:
    stopping.resume()
    try:
        warm_at_start(timeout)
    except Exception:
        # A mistake in the settings: the first request says so where it can be seen.
        logger.exception("connections could not be opened ahead")
