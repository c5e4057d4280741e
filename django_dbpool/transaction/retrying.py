"""Blocks that run again when they failed for a reason that passes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import random as _random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DEFAULT_DB_ALIAS

from ..cancellation import current_scope
from ..core.blocks import seconds_left
from ..core.retry import Retrier, RetryPolicy
from ..errors import CircuitOpen
from .attempt import Attempt
from .declared import refuse_generators
from .leaving import goes_round
from .verdict import ErrorTypes, driver_error, is_transient, why_not

logger = logging.getLogger("django_dbpool.transaction")

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")

NOT_IN_ITS_LOOP = (
    "COMMIT failed where the loop may not go on. End the loop's body with its `with attempt:` block, and let return or "
    "break follow after the loop."
)


@dataclass(frozen=True)
class Plan:
    """What ``retrying()`` was given."""

    alias: str
    policy: RetryPolicy
    atomic: bool
    on: ErrorTypes
    clock: Callable[[], float]
    sleep: Callable[[float], Any] | None
    random: Callable[[], float]
    name: str = "a block"


class Run:
    """All attempts of one call or loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.finished = False
        self._retrier = Retrier(
            plan.policy, deadline=plan.clock() + seconds_left(), clock=plan.clock, random=plan.random
        )
        self._failed: Attempt | None = None
        self._delay = 0.0

    def begin(self) -> RunningAttempt:
        """The next attempt, after the pause that the last one has earned."""
        while True:
            if self._failed is not None:
                self._failed.release()
                (self.plan.sleep or time.sleep)(self._delay)
            attempt = self._next()
            try:
                attempt.prepare()
            except Exception as error:
                attempt.end()
                if not self.goes_on(error, attempt):
                    raise
            except BaseException:
                attempt.end()
                raise
            else:
                return attempt

    async def begin_async(self) -> RunningAttempt:
        """The same; what asks the connections runs in the thread that synchronous code of this task runs in."""
        if self._failed is not None:
            await sync_to_async(self._failed.release)()
            pause = (self.plan.sleep or asyncio.sleep)(self._delay)
            if inspect.isawaitable(pause):
                await pause
        attempt = self._next()
        try:
            await sync_to_async(attempt.prepare)()
        except BaseException:
            attempt.end()
            raise
        return attempt

    def _next(self) -> RunningAttempt:
        return RunningAttempt(self, self._retrier.attempts)

    def goes_on(self, error: Exception, attempt: Attempt, reason: str | None = None) -> bool:
        """
        Whether there will be another attempt. If not, the error is about to be raised: it is told what it cost.

        Args:
            reason: why not, if that is known already.
        """
        plan, retrier = self.plan, self._retrier
        number = retrier.attempts
        reason = reason or why_not(error, attempt, plan.on)
        if reason is None and (scope := current_scope.get()) is not None and scope.cancelled:
            reason = "its task was cancelled"
        delay = self._next_delay(error) if reason is None else None
        if delay is None:
            if number > 1 or reason is None:
                _note(error, f"transaction.retrying(): after {number} attempts in {retrier.elapsed():.1f} s")
            if reason is not None and is_transient(error):
                _note(error, f"transaction.retrying() did not repeat it: {reason}")
            return False
        self._failed, self._delay, self.finished = attempt, delay, False
        logger.info(
            "database %r: attempt %d of %d of %s failed: %s; the next in %.3f s",
            plan.alias,
            number,
            plan.policy.attempts,
            plan.name,
            _name(error),
            delay,
            extra={"alias": plan.alias, "attempt": number, "error_type": type(error).__name__, "delay": delay},
        )
        return True

    def _next_delay(self, error: Exception) -> float | None:
        if not isinstance(error, CircuitOpen):
            return self._retrier.next_delay()
        # Nobody tries before then, or just after; but it is let go as soon as the server is back.
        if error.retry_after >= self._retrier.remaining():
            return None
        delay = self._retrier.next_delay()
        return None if delay is None else max(delay, min(error.retry_after, self.plan.policy.max_delay))


class RunningAttempt(Attempt):
    """An attempt as a context manager, which swallows the error after which there will be another one."""

    in_loop = False
    """Its ``with`` statement is somebody else's."""

    def __init__(self, run: Run, number: int) -> None:
        super().__init__(run.plan.alias, number, atomic=run.plan.atomic)
        self._run = run
        self.entered = False

    def __enter__(self) -> Self:
        if self.entered:
            raise RuntimeError("An attempt of transaction.retrying() is entered once: `with attempt:` in its loop.")
        self.entered = True
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        run = self._run
        run.finished = True
        try:
            self.leave(kind, error, traceback)
        except Exception as failure:
            if self.in_loop and kind is None and not goes_round(sys._getframe(1)):
                # It was left by return or break, perhaps: nobody would ever come for the next attempt.
                run.goes_on(failure, self, NOT_IN_ITS_LOOP)
                raise
            if not run.goes_on(failure, self):
                raise
            return True
        finally:
            self.end()
        return isinstance(error, Exception) and run.goes_on(error, self)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, traceback)


