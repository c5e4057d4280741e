"""Output for a terminal, where a line can be rewritten, and for a file or a pipe, where it can't."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

WIDTH = 34


class Step:
    """One line of progress: rewritten on a terminal, elsewhere printed once when it is complete."""

    def __init__(self, console: Console, label: str) -> None:
        self._console = console
        self._label = label
        self._began = time.perf_counter()
        self.result = ""
        self.update()

    def update(self, text: str = "") -> None:
        self._console.rewrite(self._line(text or "..."))

    def done(self) -> None:
        seconds = time.perf_counter() - self._began
        self._console.line(self._line(f"{seconds:5.1f} s   {self.result}".rstrip()))

    def _line(self, text: str) -> str:
        return f"  {self._label:<{WIDTH}} {text}"


class Console:
    def __init__(self) -> None:
        self._rewrites = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._rewrites and not os.environ.get("NO_COLOR")
        self._open = False

    def line(self, text: str = "") -> None:
        self._clear()
        print(text, flush=True)

    def error(self, text: str) -> None:
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def rewrite(self, text: str) -> None:
        """Show `text` until the next output; nothing where lines can't be rewritten."""
        if self._rewrites:
            self._clear()
            # A line that wraps could not be cleared.
            print(text[: shutil.get_terminal_size().columns - 1], end="", flush=True)
            self._open = True

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        step = Step(self, label)
        yield step
        step.done()

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._colours else text

    def bad(self, text: str) -> str:
        return f"\x1b[31m{text}\x1b[0m" if self._colours else text

    def _clear(self) -> None:
        if self._open:
            print("\r\x1b[2K", end="")
            self._open = False
