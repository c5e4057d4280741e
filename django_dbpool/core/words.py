"""Words of others in our lines: paths, task names and the like may hold anything, a line must stay one line."""

from __future__ import annotations

LONGEST = 300
"""Characters of one name that are shown."""


def one_line(text: str, longest: int = LONGEST) -> str:
    """
    A text that can't forge a log line or steer a terminal: what isn't printable (line ends, escape sequences, marks of
    direction, half surrogates) is written as Python would escape it, and the end of a long one is left out.

    Args:
        text: whatever somebody calls a route, a task, a thread.
        longest: characters of the result.

    Example:
        >>> one_line("GET /a\\nERROR all is lost")
        'GET /a\\\\nERROR all is lost'
    """
    if len(text) <= longest and text.isprintable():
        return text
    shown = "".join(char if char.isprintable() else _escaped(char) for char in text[:longest])
    return shown if len(text) <= longest and len(shown) <= longest else shown[: longest - 3] + "..."


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
