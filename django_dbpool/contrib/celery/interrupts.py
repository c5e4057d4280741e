"""
Signals that end a task in the middle: the soft time limit, and what Celery terminates a prefork child with.

Celery raises ``SoftTimeLimitExceeded``, an ``Exception``: a handler that goes on after an item's error would swallow it
and take a good item for a bad one. So for the time of a run both signals raise something of our own.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from billiard.common import _shutdown_cleanup
from billiard.pool import soft_timeout_sighandler

from .draining import is_draining

_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGTERM", "SIGQUIT", "SIGHUP") if hasattr(signal, name)]


class Interrupted(BaseException):
    """
    Raised at whatever instruction the task is. A statement that runs is cancelled on the server for it, and its
    transaction rolled back.

    Attributes:
        batch_reason: what the run's checkpoint says of it.
    """

    def __init__(self, batch_reason: str) -> None:
        super().__init__(batch_reason)
        self.batch_reason = batch_reason


class Interrupts:
    """
    For the time of one go of a task, in the main thread of a prefork child; elsewhere Celery sends none of these
    signals to tasks. A signal is passed on at the end, to whoever would have had it.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        """The signal."""
        self._armed = False
        self._before: dict[int, Any] = {}

    @property
    def terminated(self) -> bool:
        """This process is to end, and not to send anything any more."""
        return self.came is not None and self._before[self.came] is _shutdown_cleanup

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # Whoever has set another one has plans for it.
            if handler in (_shutdown_cleanup, soft_timeout_sighandler):
                self._before[number] = handler
                signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.came is not None and self.terminated:
            terminate: Callable[[int, Any], None] = self._before[self.came]
            terminate(self.came, None)  # raises SystemExit

    @contextmanager
    def armed(self) -> Iterator[None]:
        """
        Raises:
            Interrupted: a signal came, or had come before.
        """
        self._armed = True
        try:
            if self.came is not None:
                self._strike()
            yield
        finally:
            self._armed = False

    def _note(self, number: int, frame: Any) -> None:
        # The end of the process counts for more than the end of the task's time.
        if self.came is None or not self.terminated:
            self.came = number
        if self._armed:
            self._strike()

    def _strike(self) -> None:
        self._armed = False
        raise Interrupted("revoked" if self.terminated and not is_draining() else "stopped")
