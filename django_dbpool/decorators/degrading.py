"""Something less good instead of an error: the last known answer, an empty list, a page without its numbers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http.response import HttpResponseBase

from ..core import arguments
from ..core.logs import get_logger
from ..core.readers import shown
from ..errors import PoolError, withdraw
from ..middleware.failures.failure import failure_of
from .open_transactions import open_transaction

P = ParamSpec("P")
T = TypeVar("T")

logger = get_logger("django_dbpool.fallback")

HEADER = "Degraded"
"""On responses that a fallback has made; its value is the failure's kind, see docs/failures.md."""

CALM = 10.0
"""Seconds without a fallback after which a success counts as the end: a busy pool refuses every other call."""


def fallback(
    use: Callable[Concatenate[Any, P], T],
    *,
    on: type[Exception] | tuple[type[Exception], ...] = PoolError,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """
    Decorate a function or view that reads: where the database is not available, ``use`` answers instead.

    It is not used, and the error is raised, if a transaction is open around the call in which something has run, since
    what was done there is lost and must not look as if it weren't; and if the error says that a write may have been
    committed. A transaction that the function itself has begun is rolled back by then.

    The log (``django_dbpool.fallback``) has a WARNING when the fallback is first used and one when it no longer is.
    A response gets the header ``Degraded`` and, unless it has a ``Cache-Control`` of its own, ``no-store``.

    Args:
        use: called with the error and the arguments of the call. Synchronous for a synchronous function, asynchronous
            for an asynchronous one. May raise the error again.
        on: the errors that it is for.

    Raises:
        TypeError: one of the two functions is asynchronous and the other isn't, or the function is a generator's
            or a class; ``use`` can't be called; ``on`` is no class of errors.

    Example:
        def no_offers(error, customer):
            return []

        @fallback(no_offers)
        def offers(customer):
            return list(Offer.objects.filter(region=customer.region))
    """
    if not callable(use):
        raise TypeError(f"fallback({shown(use)}): name the function that answers instead, @fallback(use).")
    arguments.error_types("fallback", "on", on)
    asynchronous = iscoroutinefunction(use)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if not callable(function):  # most likely the argument of a call, decorated without `use`
            raise TypeError(
                f"fallback() decorates a function, not {shown(function)}. Name the function that answers "
                "instead: @fallback(use)."
            )
        arguments.decorated_function("fallback()", function)
        if iscoroutinefunction(function) is not asynchronous:
            raise TypeError(
                f"fallback() of {function!r}: the function and its fallback must both be asynchronous, or neither."
            )
        log = Transitions(f"{function.__module__}.{getattr(function, '__qualname__', '?')}")
        if asynchronous:
            return cast("Callable[P, T]", _asynchronous(cast("Any", function), cast("Any", use), on, log))
        return _synchronous(function, use, on, log)

    return decorate


def _synchronous(
    function: Callable[P, T], use: Callable[Concatenate[Any, P], T], on: Any, log: Transitions
) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            result = function(*args, **kwargs)
        except on as error:
            if _must_be_seen(error) or open_transaction(unbegun=False) is not None:
                raise
            return _instead(use(error, *args, **kwargs), error, log)
        if log.degraded:
            log.worked()
        return result

    return wrapper


def _asynchronous(
    function: Callable[..., Awaitable[Any]], use: Callable[..., Awaitable[Any]], on: Any, log: Transitions
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = await function(*args, **kwargs)
        except on as error:
            # In the thread that has the connections, and maybe an atomic() around async_to_sync().
            if _must_be_seen(error) or await sync_to_async(open_transaction)(unbegun=False) is not None:
                raise
            return _instead(await use(error, *args, **kwargs), error, log)
        if log.degraded:
            log.worked()
        return result

    return wrapper


def _must_be_seen(error: Exception) -> bool:
    return bool(getattr(error, "maybe_committed", False) or getattr(error, "committed", False))


def _instead(result: T, error: Exception, log: Transitions) -> T:
    """The fallback's result, and nobody is told of the error but the log."""
    withdraw(error)
    log.used(error)
    if isinstance(result, HttpResponseBase):
        failure = failure_of(error)
        result.headers[HEADER] = "other" if failure is None else failure.kind.slug
        result.headers.setdefault("Cache-Control", "no-store")
    return result


class Transitions:
    """Says once that a function has begun to live by its fallback, and once that it no longer does."""

    def __init__(self, name: str, clock: Callable[[], float] = monotonic) -> None:
        self.degraded = False
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._since = self._last = 0.0
        self._uses = 0

    def used(self, error: Exception) -> None:
        with self._lock:
            self._last = self._clock()
            self._uses += 1
            if self.degraded:
                return
            self.degraded, self._since, self._uses = True, self._last, 1
        logger.warning(
            "%s is answered by its fallback from now on: %s",
            self._name,
            str(error).partition("\n")[0],
            extra={"function": self._name, "error_type": type(error).__name__, "alias": getattr(error, "alias", None)},
        )

    def worked(self) -> None:
        with self._lock:
            now = self._clock()
            if not self.degraded or now - self._last < CALM:
                return
            self.degraded = False
            uses, seconds = self._uses, now - self._since
        logger.warning(
            "%s works again; its fallback has answered %d times in %.0f s",
            self._name,
            uses,
            seconds,
            extra={"function": self._name, "uses": uses},
        )
