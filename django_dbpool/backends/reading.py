"""
Reads of the ORM that may run again when their connection is lost.

Which statement is one is known to the compiler alone: no look at the text tells a SELECT from one that calls a
function that writes. It notes the text that it is about to execute; the cursor, below ``execute_wrappers``, repeats a
statement only if it is that very object. A wrapper that changes the text, or runs statements of its own, switches
the repetition off for them, never on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import InterfaceError, OperationalError

from ..core import sqlstate
from ..core.logs import get_logger
from ..errors import withdraw
from ..pool import tell
from ..pool.entry import IDLE

if TYPE_CHECKING:
    from django.db.models.sql.compiler import SQLCompiler as Base
else:
    Base = object

T = TypeVar("T")

logger = get_logger("django_dbpool.backends")

READS = frozenset({"SQLCompiler", "SQLAggregateCompiler"})
"""Compilers of SELECT. Those of INSERT, UPDATE and DELETE are left as they are."""


class RepeatableRead(Base):
    """Before a compiler class of Django's in the bases."""

    _executing = False

    def as_sql(self, *args: Any, **kwargs: Any) -> Any:
        compiled = super().as_sql(*args, **kwargs)
        if self._executing:  # not a subquery's compiler, not str(queryset.query)
            self.connection._read = compiled[0]  # type: ignore[attr-defined]
        return compiled

    def execute_sql(self, result_type: Any = "multi", chunked_fetch: bool = False, *args: Any, **kwargs: Any) -> Any:
        execute = super().execute_sql
        self._executing = True
        try:
            if not chunked_fetch:
                return execute(result_type, chunked_fetch, *args, **kwargs)
            # A server-side cursor belongs to its connection, so not the statement is repeated but the opening of the
            # cursor. Nothing was fetched from it yet.
            return repeated(self.connection, partial(execute, result_type, chunked_fetch, *args, **kwargs))
        finally:
            self._executing = False


def repeated(db: Any, read: Callable[[], T]) -> T:
    """
    Call again after the connection was lost, on another one.

    Args:
        db: the wrapper; it counts the connections that it has lost with nothing promised on them.
    """
    entry = db._entry
    if entry is not None and entry.pgconn.transaction_status != IDLE:
        return read()  # in a transaction that was begun by a statement's text
    attempts = 1
    while True:
        losses = db._losses
        try:
            return read()
        except (OperationalError, InterfaceError) as error:
            # How many attempts there are is known once a connection was leased.
            if db._losses == losses or db._entry is not None or attempts >= db._read_attempts:
                raise
            _log_repetition(db, error, attempts)
            tell.retried(db.alias, "read", attempts, 0.0, getattr(error.__cause__, "sqlstate", None))
            withdraw(error)
        attempts += 1


def _log_repetition(db: Any, error: Exception, attempts: int) -> None:
    """Nobody else hears of it: the caller gets its rows."""
    code = getattr(error.__cause__, "sqlstate", None)
    logger.info(
        "database %r: the connection of a read was lost, it is run again (attempt %d of %d at most): %s",
        db.alias,
        attempts + 1,
        db._read_attempts,
        str(error).partition("\n")[0],
        extra={
            "alias": db.alias,
            "attempt": attempts + 1,
            "error_type": type(error.__cause__ or error).__name__,
            "severity": "expected" if sqlstate.is_expected_termination(code) else "info",
            "connection_terminated": True,
            "sqlstate": code,
        },
    )


_made: dict[type, type] = {}


def repeatable(compiler: type[Base]) -> type[Base]:
    """The compiler class, with its reads repeatable."""
    made = _made.get(compiler)
    if made is None:
        made = type(compiler.__name__, (RepeatableRead, compiler), {"__module__": compiler.__module__})
        _made[compiler] = made
    return made
