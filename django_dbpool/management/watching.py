"""``manage.py dbpool status --watch``: read, show, let go, wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from django.db import connections

from ..conf.engines import is_ours
from ..reports import Fleet, remembered
from .board import Look, Rates, View, board
from .terminal import Ended, Screen, ending_by_signals, is_capable
from .text import plain, rendered

REDRAW = 1.0
"""Seconds between two drawings: the age of what is shown goes on while a server keeps its reader waiting."""

LATE = 3.0
"""Intervals after which what is shown is stale, and seconds at least."""
LATE_AT_LEAST = 10.0

RULE = "-" * 80

Read = Callable[[], Fleet]


class Reader:
    """
    Reads in a thread of its own, whenever it is asked: a server that is frozen keeps nobody else waiting, and after
    each reading no connection is left.
    """

    def __init__(self, read: Read, tell: Callable[[], None]) -> None:
        self.latest: View | None = None
        self.rates = Rates()
        self.error: BaseException | None = None
        self._read = read
        self._tell = tell
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="dbpool-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def want(self) -> None:
        self._wanted.set()

    def end(self) -> None:
        """It may be in the middle of a reading; nobody waits for it."""
        self._ended = True
        self._wanted.set()

    @property
    def busy(self) -> bool:
        return self._wanted.is_set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._ended:
                return
            try:
                with letting_go():
                    view = View.of(known(self._read()))
                self.rates.add(view.found.databases)
                self.latest = view
            except BaseException as error:  # noqa: BLE001  # it is raised where somebody sees it
                self.error = error
            self._wanted.clear()
            self._tell()


def known(fleet: Fleet) -> Fleet:
    """Better what the others have said last, marked as such, than this process, of which nothing is to be told."""
    if fleet.source == "process":
        return remembered() or fleet
    return fleet


@contextmanager
def letting_go() -> Iterator[None]:
    """No connection is left, and no thread that would try to make one."""
    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            with suppress(Exception):
                connection.close()
                if is_ours(connection.settings_dict["ENGINE"]):
                    connection.close_pool()  # type: ignore[attr-defined]


class Watch:
    """
    Args:
        read: what is shown.
        stdout: of the command.
        every: seconds between two readings.
        colours: whether there may be any.
        code_of: the exit code for what is shown.
    """

    def __init__(self, read: Read, stdout: Any, *, every: float, colours: bool, code_of: Callable[[View], int]) -> None:
        self._read = read
        self._stdout = stdout
        self._every = every
        self._colours = colours
        self._code_of = code_of

    def run(self) -> int:
        """Until Ctrl-C or ``q``; the exit code for what was shown last."""
        shown: View | None = None
        with ending_by_signals():
            try:
                for view in self._on_screen() if is_capable(self._stdout) else self._in_blocks():
                    shown = view
            except KeyboardInterrupt:
                pass
            except Ended as ended:
                return ended.exit_code
        return 2 if shown is None else self._code_of(shown)

    def _late(self, age: float) -> bool:
        return age > max(LATE_AT_LEAST, LATE * self._every)

    # -- on a terminal --------------------------------------------------------------------------------------------

    def _on_screen(self) -> Iterator[View | None]:
        blocks = "utf" in (getattr(self._stdout, "encoding", None) or "").lower()
        with Screen(self._stdout) as screen:
            reader = Reader(self._read, screen.wake)
            reader.start()
            reader.want()
            began = monotonic()
            try:
                while True:
                    if reader.error is not None:
                        raise reader.error
                    view = reader.latest
                    self._draw(screen, reader, view, blocks, began)
                    yield view
                    next_at = (view.read_at if view is not None else began) + self._every
                    keys = screen.wait(min(REDRAW, max(0.05, next_at - monotonic())))
                    if "q" in keys.lower():
                        return
                    if (" " in keys or monotonic() >= next_at) and not reader.busy:
                        reader.want()
            finally:
                reader.end()

    def _draw(self, screen: Screen, reader: Reader, view: View | None, blocks: bool, began: float) -> None:
        width, height = screen.size
        if view is None:
            screen.draw([f"Asking the fleet ... {monotonic() - began:.0f} s"[:width]])
            return
        age = monotonic() - view.read_at
        # Not to the last column: erasing to the end of the line would take its character away again.
        look = Look(width - 1, height, blocks)
        lines = board(
            view, reader.rates, look, age=age, late=self._late(age), every=self._every, keys="space: now, q: quit"
        )
        screen.draw(rendered(lines, colours=self._colours))

    # -- elsewhere --------------------------------------------------------------------------------------------------

    def _in_blocks(self) -> Iterator[View | None]:
        rates = Rates()
        while True:
            with letting_go():
                view = View.of(known(self._read()))
            rates.add(view.found.databases)
            lines = board(view, rates, Look(120, None, False), age=0.0, late=False, every=self._every)
            for each in lines:
                self._stdout.write(plain(each))
            self._stdout.write(RULE)
            self._stdout.flush()
            yield view
            time.sleep(self._every)
