"""
A terminal that is drawn on, and is as it was afterwards: however the program ends, short of SIGKILL.

No curses: that reads terminfo, wants the whole process's terminal to itself, and has no say in what else is written
there. What is used is understood by everything that calls itself a terminal since the VT220.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import IO, Any, Self

_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[2J\x1b[H"
"""The other screen, without wrapping of lines, without a cursor, empty."""

_LEAVE = "\x1b[0m\x1b[?25h\x1b[?7h\x1b[?1049l"

MOST_SAID = 64 * 1024
"""Bytes of what others write to stderr meanwhile that are kept."""


class Ended(BaseException):
    """Somebody asked this program to end; not an Exception, so that no handler takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """
    SIGTERM and SIGHUP raise ``Ended`` in the main thread, so that what has to be put right is.

    Raises:
        Ended: in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # of a program that has called the command: its signals are its own
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_capable(stream: Any) -> bool:
    """Whether it is a terminal that can be drawn on."""
    with suppress(AttributeError, OSError, ValueError):
        return os.isatty(stream.fileno()) and os.environ.get("TERM", "dumb") != "dumb"
    return False


def size_of(number: int) -> tuple[int, int]:
    """Columns and lines."""
    with suppress(OSError):
        found = os.get_terminal_size(number)  # not shutil's, which believes COLUMNS: that doesn't change with a window
        if found.columns > 0 and found.lines > 0:
            return found.columns, found.lines
    return 80, 24


class Screen:
    """
    The screen beside the one that the shell is on.

    What anything in this process writes to stderr meanwhile (a log's handler, a warning) would stand in the middle
    of it; it is kept, and shown after the end.

    Args:
        stream: the terminal, such as ``sys.stdout``.

    Example:
        with Screen(sys.stdout) as screen:
            screen.draw(["one line", "another"])
            screen.wait(2.0)
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._out: int = stream.fileno()
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._in = _terminal_for_keys()
        self._shown: list[str] = []
        self._size = (0, 0)
        self._taken = False
        self._keyboard: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._stderr: int | None = None
        self._said: IO[bytes] | None = None
        self._wake_out, self._wake_in = -1, -1

    # -- coming and going -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._stream.flush()
        try:
            self._wake_out, self._wake_in = os.pipe()
            os.set_blocking(self._wake_in, False)
            os.set_blocking(self._wake_out, False)
            self._keep_stderr()
            self._handle(signal.SIGWINCH, lambda *_: self.wake())
            self._handle(signal.SIGTSTP, self._suspend)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._restore()
        except BaseException:  # a signal, before they were kept away
            self._restore()
            raise

    def _restore(self) -> None:
        """May be called again."""
        with _undisturbed():
            self._give_back()
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()
            said = self._give_back_stderr()
            pipe, self._wake_out, self._wake_in = (self._wake_out, self._wake_in), -1, -1
            for number in pipe:
                if number >= 0:
                    os.close(number)
        if said:
            sys.stderr.write(said)
            sys.stderr.flush()

    def _take(self) -> None:
        if self._in is not None:
            self._keyboard = termios.tcgetattr(self._in)
            changed = termios.tcgetattr(self._in)
            changed[3] &= ~(termios.ECHO | termios.ICANON)  # keys come at once and aren't seen; Ctrl-C is as ever
            changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._in, termios.TCSADRAIN, changed)
        self._shown = []
        self._taken = True
        self._write(_ENTER)

    def _give_back(self) -> None:
        if self._taken:
            with suppress(OSError):  # the terminal may be gone
                self._write(_LEAVE)
            self._taken = False
        if self._keyboard is not None and self._in is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._keyboard)
        self._keyboard = None

    def _handle(self, number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers[number] = signal.signal(number, handler)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its screen, and after `fg` all is drawn again."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()
        self._size = (0, 0)
        self.wake()

    # -- stderr ---------------------------------------------------------------------------------------------------

    def _keep_stderr(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            number = sys.stderr.fileno()
            if not os.isatty(number):
                return  # somebody keeps it already
            sys.stderr.flush()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _give_back_stderr()
            self._stderr = os.dup(number)
            os.dup2(self._said.fileno(), number)

    def _give_back_stderr(self) -> str:
        if self._said is None:
            return ""
        text = ""
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            if self._stderr is not None:
                os.dup2(self._stderr, sys.stderr.fileno())
                os.close(self._stderr)
            text = self._tail().decode(errors="replace")
        self._said.close()
        self._said = self._stderr = None
        return text

    def _tail(self) -> bytes:
        assert self._said is not None
        number = self._said.fileno()
        size = os.fstat(number).st_size
        return os.pread(number, MOST_SAID, max(0, size - MOST_SAID))

    def _limit_stderr(self) -> None:
        """A database that is away for days is complained about for days."""
        if self._said is not None and os.fstat(self._said.fileno()).st_size > 2 * MOST_SAID:
            kept = self._tail()
            os.ftruncate(self._said.fileno(), 0)
            os.lseek(self._said.fileno(), 0, os.SEEK_SET)  # the offset is one with that of stderr
            os.write(self._said.fileno(), kept)

    # -- drawing --------------------------------------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        return size_of(self._out)

    def draw(self, lines: Sequence[str]) -> None:
        """
        Show these and nothing else. Only what has changed is sent, in one piece: nothing flickers.

        Args:
            lines: none wider than the screen; what is below its end is left out.
        """
        self._limit_stderr()
        size = self.size
        parts = []
        if size != self._size:
            self._size, self._shown = size, []
            parts.append("\x1b[2J")
        lines = lines[: size[1]]
        for number, text in enumerate(lines):
            if number >= len(self._shown) or self._shown[number] != text:
                parts.append(f"\x1b[{number + 1};1H{text}\x1b[0m\x1b[K")
        parts += [f"\x1b[{number + 1};1H\x1b[K" for number in range(len(lines), len(self._shown))]
        if parts:
            self._write("".join(parts))
        self._shown = list(lines)

    def _write(self, text: str) -> None:
        rest = text.encode(self._encoding, "replace")
        while rest:
            rest = rest[os.write(self._out, rest) :]

    # -- waiting --------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """End a wait; also from other threads and from handlers of signals."""
        with suppress(OSError):  # full: it is awake
            os.write(self._wake_in, b"!")

    def wait(self, timeout: float) -> str:
        """
        For so many seconds, or until somebody presses a key, changes the size, or calls ``wake()``.

        Returns:
            the keys, or "".
        """
        watched = [self._wake_out] if self._in is None else [self._wake_out, self._in]
        deadline = monotonic() + timeout
        ready = select.select(watched, [], [], max(0.0, deadline - monotonic()))[0]
        if self._wake_out in ready:
            with suppress(BlockingIOError):
                os.read(self._wake_out, 1024)
        if self._in is None or self._in not in ready:
            return ""
        typed = os.read(self._in, 64)
        if not typed:
            self._in = None  # it was closed
        return typed.decode(errors="replace")


def _terminal_for_keys() -> int | None:
    """Of stdin, if that is a terminal that we are in the foreground of."""
    with suppress(AttributeError, OSError, ValueError):
        number = sys.stdin.fileno()
        if os.isatty(number) and os.tcgetpgrp(number) == os.getpgrp():
            return number
    return None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """
    A second Ctrl-C must not leave the terminal half restored. Not by a mask: another thread would take the signal, and
    its handler still run in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
