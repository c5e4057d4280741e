"""
Work in threads that gives back its connections, whatever happens, and whose errors are heard of.

A thread's database connections are its own: a plain ``threading.Thread`` leaves them open at its end, and nobody sees
what it raises. Each piece of work here is an operation of kind "thread" (``django_dbpool.operations``), has the
context variables of whoever asked for it (so log records carry the same ids), and none of the caller's transaction,
lease, deadline or marks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, iscoroutinefunction
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError

from .cancellation import current_scope
from .conf import project_config
from .core import blocks, operations, writes
from .core.admission import UNMARKED, admission
from .core.ledger import current_unit, running_unit
from .core.logs import get_logger
from .core.names import clean_name, clean_tags
from .core.operations import Running, origin_of, root_of
from .errors import ShuttingDown, raised_in_request
from .pool import stopping

__all__ = ["ThreadPoolExecutor", "TooManyThreads", "spawn", "spawn_on_commit"]

logger = get_logger("django_dbpool.threads")

P = ParamSpec("P")
T = TypeVar("T")

ADMIN_SHUTDOWN = "57P01"


class TooManyThreads(RuntimeError):
    """``DBPOOL["SPAWN_LIMIT"]`` threads that ``spawn()`` has started run already; this one was not started."""


def spawn(
    function: Callable[..., T],
    /,
    *args: Any,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Future[T]:
    """
    Run a function in a thread of its own and don't wait for it.

    Its connections are given back when it ends; a transaction that it has left open is rolled back, with a warning.
    What it raises is logged as an error on ``django_dbpool.threads``. The process does not end before it has, and
    ``django_dbpool.shutdown()`` waits for it as for a request.

    Not inside of ``atomic()``: the thread would not see what the transaction has written so far, and would go on
    although it is rolled back. There ``spawn_on_commit`` is right.

    Args:
        function: not a coroutine function.
        name: of the operation; the function's own when None.
        tags: of the operation, texts by name; they go into the log record and to Sentry.

    Returns:
        A future, for those who want to know all the same.

    Raises:
        TransactionManagementError: inside of ``atomic()``; that of a TestCase doesn't count.
        TooManyThreads: ``DBPOOL["SPAWN_LIMIT"]`` of them run.
        TypeError: it is no function, or one that makes a coroutine; the name or a tag is no string.
        ValueError: the name is empty, or there are too many tags.

    Example:
        spawn(send_welcome_mail, user.pk, name="welcome mail", tags={"user": str(user.pk)})
    """
    work = _Work("spawn", function, args, kwargs, name, tags)
    for connection in connections.all(initialized_only=True):
        if _in_transaction(connection):
            raise TransactionManagementError(
                f"spawn({work.name}) inside of atomic() on database {connection.alias!r}: the thread would not see "
                "what this transaction has written, and would go on if it is rolled back. Use spawn_on_commit(), or a "
                "ThreadPoolExecutor if you wait for the result here."
            )
    return _start(work)


def spawn_on_commit(
    function: Callable[..., object],
    /,
    *args: Any,
    using: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> None:
    """
    The same once the transaction that is open now has been committed; never if it is rolled back; at once if there is
    none.

    Args:
        using: alias of the transaction's database.

    Raises:
        TooManyThreads: after the commit, by whoever has caused that.
        TypeError, ValueError: as ``spawn``, at once.

    Example:
        with transaction.atomic():
            order = Order.objects.create(...)
            spawn_on_commit(notify_warehouse, order.pk)
    """
    work = _Work("spawn_on_commit", function, args, kwargs, name, tags)
    transaction.on_commit(partial(_start, work), using=using or DEFAULT_DB_ALIAS)


class ThreadPoolExecutor(concurrent.futures.ThreadPoolExecutor):
    """
    ``concurrent.futures.ThreadPoolExecutor`` whose work gives back its connections and is logged as that of ``spawn``.

    Args:
        name: of the operations; the functions' own when None.
        tags: of the operations, texts by name.

    Raises:
        TypeError, ValueError: as ``spawn``.

    Example:
        with ThreadPoolExecutor(4, name="thumbnails") as executor:
            executor.map(make_thumbnail, Photo.objects.values_list("pk", flat=True))
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._name = None if name is None else clean_name("ThreadPoolExecutor", name)
        self._tags = clean_tags("ThreadPoolExecutor", tags)
        if initializer is not None:
            initializer = partial(_released, initializer)
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        work = _Work("ThreadPoolExecutor.submit", fn, args, kwargs, self._name, self._tags)
        _note_write()
        return super().submit(work.run)


