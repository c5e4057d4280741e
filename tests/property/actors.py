"""Threads that do one step at a time."""

from __future__ import annotations

import ctypes
import queue
import threading
from concurrent.futures import Future
from typing import Any

from django.db import connections

from .sessions import Session, kind_of

PATIENCE = 10.0
"""Seconds after which a step that should have ended counts as stuck."""

Outcome = tuple[str, Any]
"""("returned", value) or ("raised", kind of error)."""


class Actor:
    """A thread with a session. It ends when told so, leaving everything as it is."""

    def __init__(self, name: str, alias: str) -> None:
        self.name = name
        self._steps: queue.SimpleQueue[tuple[str, int, str, Future[Outcome]] | None] = queue.SimpleQueue()
        self._escaped: list[object] = []
        self._thread = threading.Thread(target=self._run, args=(alias,), name=name, daemon=True)
        self._thread.start()

    def start(self, name: str, number: int = 0, key: str = "") -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self._steps.put((name, number, key, future))
        return future

    def do(self, name: str, number: int = 0, key: str = "") -> Outcome:
        return self.start(name, number, key).result(PATIENCE)

    def interrupt(self) -> None:
        """KeyboardInterrupt, as a worker's time limit raises its own error in a thread."""
        ident = ctypes.c_ulong(self._thread.ident or 0)
        found = ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))
        assert found == 1

    def end(self, escaping: bool = False) -> list[object]:
        """End the thread. What escapes is known to others and outlives it."""
        self._escaping = escaping
        self._steps.put(None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._escaped

    def _run(self, alias: str) -> None:
        session = Session(alias)
        while (step := self._steps.get()) is not None:
            self._step(session, *step)
        if self._escaping:
            self._escaped = [session, connections[alias]]

    @staticmethod
    def _step(session: Session, name: str, number: int, key: str, future: Future[Outcome]) -> None:
        try:
            outcome = "returned", getattr(session, name)(number, key)
        except BaseException as error:
            outcome = "raised", kind_of(error)
        future.set_result(outcome)
