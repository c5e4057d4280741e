"""What moves a run from step to step: in a thread, or in a task of an event loop."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from asgiref.sync import sync_to_async

from ..core.admission import admission
from ..core.operations import Running
from ..operations.tracking import track_operation
from ..transaction.admission import group
from .plan import Plan
from .progress import BatchResult
from .runner import Runner

GROUP = "batch"
"""Of ``POOL["groups"]``, unless the caller has named another."""
SLICE = 1.0
"""Seconds; so often, or more often for its heartbeats, a wait looks whether it is still wanted."""


class _Pace:
    """What of a step is to be told."""

    def __init__(self, runner: Runner, operation: Running) -> None:
        self._runner = runner
        self._operation = operation
        self._batches = 0
        self._counted: int | None = None

    def has_moved(self) -> bool:
        """Whether there is something to tell ``on_progress``."""
        moved = self._runner.batches != self._batches
        self._batches = self._runner.batches
        place = self._runner.place
        now = place.done + place.failed
        if self._counted is None:  # what others have done before is not this operation's
            if not self._runner.found:
                return False
            self._counted = now
            if place.total is not None:
                self._operation.advance(0, max(0, place.total - now))
        self._operation.advance(now - self._counted)
        self._counted = now
        return moved


@contextmanager
def _marked() -> Iterator[None]:
    if admission.get().group is not None:
        yield
        return
    with group(GROUP):
        yield


def _tags(plan: Plan) -> dict[str, str]:
    return {"model": plan.source.model._meta.label, "database": plan.alias}


# -- synchronous --------------------------------------------------------------------------------------------------


def drive(plan: Plan) -> BatchResult:
    runner = Runner(plan)
    runner.open()
    interrupt = _Interrupt()
    try:
        with track_operation(plan.title, tags=_tags(plan)) as operation, _marked(), interrupt:
            _run(runner, _Pace(runner, operation), interrupt)
    except BaseException as error:
        runner.abandon(error)
        raise
    if interrupt.came:
        raise KeyboardInterrupt
    return runner.result()


def _run(runner: Runner, pace: _Pace, interrupt: _Interrupt) -> None:
    while (delay := runner.step()) is not None:
        if pace.has_moved() and runner.plan.on_progress is not None:
            runner.plan.on_progress(runner.progress())
        until = time.monotonic() + delay
        interrupt.tell(runner)
        while (left := until - time.monotonic()) > 0 and runner.may_wait(left):
            interrupt.wait(min(left, SLICE, runner.beat_every))
            interrupt.tell(runner)
            runner.beat()


class _Interrupt:
    """
    Ctrl-C: the first one ends the run after the batch at hand, the second one at once. Only in the main thread, and
    only where nobody else has plans for it.
    """

    def __init__(self) -> None:
        self.came = False
        self._event = threading.Event()
        self._installed = False

    def __enter__(self) -> None:
        mine = threading.current_thread() is threading.main_thread()
        if mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._installed = True

    def __exit__(self, *exc_info: object) -> None:
        if self._installed and signal.getsignal(signal.SIGINT) == self._note:  # else somebody has other plans by now
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait(self, seconds: float) -> None:
        if self.came:
            time.sleep(seconds)
        else:
            self._event.wait(seconds)

    def tell(self, runner: Runner) -> None:
        if self.came and runner.stop is None:
            runner.stop = "stopped"

    def _note(self, number: int, frame: Any) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        self._event.set()


# -- asynchronous -------------------------------------------------------------------------------------------------


async def drive_async(plan: Plan) -> BatchResult:
    runner = Runner(plan, shared_thread=True)
    try:
        await _to_its_end(runner.open)
        async with track_operation(plan.title, tags=_tags(plan)) as operation:
            with _marked():
                await _run_async(runner, _Pace(runner, operation))
    except BaseException as error:
        await _to_its_end(partial(runner.abandon, error))
        raise
    return runner.result()


async def _run_async(runner: Runner, pace: _Pace) -> None:
    while (delay := await _to_its_end(runner.step)) is not None:
        if pace.has_moved() and runner.plan.on_progress is not None:
            told = runner.plan.on_progress(runner.progress())
            if inspect.isawaitable(told):
                await told
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0 and runner.may_wait(left):
            await asyncio.sleep(min(left, SLICE, runner.beat_every))
            await sync_to_async(runner.beat)()


async def _to_its_end(function: Callable[[], Any]) -> Any:
    """A task that is cancelled ends after the batch at hand, not in the middle of it."""
    running = asyncio.ensure_future(sync_to_async(function)())
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if not running.done():
            await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen: the cancellation is what is raised
        raise
