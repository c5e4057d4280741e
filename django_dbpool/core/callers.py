"""
Which line of the project asked? Frames are looked at and let go: one that is kept keeps every local variable of every
caller alive, and with them requests, models and secrets.
"""

from __future__ import annotations

import linecache
import sys
from types import CodeType, FrameType

INSIDE = frozenset(
    {
        "_contextvars",
        "asgiref",
        "concurrent",
        "contextlib",
        "debug_toolbar",
        "django",
        "django_dbpool",
        "functools",
        "opentelemetry",
        "psycopg",
        "psycopg_pool",
        "sentry_sdk",
        "threading",
        "wrapt",
    }
)
"""Packages that ask on somebody's behalf: Django and ours, and what stands around statements to watch them."""

DEEPEST = 16
"""Calls that are kept of one stack."""

recording = False
"""Whether each lease takes down where it was begun: ``DBPOOL["LEAK_STACKS"]``. The hot path looks at this alone."""

Calls = tuple[tuple[CodeType, int], ...]
"""Code and line, innermost call first."""


def outside(frame: FrameType | None) -> FrameType | None:
    """The first of the calling frames that is the project's; None if there is none."""
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame = frame.f_back
    return frame


def calls_now() -> Calls:
    """The innermost calls of the project, and what has called them."""
    frame: FrameType | None = sys._getframe(1)
    frame = outside(frame) or frame
    calls: list[tuple[CodeType, int]] = []
    while frame is not None and len(calls) < DEEPEST:
        calls.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(calls)


def as_text(calls: Calls) -> tuple[str, ...]:
    """As ``file:line in function: source``, outermost call first, as in a traceback; no variables."""
    return tuple(
        f"{_place(code, line)}: {linecache.getline(code.co_filename, line).strip()}" for code, line in reversed(calls)
    )


def place_of(frame: FrameType | None) -> str:
    """``file:line in function`` of the project's innermost call."""
    found = outside(frame)
    return "no line of the project" if found is None else _place(found.f_code, found.f_lineno)


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_filename}:{line} in {code.co_qualname}"
