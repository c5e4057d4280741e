"""Drawing on a terminal, and leaving it as it was."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import termios
import threading
from collections.abc import Iterator
from typing import IO

import pytest

from django_dbpool.management.terminal import Screen, is_capable, size_of


@pytest.fixture
def pair() -> Iterator[tuple[int, IO[str]]]:
    """The end that a person would sit at, and the one that a program writes to."""
    person, program = os.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    with open(program, "w", encoding="utf-8") as stream:
        yield person, stream
    os.close(person)


def seen(person: int) -> str:
    found = b""
    while select.select([person], [], [], 0.2)[0]:
        found += os.read(person, 65536)
    return found.decode()


def test_only_what_has_changed_is_sent(pair: tuple[int, IO[str]]) -> None:
    person, stream = pair
    with Screen(stream) as screen:
        screen.draw(["one", "two", "three"])
        first = seen(person)
        assert first.startswith("\x1b[?1049h")
        assert all(text in first for text in ("one", "two", "three"))
        screen.draw(["one", "2", "three"])
        assert re.sub(r"\x1b\[[0-9;]*[mKH]", "", seen(person)) == "2"
        screen.draw(["one", "2", "three"])
        assert seen(person) == ""
        screen.draw(["one"])
        assert "\x1b[3;1H\x1b[K" in seen(person)
        screen.draw([str(number) for number in range(50)])
        assert "\x1b[11;1H" not in seen(person), "there are ten lines"
        fcntl.ioctl(stream.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
        screen.draw(["one"])
        assert "\x1b[2J" in seen(person), "of another size all is drawn again"
    assert seen(person) == "\x1b[0m\x1b[?25h\x1b[?7h\x1b[?1049l"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_it_is_restored_whatever_happens(pair: tuple[int, IO[str]], error: type[BaseException]) -> None:
    person, stream = pair
    with pytest.raises(error), Screen(stream) as screen:
        screen.draw(["x"])
        raise error
    assert seen(person).endswith("\x1b[?1049l")
    screen._restore()
    assert seen(person) == "", "once is enough"


def test_a_wait_is_ended_by_another_thread(pair: tuple[int, IO[str]]) -> None:
    with Screen(pair[1]) as screen:
        threading.Timer(0.05, screen.wake).start()
        assert screen.wait(60.0) == ""
        assert screen.wait(0.0) == ""


def test_a_terminal_that_is_gone(pair: tuple[int, IO[str]]) -> None:
    """Whoever sat there has hung up."""
    person, program = os.openpty()
    with open(program, "w", encoding="utf-8") as stream, Screen(stream):
        os.close(person)
    # left without an error: there is nobody to restore it for


def test_what_is_no_terminal(pair: tuple[int, IO[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert is_capable(pair[1])
    assert not is_capable(object())
    with open(os.devnull, "w") as nowhere:
        assert not is_capable(nowhere)
        assert size_of(nowhere.fileno()) == (80, 24)
    assert size_of(pair[1].fileno()) == (40, 10)
    monkeypatch.setenv("TERM", "dumb")
    assert not is_capable(pair[1])
