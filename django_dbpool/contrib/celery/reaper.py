"""
Runs whose worker is dead are sent again by the other workers, without waiting for the broker to find out.

The timer is in a worker's main process, the look at the database in its pool, as if it were a task: a main process that
forks had better not have connections of its own, and children have one that is open.
"""

from __future__ import annotations

import random
import time
from typing import Any

from celery import shared_task, signals

from ...core.logs import get_logger
from .batches import BatchTask
from .database import DatabaseTask
from .draining import is_draining

logger = get_logger("django_dbpool.batch")

LONGEST = 30.0
"""Seconds between two looks at most; less where a task's ``takeover_after`` is below twice of that."""


@shared_task(name="django_dbpool.reap", base=DatabaseTask)  # type: ignore[untyped-decorator]
def reap() -> list[str]:
    """
    Look once, on every database: for a beat schedule, where workers shall not do so by themselves
    (``dbpool_reaper = False`` in Celery's configuration).

    Returns:
        Names of the runs that were sent again.
    """
    return look()


def look() -> list[str]:
    """In a worker's pool. A database that is away is looked at the next time."""
    from ... import batch
    from ...batch.holding import release_all

    sent: list[str] = []
    for alias in batch.databases():
        try:
            sent += batch.reap(alias)
        except Exception as error:  # noqa: BLE001
            logger.warning("batch runs on database %r could not be looked at: %s", alias, type(error).__name__)
        finally:
            release_all(shared_thread=False)
    return sent


class Looks:
    """Of one worker, from now on."""

    def __init__(self, consumer: Any, every: float) -> None:
        self._consumer = consumer
        self._every = every
        self._since: float | None = None
        """When a look began that has not ended."""
        self._entry: Any = None
        self._plan(random.random())  # noqa: S311  # not all workers of a deployment at once

    def stop(self) -> None:
        if self._entry is not None:
            self._entry.cancel()

    def _plan(self, share: float) -> None:
        self._entry = self._consumer.timer.call_after(self._every * share, self._tick)

    def _tick(self) -> None:
        if is_draining():
            return
        self._plan(random.uniform(0.75, 1.25))  # noqa: S311
        now = time.monotonic()
        if self._since is not None and now - self._since < 10 * self._every:
            return  # all children are busy; whom would it be sent to?
        self._since = now
        try:
            self._consumer.pool.apply_async(look, (), {}, callback=self._ended, error_callback=self._ended)
        except Exception:
            logger.exception("batch runs could not be looked at")

    def _ended(self, *_: Any, **__: Any) -> None:
        self._since = None


_looks: Looks | None = None


def _begin(sender: Any = None, **_: Any) -> None:
    """Of a consumer that is ready, also once it has its broker again."""
    global _looks
    if _looks is not None:
        _looks.stop()
        _looks = None
    every = interval_of(sender.app)
    if every is not None:
        _looks = Looks(sender, every)


def interval_of(app: Any) -> float | None:
    """Seconds; None where there is nothing to look after, or somebody else does it."""
    if app.conf.get("dbpool_reaper", True) in (False, None):
        return None
    patience = [task.takeover_after for task in app.tasks.values() if isinstance(task, BatchTask)]
    return min(LONGEST, max(0.5, min(patience) / 2)) if patience else None


def _end(**_: Any) -> None:
    global _looks
    if _looks is not None:
        _looks.stop()
    _looks = None


signals.worker_ready.connect(_begin, weak=False, dispatch_uid="django_dbpool.reaper")
signals.worker_shutdown.connect(_end, weak=False, dispatch_uid="django_dbpool.reaper_end")
