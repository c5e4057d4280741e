"""Types of arguments: what can't be meant is refused, with what could be."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

from django.db import connections

from ..conf.engines import is_ours


def count(least: int = 1, most: int = 10**6) -> Callable[[str], int]:
    """A whole number."""

    def read(text: str) -> int:
        # Neither isdigit() nor int() alone: they take digits of other scripts, signs and underscores.
        if not (text.isascii() and text.isdecimal()) or len(text) > 12 or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return read


def seconds(least: float = 0.0, most: float = 86_400.0) -> Callable[[str], float]:
    """A number of seconds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is not a number of seconds from {least:g} to {most:g}")
        return value

    return read


def alias(text: str) -> str:
    """A database that uses this engine."""
    ours = [name for name in connections.settings if is_ours(connections.settings[name].get("ENGINE"))]
    if text not in ours:
        known = ", ".join(sorted(ours)) or "none"
        raise ArgumentTypeError(f"no database of this engine is called {text!r}; there are: {known}")
    return text
