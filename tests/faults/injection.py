"""
Raise an exception wherever the interpreter could deliver a signal or PyThreadState_SetAsyncExc: at the start of a
function, after a call of what isn't Python code, and when a loop goes round. Nowhere else: there no lock and no
``finally`` could be trusted. Needs sys.monitoring, so Python 3.12.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any

import django
import psycopg

import django_dbpool

ENGINE = (str(Path(django_dbpool.__file__).parent),)
STACK = (*ENGINE, str(Path(django.__file__).parent / "db"), str(Path(psycopg.__file__).parent))
TOOL = 4


class Interrupted(BaseException):
    """As a soft time limit, GreenletExit or KeyboardInterrupt: not an Exception."""


class Injector:
    """
    Runs a function in the current thread and raises Interrupted at the ``at``-th point within the code of ``folders``.

    ``fired`` says where; it stays None when the function had fewer points.
    """

    def __init__(self, at: int, folders: tuple[str, ...] = ENGINE) -> None:
        self.at = at
        self.folders = folders
        self.fired: str | None = None
        self.where = ""
        self._seen = 0
        self._thread = threading.get_ident()

    def run(self, body: Callable[[], Any]) -> None:
        with self._monitoring(), suppress(Interrupted):
            body()

    @contextmanager
    def _monitoring(self) -> Iterator[None]:
        monitoring = sys.monitoring
        events = monitoring.events
        monitoring.use_tool_id(TOOL, "interrupts")
        try:
            for event in (events.PY_START, events.PY_RESUME, events.C_RETURN):
                monitoring.register_callback(TOOL, event, self._point)
            monitoring.register_callback(TOOL, events.JUMP, self._jump)
            # A call is only watched because C_RETURN comes with it alone.
            monitoring.set_events(TOOL, events.PY_START | events.PY_RESUME | events.CALL | events.JUMP)
            yield
        finally:
            monitoring.set_events(TOOL, 0)
            monitoring.free_tool_id(TOOL)

    def _point(self, code: CodeType, offset: int, *more: object) -> Any:
        if not code.co_filename.startswith(self.folders):
            return sys.monitoring.DISABLE if not more else None
        if self.fired is None and threading.get_ident() == self._thread:
            self._seen += 1
            if self._seen == self.at:
                line = next(line for start, end, line in code.co_lines() if start <= offset < end)
                self.where = code.co_filename
                self.fired = f"{self.where}:{line} in {code.co_qualname} {more[:1]}"
                raise Interrupted(self.fired)
        return None

    def _jump(self, code: CodeType, offset: int, destination: int) -> Any:
        return self._point(code, offset) if destination < offset else None
