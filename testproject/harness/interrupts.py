"""Ctrl-C at any moment: work ends at once, and no process and no directory is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody asked this program to end; not an Exception, so that no handler takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """The first SIGINT, SIGTERM or SIGHUP raises Stopped; the clean-up that follows hears no other."""

    def __init__(self) -> None:
        self._held = False
        self._pending: int | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait while something is started for whose end nobody is responsible yet."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending is not None:
                self._stop(self._pending)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            return
        if self._held:
            self._pending = number
        else:
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping = True
        raise Stopped(number)
