"""
A worker that is told to stop tells its tasks. Celery tells only its own main process: a byte of memory that is shared
with the children carries it there.

Without a lock: it is written by a signal handler, and a child that was killed under a lock would keep it for ever.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import bootsteps, signals

_flag: mmap.mmap | None = None
"""Of the worker in this process; in a child, of its parent's."""


def is_draining() -> bool:
    """Whether the worker that runs this is on its way down, so that a long task had better end at the next chance."""
    return _flag is not None and _flag[0] == 1


def drain(**_: Any) -> None:
    if _flag is not None:
        _flag[0] = 1


def _forget(**_: Any) -> None:
    """In a process that goes on without its worker, as tests do."""
    global _flag
    _flag = None


class DrainStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Hears of shutdowns that come without a signal: by remote control, or of an embedded worker."""

    def close(self, worker: Any) -> None:
        drain()


def _begin(sender: Any = None, **_: Any) -> None:
    global _flag
    _flag = mmap.mmap(-1, 1)
    worker = sender
    worker.app.steps["worker"].add(DrainStep)
    wait = getattr(worker, "wait_for_soft_shutdown", None)
    if wait is not None:  # since Celery 5.5
        worker.wait_for_soft_shutdown = _told_first(wait)


def _told_first(wait: Callable[[], None]) -> Callable[[], None]:
    # The signal comes after the time that running tasks are given, in which they are to hear of it.
    @wraps(wait)
    def wait_for_soft_shutdown() -> None:
        drain()
        wait()

    return wait_for_soft_shutdown


signals.worker_init.connect(_begin, weak=False, dispatch_uid="django_dbpool.drain_init")
signals.worker_shutting_down.connect(drain, weak=False, dispatch_uid="django_dbpool.drain")
signals.worker_shutdown.connect(_forget, weak=False, dispatch_uid="django_dbpool.drain_forget")
