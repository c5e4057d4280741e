"""Lines for a terminal: they know their style and how much room they take, and become characters only at the end."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

Style = Literal["", "bold", "dim", "good", "warn", "bad", "calm", "caution", "alarm"]

Part: TypeAlias = tuple[Style, str]
Line: TypeAlias = tuple[Part, ...]

_CODES: dict[Style, str] = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
    "calm": "30;42",
    "caution": "30;43",
    "alarm": "1;37;41",
}

_CUT = "..."


def line(*parts: str | Part) -> Line:
    """A line of texts, each with its style or without."""
    return tuple(("", part) if isinstance(part, str) else part for part in parts)


def width_of(text: str) -> int:
    """Columns that a text takes: letters of East Asia two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of, text))


def _width_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """What there is room for; where that is not all it says so."""
    if width_of(text) <= width:
        return text
    return _beginning(text, max(0, width - len(_CUT))) + _CUT[:width]


def _beginning(text: str, width: int) -> str:
    taken = 0
    for index, char in enumerate(text):
        taken += _width_of(char)
        if taken > width:
            return text[:index]
    return text


def cut_line(given: Line, width: int) -> Line:
    """The same of a whole line."""
    if sum(width_of(text) for _, text in given) <= width:
        return given
    room = max(0, width - len(_CUT))
    parts: list[Part] = []
    for style, text in given:
        kept = _beginning(text, room)
        parts.append((style, kept))
        room -= width_of(kept)
        if kept != text:
            break
    return (*parts, ("dim", _CUT[:width]))


def padded(text: str, width: int) -> str:
    return text + " " * max(0, width - width_of(text))


def wrapped(text: str, width: int, *, indent: str = "", style: Style = "") -> list[Line]:
    """A text on as many lines as it needs."""
    lines = textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [line((style, each)) for each in lines]


def table(heads: Sequence[str], rows: Sequence[Sequence[Part | str]], *, indent: str = "") -> list[Line]:
    """Columns as wide as their widest cell."""
    cells = [[part if isinstance(part, tuple) else ("", part) for part in row] for row in rows]
    columns = zip(*([("dim", head) for head in heads], *cells), strict=True) if cells else ()
    widths = [max(width_of(text) for _, text in column) for column in columns]
    head: list[Part] = [("dim", head) for head in heads]
    return [_row(row, widths, indent) for row in ([head, *cells] if cells else [])]


def _row(cells: Sequence[Part], widths: Sequence[int], indent: str) -> Line:
    parts: list[Part] = [("", indent)]
    for number, ((style, text), width) in enumerate(zip(cells, widths, strict=True)):
        last = number == len(cells) - 1
        parts.append((style, text if last else padded(text, width)))
        parts += [] if last else [("", "  ")]
    return tuple(parts)


def plain(given: Line) -> str:
    return "".join(text for _, text in given).rstrip()


def coloured(given: Line) -> str:
    """With the terminal's codes."""
    return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style and text else text for style, text in given)


def rendered(lines: Iterable[Line], *, colours: bool) -> list[str]:
    return [coloured(each) if colours else plain(each) for each in lines]


_CONTROL = re.compile(r"\x1b\[[0-9;]*m")


def without_codes(text: str) -> str:
    return _CONTROL.sub("", text)
