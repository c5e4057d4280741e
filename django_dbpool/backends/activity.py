"""Which statements take long, and which are executed again and again in one unit of work."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ..conf import project_config
from ..core import events
from ..core.sqltext import without_literals
from ..core.tally import tally_of
from ..pool import tell

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry

TEXTS = 500
"""Statements of one unit that are counted; then it is begun anew."""


class _Limits:
    """As settings say; looked at in every statement."""

    slow: float = math.inf
    """Seconds."""
    repeats: int = 0
    known = False


limits = _Limits()


def begin() -> dict[str, int] | None:
    """At the first lease of a unit: where to count its statements; None if nobody wants to know."""
    if not limits.known:
        _read()
    return {} if limits.repeats else None


def _read() -> None:
    config = project_config()
    limits.slow = math.inf if config.slow_statement is None else config.slow_statement
    limits.repeats = config.repeated_statements or 0
    limits.known = True


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "DBPOOL" and limits.known:
        limits.known = False
        with suppress(ImproperlyConfigured):  # whoever leases next is told
            _read()


setting_changed.connect(_forget, dispatch_uid="django_dbpool.activity")


def note_slow(db: Any, entry: PoolEntry, sql: Any, seconds: float, *, failed: bool) -> None:
    """A statement has ended, and has taken long."""
    tally_of(db.alias).event("slow")
    if events.subscribers:
        unit, name = tell.unit_and_name()
        events.publish(
            events.StatementSlow(
                alias=db.alias,
                seconds=seconds,
                sql=without_literals(sql),
                unit=unit,
                name=name,
                backend_pid=entry.backend_pid,
                failed=failed,
            )
        )


def note_repeated(db: Any, entry: PoolEntry, sql: str, count: int) -> None:
    """A statement is about to be executed for the ``count``-th time in this unit."""
    tally_of(db.alias).event("repeated")
    if events.subscribers:
        unit, name = tell.unit_and_name()
        where = _caller(sys._getframe(1))
        events.publish(
            events.StatementRepeated(
                alias=db.alias, count=count, sql=without_literals(sql), unit=unit, name=name, where=where
            )
        )


_OURS = ("django.", "psycopg.", "django_dbpool.", "asgiref.")


def _caller(frame: FrameType | None) -> str:
    """The innermost call that is nobody's but the project's, as file:line in function."""
    while frame is not None:
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(_OURS):
            code = frame.f_code
            return f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}"
        frame = frame.f_back
    return "?"
