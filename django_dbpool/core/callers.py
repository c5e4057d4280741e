"""
Which line of the project asked? Frames are looked at and let go: one that is kept keeps every local variable of every
caller alive, and with them requests, models and secrets.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType

INSIDE = frozenset(
    {
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
"""Whether each lease takes down where it was begun, ``DBPOOL["LEAK_STACKS"]``: all that the hot path looks at."""

Calls = tuple[tuple[CodeType, int], ...]
"""Code and line, innermost call first."""


def calls_now() -> Calls:
    """The project's innermost call, and what has called that."""
    frame: FrameType | None = sys._getframe(1)
    frame = _outside(frame) or frame
    calls: list[tuple[CodeType, int]] = []
    while frame is not None and len(calls) < DEEPEST:
        calls.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return tuple(calls)


def line_now() -> str:
    """The project's innermost call as ``file:line in function``."""
    frame = _outside(sys._getframe(1))
    if frame is None:
        return "no line of the project"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _outside(frame: FrameType | None) -> FrameType | None:
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in INSIDE:
        frame = frame.f_back
    return frame