class _Work(Generic[T]):
    """One call, with what its thread is to know of the caller."""

    def __init__(
        self,
        call: str,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        name: str | None,
        tags: Mapping[str, str] | None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"{call}() takes a function and its arguments, not {type(function).__name__}.")
        if iscoroutinefunction(function):
            raise TypeError(f"{call}() runs functions in threads; wrap a coroutine function in async_to_sync().")
        own = getattr(function, "__qualname__", None) or type(function).__qualname__
        self.name = clean_name(call, own if name is None else name)
        self.tags = clean_tags(call, tags)
        self._call = partial(function, *args, **kwargs)
        self._context = copy_context()
        unit = running_unit()
        # In words: the request itself would live as long as the thread.
        self._origin = origin_of(unit)
        self._parent = unit.id if isinstance(unit, Running) else None
        self._starter = root_of(unit)

    def run(self, begun: Callable[[], object] = lambda: None) -> T:
        """
        Args:
            begun: called as soon as a shutdown would wait for it.
        """
        return self._context.run(self._run, begun)

    def _run(self, begun: Callable[[], object]) -> T:
        _forget_caller()
        running = Running(self.name, "thread", tags=self.tags, parent=self._parent, origin=self._origin, in_thread=True)
        starter, self._starter = self._starter, None
        try:
            operations.begin(running)
            if stopping.announced is not None:
                stopping.announced.adopt(running, starter)
            del starter
            begun()
            result = _released(self._call)
        except BaseException as error:
            self._log(running, error)
            operations.end(running, "failed", type(error).__qualname__)
            raise
        operations.end(running, "done", None)
        return result

    def _log(self, running: Running, error: BaseException) -> None:
        level = logging.WARNING if _is_expected(error) else logging.ERROR
        extra = {
            "operation_id": running.id,
            "operation_name": running.name,
            "operation_tags": dict(running.tags),
            "spawned_by": self._origin[0],
        }
        with _tagged_in_sentry(running):
            logger.log(
                level,
                "thread operation %r (%s), started by %s, failed: %s",
                running.name,
                running.id,
                self._origin[0] or "no unit of work",
                type(error).__qualname__,
                exc_info=error,
                extra=extra,
            )


# -- threads ------------------------------------------------------------------------------------------------------

_spawned: set[object] = set()
"""One for each that runs."""
_counting = threading.Lock()


def _start(work: _Work[T]) -> Future[T]:
    _note_write()
    limit = project_config().spawn_limit
    mark = object()
    with _counting:
        if limit is not None and len(_spawned) >= limit:
            raise TooManyThreads(
                f"{work.name} was not started: {limit} threads of spawn() run already. Use a ThreadPoolExecutor or a "
                'task queue for what comes in large numbers, or raise DBPOOL["SPAWN_LIMIT"].'
            )
        _spawned.add(mark)
    begun = threading.Event()
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    try:
        # Not a daemon: what was begun is finished before the process ends.
        threading.Thread(
            target=_main, args=(work, future, mark, begun), name=f"spawn {work.name}"[:100], daemon=False
        ).start()
    except BaseException:  # no more threads: the interpreter ends, or the system's limit is reached
        _spawned.discard(mark)
        raise
    # A shutdown that begins now is to wait for it.
    begun.wait()
    return future


def _note_write() -> None:
    """A request whose answer is made a second time would have this done a second time, too."""
    if writes.watching:
        writes.note_statement(in_transaction=False)


def _main(work: _Work[T], future: Future[T], mark: object, begun: threading.Event) -> None:
    try:
        result = work.run(begun.set)
    except BaseException as error:  # noqa: BLE001  # logged
        _spawned.discard(mark)
        future.set_exception(error)
    else:
        _spawned.discard(mark)
        future.set_result(result)
    finally:
        begun.set()
        del work, future  # else the error, which refers to this frame, would refer to itself


def _reset_after_fork() -> None:
    """The threads did not survive."""
    global _counting
    _counting = threading.Lock()
    _spawned.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


# -- connections --------------------------------------------------------------------------------------------------


def _released(function: Callable[..., T], *args: Any) -> T:
    try:
        return function(*args)
    finally:
        for connection in connections.all(initialized_only=True):
            try:
                _close(connection)
            except Exception:
                logger.exception("closing the connection to database %r after a thread's work failed", connection.alias)


def _close(connection: Any) -> None:
    if not connection.in_atomic_block:
        connection.close()
        return
    logger.warning(
        "database %r: atomic() was still open at the end of the thread's work %r, rolled back",
        connection.alias,
        getattr(operations.current(), "name", None),
    )
    try:
        connection.close()
    finally:
        del connections[connection.alias]  # which is in a block for ever, and the thread may have other work to do


def _in_transaction(connection: Any) -> bool:
    """In that of the project's own code, not in the one that a TestCase rolls back in the end."""
    return any(not getattr(block, "_from_testcase", False) for block in connection.atomic_blocks) or (
        connection.in_atomic_block and not connection.atomic_blocks
    )


# -- context ------------------------------------------------------------------------------------------------------


def _forget_caller() -> None:
    """What belongs to the caller's requests, transactions and blocks. Declared session variables stay: tenants."""
    current_unit.set(None)
    admission.set(UNMARKED)
    blocks.current_attempt.set(None)
    blocks.current_deadline.set(None)
    blocks.current_idempotence.set(None)
    current_scope.set(None)
    raised_in_request.set(None)
    writes.forget()
    SyncToAsync.thread_sensitive_context.set(None)  # type: ignore[arg-type]  # as if it never was
    SyncToAsync.deadlock_context.set(False)


def _is_expected(error: BaseException) -> bool:
    """Somebody has ended it on purpose: the process, the server or an operator."""
    if isinstance(error, (SystemExit, ShuttingDown, asyncio.CancelledError)):
        return True
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # `raise error from error` makes a circle
        if getattr(cause, "sqlstate", None) == ADMIN_SHUTDOWN:
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


@contextmanager
def _tagged_in_sentry(running: Running) -> Iterator[None]:
    """For Sentry's own handler of log records; nothing where nobody has imported it."""
    sentry = sys.modules.get("sentry_sdk")
    scope_of = getattr(sentry, "new_scope", None) or getattr(sentry, "push_scope", None)
    if scope_of is None:
        yield
        return
    with scope_of() as scope:
        for key, value in {**running.tags, "operation": running.name, "operation_id": running.id}.items():
            scope.set_tag(key, value)
        yield
