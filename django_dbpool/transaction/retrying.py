"""Blocks that run again when they failed for a reason that passes."""

from __future__ import annotations

import functools
import inspect
import random as _random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import DEFAULT_DB_ALIAS

from ..core import arguments
from ..core.readers import shown
from ..core.retry import RetryPolicy
from .runs import Plan, Run, RunningAttempt, name_of
from .verdict import ErrorTypes

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")


class Retrying:
    """A decorator, a loop or a caller; see ``retrying``. It keeps no state, so it may be shared and used again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, function: F) -> F:
        """Decorate a function, method, view or, with ``atomic=False``, coroutine function."""
        arguments.decorated_function("transaction.retrying()", function)
        if iscoroutinefunction(function):
            self._refuse_atomic(f"{name_of(function)}() is a coroutine function")

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

    def __getitem__(self, index: slice) -> list[Retrying]:
        """
        For Django's ``method_decorator``, which takes what can be iterated over for a list of decorators, and has it
        reversed by a slice.
        """
        return [self][index]

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function until it succeeds, and give what it returns."""
        _refuse_uncallable(function, "call")
        run = Run(self._plan, function)
        while True:
            attempt = run.begin()
            try:
                with attempt:
                    result = function(*args, **kwargs)
                    _refuse_coroutine(result, function)
            finally:
                attempt.unwatch()
            if run.finished:
                return result

    async def call_async(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await the function until it succeeds, and give what it returns. Needs ``atomic=False``."""
        self._refuse_atomic("call_async() is asynchronous")
        _refuse_uncallable(function, "call_async")
        run = Run(self._plan, function)
        while True:
            attempt = await run.begin_async()
            try:
                with attempt:
                    result = await function(*args, **kwargs)
            finally:
                await sync_to_async(attempt.unwatch)()
            if run.finished:
                return result

    if not TYPE_CHECKING:  # type checkers refuse `with retrying():` by themselves, as long as they don't see this

        def __enter__(self) -> NoReturn:
            raise TypeError(
                "transaction.retrying(): Python can't run a `with` block twice. Write "
                "`for attempt in transaction.retrying():` with `with attempt:` as its body, or decorate a function."
            )

        def __exit__(self, *exc_info: object) -> None: ...

        async def __aenter__(self) -> NoReturn:
            self.__enter__()

        async def __aexit__(self, *exc_info: object) -> None: ...

    def __iter__(self) -> Iterator[RunningAttempt]:
        run = Run(self._plan)
        while not run.finished:
            attempt = run.begin()
            attempt.in_loop = True
            try:
                yield attempt
            finally:
                attempt.unwatch()
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
                await sync_to_async(attempt.unwatch)()
            _refuse_unused(attempt)

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

    Never repeated: what was committed or may have been, what began on a pinned connection that is lost, a pool
    without a free connection, time limits, an error that the code has turned into one of another type, anything that
    is no ``Exception``.

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
        TypeError: as the decorator of a generator function or a class, or of a coroutine function without
            ``atomic=False``; an argument of another type.
        ValueError: an argument out of range.
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
    if not isinstance(alias, str):
        raise TypeError(f"transaction.retrying() takes a database alias, not {alias!r}.")
    arguments.boolean("transaction.retrying", "atomic", atomic)
    arguments.error_types("transaction.retrying", "on", on)
    policy = RetryPolicy(
        attempts=arguments.count("transaction.retrying", "attempts", attempts),
        total=arguments.seconds("transaction.retrying", "total", total),
        max_delay=arguments.seconds("transaction.retrying", "max_delay", max_delay),
    )
    made = Retrying(Plan(alias, policy, atomic, on, clock, sleep, random))
    return made if function is None else made(function)


def _refuse_uncallable(function: object, method: str) -> None:
    """
    Raises:
        TypeError: most likely the result of a call in place of the function.
    """
    arguments.refuse_generator(f"transaction.retrying().{method}()", function)
    if not callable(function):
        raise TypeError(
            f"transaction.retrying().{method}() takes a function and its arguments, not {shown(function)}: "
            f"write {method}(function, argument), not {method}(function(argument))."
        )


def _refuse_coroutine(result: object, function: Callable[..., Any]) -> None:
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(
            f"transaction.retrying(): {name_of(function)}() returned a coroutine, which would run after the block. "
            "Decorate the coroutine function itself, with atomic=False."
        )


def _refuse_unused(attempt: RunningAttempt) -> None:
    if not attempt.entered:
        raise RuntimeError("A loop over transaction.retrying() needs `with attempt:` as its body.")
