"""The attempts of one call or loop: whether there will be another one, when, and what is said of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from asgiref.sync import sync_to_async

from ..backends.losses import driver_error
from ..cancellation import current_scope
from ..core import writes
from ..core.blocks import seconds_left
from ..core.logs import get_logger
from ..core.retry import Retrier, RetryPolicy
from ..errors import CircuitOpen, withdraw
from ..pool import tell
from .attempt import Attempt
from .leaving import goes_round
from .verdict import ErrorTypes, is_transient, why_not

logger = get_logger("django_dbpool.transaction")

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


class Run:
    """All attempts of one call or loop."""

    def __init__(self, plan: Plan, function: Callable[..., Any] | None = None) -> None:
        self.plan = plan
        self.function = function
        """What it calls; None: a block."""
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
                attempt.unwatch()
                if not self.goes_on(error, attempt):
                    raise
            except BaseException:
                attempt.unwatch()
                raise
            else:
                return attempt

    async def begin_async(self) -> RunningAttempt:
        """The same; what asks the connections runs in the thread that synchronous code of this task runs in."""
        writes.watch()  # of threads that have the task's context and connections of their own
        if self._failed is not None:
            await sync_to_async(self._failed.release)()
            pause = (self.plan.sleep or asyncio.sleep)(self._delay)
            if inspect.isawaitable(pause):
                await pause
        attempt = self._next()
        try:
            await sync_to_async(attempt.prepare)()
        except BaseException:
            await sync_to_async(attempt.unwatch)()  # runs after it there, should it have been cancelled
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
        withdraw(error)
        logger.info(
            "database %r: attempt %d of %d of %s failed: %s; the next in %.3f s",
            plan.alias,
            number,
            plan.policy.attempts,
            "a block" if self.function is None else f"{name_of(self.function)}()",
            _name(error),
            delay,
            extra={"alias": plan.alias, "attempt": number, "error_type": type(error).__name__, "delay": delay},
        )
        driver = driver_error(error)
        tell.retried(plan.alias, "block", number, delay, None if driver is None else driver.sqlstate)
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


def name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__name__))


def _note(error: BaseException, text: str) -> None:
    with suppress(AttributeError, TypeError):  # a frozen dataclass, for example
        error.add_note(text)


def _name(error: BaseException) -> str:
    """Without the text, which may quote values of rows."""
    driver = driver_error(error)
    if driver is None:
        return type(error).__name__
    return f"{type(driver).__name__} {driver.sqlstate}" if driver.sqlstate else type(driver).__name__
