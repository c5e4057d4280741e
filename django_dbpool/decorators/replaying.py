"""Running a view once more when its transaction was lost, for views that say that this is allowed."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DatabaseError, connections, transaction
from django.http import HttpRequest

from ..backends.pins import Pins
from ..core import arguments
from ..core.logs import get_logger
from ..core.retry import Retrier, RetryPolicy
from ..core.writes import Writes
from ..middleware.failures.failure import CONFLICT, INTERRUPTED, failure_of
from .first_run import FirstRun
from .open_transactions import in_transaction, open_transaction

V = TypeVar("V", bound=Callable[..., Any])

logger = get_logger("django_dbpool.request")


class OwnTransactions(set[str]):
    """
    Has Django's handler leave ``ATOMIC_REQUESTS`` to us, whose transactions can begin anew: it asks each alias whether
    it is ``in view._non_atomic_requests``. The members are those that ``@non_atomic_requests`` has named.
    """

    def __contains__(self, alias: object) -> bool:
        return True


@overload
def replayable(view: V, /) -> V: ...
@overload
def replayable(*, attempts: int = ..., within: float = ...) -> Callable[[V], V]: ...
def replayable(view: Any = None, /, *, attempts: int = 2, within: float = 5.0) -> Any:
    """
    Decorate a view, synchronous or not, that may run again when its connection was lost or its transaction collided
    with another (SQLSTATE 40001, 40P01).

    It does so only for GET and HEAD, only if nothing was written: no statement but the ORM's own SELECTs outside of a
    transaction, no COMMIT after any other, nothing in the session or the messages; and not inside of somebody's
    ``atomic()``. With ``ATOMIC_REQUESTS`` each run has a transaction of its own. A pool that is exhausted and a
    server that is away are no reason: another run would only make it worse.

    The decorator is a promise about everything that the engine doesn't see: mails, other services, caches, other
    database engines, threads started by hand. For a class: ``@method_decorator(replayable, name="dispatch")``.

    Args:
        attempts: runs at most.
        within: seconds after the first run's begin in which another may begin; 0: none does.

    Raises:
        TypeError: it is no function, or an argument is of another type.
        ValueError: an argument is out of range.

    Example:
        @replayable
        def report(request, year):
            ...
    """
    policy = RetryPolicy(
        attempts=arguments.count("replayable", "attempts", attempts),
        total=arguments.seconds("replayable", "within", within),
        max_delay=0.2,
    )

    def decorate(view: Any) -> Any:
        arguments.decorated_function("replayable()", view)
        if iscoroutinefunction(view):
            return _asynchronous(view, policy)
        return _synchronous(view, policy)

    return decorate if view is None else decorate(view)


def _synchronous(view: Callable[..., Any], policy: RetryPolicy) -> Callable[..., Any]:
    @functools.wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        _check(request)
        run = view
        for alias in _atomic_aliases(request):
            run = transaction.atomic(using=alias)(run)
        if not _may_repeat(request):
            return run(request, *args, **kwargs)
        retrier, pins = Retrier(policy), Pins()
        while True:
            with FirstRun(request) as before, Writes() as writes:
                try:
                    return run(request, *args, **kwargs)
                except DatabaseError as error:
                    delay = None if pins.lost() else _delay(error, before, writes, retrier)
                    if delay is None:
                        raise
            before.restore()
            time.sleep(delay)

    wrapper._non_atomic_requests = OwnTransactions(  # type: ignore[attr-defined]
        getattr(view, "_non_atomic_requests", ())
    )
    return wrapper


def _asynchronous(view: Callable[..., Any], policy: RetryPolicy) -> Callable[..., Any]:
    @functools.wraps(view)
    async def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        _check(request)
        # In the thread that has the connections, and maybe an atomic() around async_to_sync().
        if not await sync_to_async(_may_repeat)(request):
            return await view(request, *args, **kwargs)
        retrier, pins = Retrier(policy), await sync_to_async(Pins)()
        while True:
            with FirstRun(request) as before, Writes() as writes:
                try:
                    return await view(request, *args, **kwargs)
                except DatabaseError as error:
                    delay = None if pins.lost() else _delay(error, before, writes, retrier)
                    if delay is None:
                        raise
            before.restore()
            await asyncio.sleep(delay)

    return wrapper


def _check(request: object) -> None:
    if not isinstance(request, HttpRequest):
        raise TypeError(
            f"replayable() has got {request!r} in place of a request. Decorate a method with "
            '@method_decorator(replayable, name="dispatch") on its class.'
        )


def _atomic_aliases(request: HttpRequest) -> list[str]:
    """Those of ``ATOMIC_REQUESTS``, if Django has left them to us."""
    match = request.resolver_match
    left = getattr(match and match.func, "_non_atomic_requests", None)
    if not isinstance(left, OwnTransactions):
        return []
    excluded = frozenset(iter(left))
    aliases = [alias for alias, entry in connections.settings.items() if entry["ATOMIC_REQUESTS"]]
    # A view that calls this one has opened them.
    return [alias for alias in aliases if alias not in excluded and not in_transaction(connections[alias])]


def _may_repeat(request: HttpRequest) -> bool:
    return request.method in ("GET", "HEAD") and open_transaction(unbegun=True) is None


def _delay(error: DatabaseError, before: FirstRun, writes: Writes, retrier: Retrier) -> float | None:
    """Seconds until the next run; None: there is none."""
    failure = failure_of(error)
    if (
        failure is None
        or failure.kind not in (CONFLICT, INTERRUPTED)
        or getattr(error, "committed", False)  # raised by a commit hook
        or writes.happened
        or before.left_something()
    ):
        return None
    attempt = retrier.attempts
    delay = retrier.next_delay()
    if delay is not None:
        before.log_again(logger, failure, attempt)
    return delay
