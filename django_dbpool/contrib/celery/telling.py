"""
Progress is told to the result backend by a thread. One that is away keeps its callers waiting for many seconds, again
and again: a run would stand still, and give no sign of life meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ...core.logs import get_logger

logger = get_logger("django_dbpool.batch")

IDLE = 5.0
"""Seconds without anything to tell after which the thread ends."""
PATIENCE = 2.0
"""Seconds that the end of a task waits for what is being told: later it could hide the task's own end."""


class Teller:
    """Of one process. Of each task only the latest news is told, and none after its end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._changed = threading.Condition()
        self._news: dict[str, Callable[[], object]] = {}
        self._telling: str | None = None
        self._thread: threading.Thread | None = None

    def tell(self, task: str, send: Callable[[], object]) -> None:
        """Soon, in another thread; instead of what this task has said before and nobody was told yet."""
        with self._changed:
            self._news[task] = send
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dbpool-progress", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def end(self, task: str) -> None:
        """Nothing more is told of it."""
        with self._changed:
            self._news.pop(task, None)
            self._changed.wait_for(lambda: self._telling != task, PATIENCE)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._news, IDLE):
                    self._thread = None
                    return
                task = next(iter(self._news))
                send = self._news.pop(task)
                self._telling = task
            try:
                self._send(send)
            finally:
                with self._changed:
                    self._telling = None
                    self._changed.notify_all()

    def _send(self, send: Callable[[], object]) -> None:
        from ...batch.holding import release_all

        try:
            send()
        except Exception as error:  # noqa: BLE001  # a result backend that is away is no reason to stop
            logger.info("progress could not be told: %s", type(error).__name__)
        finally:
            release_all(shared_thread=False)  # a backend may be a database


_teller = Teller()


def teller() -> Teller:
    """This process's; a forked one has none of its parent's threads."""
    global _teller
    if _teller.process != os.getpid():
        _teller = Teller()
    return _teller