class Retrying:
    """A decorator, a loop or a caller; see ``retrying``. It keeps no state, so it may be shared and used again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, function: F) -> F:
        """Decorate a function, method, view or, with ``atomic=False``, coroutine function."""
        refuse_generators("retrying", function)
        if iscoroutinefunction(function):
            self._refuse_atomic(f"{_name_of(function)}() is a coroutine function")

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                return await self.call_async(function, *args, **kwargs)
        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return self.call(function, *args, **kwargs)

        # Of a view: Django is not to open ATOMIC_REQUESTS' transaction around it. The set is the function's own.
        exempt = {*getattr(function, "_non_atomic_requests", ()), self._plan.alias}
        wrapper._non_atomic_requests = exempt  # type: ignore[attr-defined]
        return cast("F", wrapper)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function until it succeeds, and give what it returns."""
        run = Run(self._named(function))
        while True:
            with run.begin():
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result.close()
                    raise TypeError(
                        f"transaction.retrying(): {_name_of(function)}() returned a coroutine, which would run after "
                        "the block. Decorate the coroutine function itself, with atomic=False."
                    )
            if run.finished:
                return result

    async def call_async(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await the function until it succeeds, and give what it returns. Needs ``atomic=False``."""
        self._refuse_atomic("call_async() is asynchronous")
        run = Run(self._named(function))
        while True:
            with await run.begin_async():
                result = await function(*args, **kwargs)
            if run.finished:
                return result

    def __iter__(self) -> Iterator[RunningAttempt]:
        run = Run(self._plan)
        while not run.finished:
            attempt = run.begin()
            attempt.in_loop = True
            try:
                yield attempt
            finally:
                attempt.end()
            _refuse_unused(attempt)

    async def __aiter__(self) -> AsyncIterator[RunningAttempt]:
        self._refuse_atomic("`async for` is asynchronous")
        run = Run(self._plan)
        while not run.finished:
            attempt = await run.begin_async()
            attempt.in_loop = True
            try:
                yield attempt
            finally:
                attempt.end()
            _refuse_unused(attempt)

    def _named(self, function: Callable[..., Any]) -> Plan:
        return Plan(**{**self._plan.__dict__, "name": f"{_name_of(function)}()"})

    def _refuse_atomic(self, what: str) -> None:
        if self._plan.atomic:
            raise TypeError(
                f"transaction.retrying(): {what}, and Django's atomic() belongs to a thread: it can't span an await. "
                "Put the transaction into a function, decorate that and await sync_to_async() of it; or pass "
                "atomic=False, if each statement may be committed by itself."
            )


@overload
def retrying(using: F, /) -> F: ...
@overload
def retrying(
    using: str | None = ...,
    *,
    atomic: bool = ...,
    attempts: int = ...,
    total: float = ...,
    max_delay: float = ...,
    on: ErrorTypes = ...,
    clock: Callable[[], float] = ...,
    sleep: Callable[[float], Any] | None = ...,
    random: Callable[[], float] = ...,
) -> Retrying: ...
def retrying(
    using: Any = None,
    *,
    atomic: bool = True,
    attempts: int = 16,
    total: float = 10.0,
    max_delay: float = 1.0,
    on: ErrorTypes = (),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Any] | None = None,
    random: Callable[[], float] = _random.random,
) -> Any:
    """
    Run a whole transaction again when it failed for a reason that passes: a serialization failure, a deadlock, a
    connection that was lost, a server that restarts or is full. Between two attempts nothing is held, and the pause is
    random and grows.

    Never repeated: what was committed or may have been, a pool without a free connection, time limits, an error
    that the code has turned into one of another type, anything that is no ``Exception``.

    Args:
        using: database alias.
        atomic: open a transaction for each attempt. False: the code needs none or opens its own. Then an attempt is
            repeated only if nothing that it did was committed; see ``idempotent``.
        attempts: calls altogether.
        total: seconds from the first attempt's begin; no attempt begins after it, nor after ``transaction.deadline()``.
        max_delay: seconds; longest pause. The first one is at most 0.05.
        on: types of errors to repeat in addition.
        clock: seconds, monotonic.
        sleep: called with seconds between two attempts; asynchronous or not for asynchronous code.
        random: from 0 to 1.

    Raises:
        TypeError: as the decorator of a generator function, or of a coroutine function without ``atomic=False``.
        RetryingInsideTransaction: when an attempt begins inside a transaction that it could repeat only a part of.
        Exception: the last attempt's, with a note that says how many there were.

    Example:
        @transaction.retrying
        def book(seat): ...

        for attempt in transaction.retrying("default", attempts=5):
            with attempt:
                ...

        transaction.retrying(atomic=False).call(vacuum, "orders")
    """
    function = using if callable(using) else None
    alias = DEFAULT_DB_ALIAS if function is not None or using is None else using
    _validate(alias, attempts, total, max_delay, on)
    policy = RetryPolicy(attempts=attempts, total=float(total), max_delay=float(max_delay))
    made = Retrying(Plan(alias, policy, atomic, on, clock, sleep, random))
    return made if function is None else made(function)


def _validate(alias: object, attempts: object, total: object, max_delay: object, on: object) -> None:
    if not isinstance(alias, str):
        raise TypeError(f"transaction.retrying() takes a database alias, not {alias!r}.")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise ValueError(f"transaction.retrying(attempts={attempts!r}): a whole number, 1 or more.")
    for name, value in (("total", total), ("max_delay", max_delay)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= cast("float", value) < math.inf:
            raise ValueError(f"transaction.retrying({name}={value!r}): seconds, 0 or more, and finite.")
    for kind in on if isinstance(on, tuple) else (on,):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"transaction.retrying(on={on!r}): types of errors that derive from Exception.")


def _refuse_unused(attempt: RunningAttempt) -> None:
    if not attempt.entered:
        raise RuntimeError("A loop over transaction.retrying() needs `with attempt:` as its body.")


def _note(error: BaseException, text: str) -> None:
    with suppress(AttributeError, TypeError):  # a frozen dataclass, for example
        error.add_note(text)


def _name(error: BaseException) -> str:
    """Without the text, which may quote values of rows."""
    driver = driver_error(error)
    if driver is None:
        return type(error).__name__
    return f"{type(driver).__name__} {driver.sqlstate}" if driver.sqlstate else type(driver).__name__


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__name__))
