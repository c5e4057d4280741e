"""
Queries that end with the asyncio task they run for.

Django runs queries in threads, and a thread can't be cancelled: when a client disconnects, Django cancels the
request's task, but the query goes on, and its connection stays leased until the result, which nobody reads, is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import sys
import threading
from _thread import get_ident
from collections.abc import AsyncGenerator, AsyncIterable
from contextvars import Context, ContextVar
from time import monotonic, sleep
from types import TracebackType
from typing import Any, TypeVar

from .pool import command as commands
from .pool import watchdog

__all__ = ["cancel_with_task", "stream_with_task"]

T = TypeVar("T")

LOOK_EVERY = 0.05
"""Seconds between looks at whether a task is being cancelled, see ``cancel_with_task._look``."""

BENEFIT_OF_DOUBT = 0.4
"""Seconds for a statement that began between the last look and the cancellation, or after it: nobody knows which."""

current_scope: ContextVar[cancel_with_task | None] = ContextVar("dbpool_cancel_scope", default=None)
"""Copied into threads by ``sync_to_async`` and ``asyncio.to_thread``, and into tasks that are created."""


class cancel_with_task:  # noqa: N801  # used as a statement, like contextlib.suppress
    """
    An asynchronous context manager: if its task is cancelled inside, the statements that run for it in threads are
    cancelled on the server, and their connections come back. COMMIT and ROLLBACK are not: what was to be committed is.

    In each thread that is cut off this way one statement fails, the one that runs or else the next; what the thread
    does to clean up after that works. Statements are left alone as long as any other task that was created inside the
    block is alive, such as one of ``asyncio.shield``: it may be the one that waits for them.

    Raises:
        CancelledError: as it came. The block's exit waits for nothing.

    Example:
        async with asyncio.timeout(2), cancel_with_task():
            await sync_to_async(slow_report)()
    """

    def __init__(self) -> None:
        self._parent: cancel_with_task | None = None
        self._cancelled = False
        self._told: set[int] = set()
        """Threads in which a statement has failed for it."""

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("cancel_with_task() is for code that runs in a task.")
        watchdog.enable()
        self._parent = current_scope.get()
        current_scope.set(self)
        self._loop = asyncio.get_running_loop()
        self._seen_well = monotonic()
        self._seen_cancelled: float | None = None
        self._timer = self._loop.call_later(LOOK_EVERY, self._look, task, task.cancelling())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Not by a token: the end of an abandoned generator may come in another context than its beginning.
        current_scope.set(self._parent)
        if isinstance(error, asyncio.CancelledError) and not self._used_by_others(asyncio.current_task()):
            self._cancelled = True
            self._cancel()

    def _look(self, task: asyncio.Task[Any], requests: int) -> None:
        """
        A cancellation may not come out of the block: where synchronous code in between called asynchronous code (a
        middleware that is not asynchronous, before a view that is), asgiref's sync_to_async() waits for the thread.
        Then what ran already when the task was not yet being cancelled is what it waits for. What began about when it
        was may be that too, or belong to the task's own cleaning up: it gets some time.
        """
        now = monotonic()
        if task.cancelling() <= requests:
            self._seen_well, self._seen_cancelled = now, None
        elif not self._used_by_others(task):
            if self._seen_cancelled is None:
                self._seen_cancelled = now
            certain = now - self._seen_cancelled < BENEFIT_OF_DOUBT
            self._cancel(begun_before=self._seen_well if certain else self._seen_cancelled)
        self._timer = self._loop.call_later(LOOK_EVERY, self._look, task, requests)

    @property
    def cancelled(self) -> bool:
        """Whether this task was, or one that it works for."""
        scope: cancel_with_task | None = self
        while scope is not None and not scope._cancelled:
            scope = scope._parent
        return scope is not None

    def refuses(self) -> bool:
        """Asked by a thread before a statement: whether this is the one that has to fail."""
        scope: cancel_with_task | None = self
        while scope is not None:
            if scope._cancelled and get_ident() not in scope._told:
                scope._told.add(get_ident())
                return True
            scope = scope._parent
        return False

    def _cancel(self, begun_before: float = math.inf) -> None:
        """Without blocking the event loop."""
        if self._untold(begun_before):
            threading.Thread(
                target=self._cancel_statements, args=[begun_before], name="dbpool-cancel-task", daemon=True
            ).start()

    def _cancel_statements(self, begun_before: float) -> None:
        patience = monotonic() + 1.0
        while (remaining := self._untold(begun_before)) and monotonic() < patience:
            for command in remaining:
                if command.active() and (cancellation := commands.announce(command, timed_out=False)):
                    # Before it starts: the end of this statement waits for it, the next begins after that.
                    self._told.add(command.thread)
                    cancellation.start()
            sleep(0.002)  # one that is about to be sent can't be cancelled yet

    def _untold(self, begun_before: float) -> list[commands.Command]:
        return [
            command
            for command in tuple(commands.running)
            if command.began < begun_before
            and command.thread not in self._told
            and command.cancellation is None
            and not command.over()
            and self._includes(command.scope)
        ]

    def _includes(self, scope: object) -> bool:
        while isinstance(scope, cancel_with_task):
            if scope is self:
                return True
            scope = scope._parent
        return False

    def _used_by_others(self, this: asyncio.Task[Any] | None) -> bool:
        """Whether a task that was created inside is still alive. Threads don't tell which task waits for them."""
        return any(
            task is not this and not task.done() and self._includes(_scope_of(task)) for task in asyncio.all_tasks()
        )


def _scope_of(task: asyncio.Task[Any]) -> cancel_with_task | None:
    if sys.version_info >= (3, 12):
        return task.get_context().get(current_scope)
    # Python 3.11 has no method for it; the collector sees it, whichever implementation the task is of.
    contexts = [item for item in gc.get_referents(task) if isinstance(item, Context)]
    return contexts[0].get(current_scope) if contexts else None


async def stream_with_task(content: AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """
    The same for what is iterated over after the block has been left, as a streaming response's content is.

    Example:
        response.streaming_content = stream_with_task(response.streaming_content)
    """
    iterator = aiter(content)
    try:
        while True:
            try:
                # Around each step, not around the loop: between two steps its consumer's code runs.
                async with cancel_with_task():
                    part = await anext(iterator)
            except StopAsyncIteration:
                return
            yield part
    finally:
        if (aclose := getattr(iterator, "aclose", None)) is not None:
            with contextlib.suppress(RuntimeError):  # it is still running, in a task of its own
                await aclose()
