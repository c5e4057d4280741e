"""Blocks that begin at once, and blocks that keep one connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from ..backends.leases import LeaseMixin

F = TypeVar("F", bound=Callable[..., Any])


class EagerAtomic(Atomic):
    """``atomic()`` that leases its connection on entry."""

    def __enter__(self) -> None:
        connections[self.using or DEFAULT_DB_ALIAS].ensure_connection()
        super().__enter__()


@overload
def atomic(using: F, savepoint: bool = ..., durable: bool = ..., *, eager: bool = ...) -> F: ...
@overload
def atomic(using: str | None = ..., savepoint: bool = ..., durable: bool = ..., *, eager: bool = ...) -> Atomic: ...
def atomic(using: Any = None, savepoint: bool = True, durable: bool = False, *, eager: bool = False) -> Any:
    """
    Django's ``atomic()``: a context manager, a decorator, or with arguments a factory of either.

    Args:
        using: database alias.
        savepoint, durable: as in Django.
        eager: lease the connection on entry, so that PoolExhausted or DatabaseUnavailable is raised before the
            block's first line rather than at its first statement.
    """
    kind = EagerAtomic if eager else Atomic
    if callable(using):  # @atomic without parentheses
        return kind(DEFAULT_DB_ALIAS, savepoint, durable)(using)
    return kind(using, savepoint, durable)


@contextmanager
def pin(using: str | None = None) -> Iterator[BaseDatabaseWrapper]:
    """
    Keep one connection for the block, for session state that the SQL text doesn't show.

    The connection is closed at the end, not lent on: its session state is unknown. Inside a transaction, around an
    open iterator, or when something else pinned it before, it is kept to the end of the unit of work.

    Example:
        with transaction.pin():
            cursor.execute("SELECT install_session_helpers()")
            ...
    """
    connection = connections[using or DEFAULT_DB_ALIAS]
    connection.ensure_connection()
    entry = connection._entry if isinstance(connection, LeaseMixin) else None
    if not isinstance(connection, LeaseMixin) or entry is None or entry.pinned is not None:
        yield connection
        return
    connection._pin("transaction.pin()")
    generation = entry.generation
    try:
        yield connection
    finally:
        if connection._entry is entry and entry.generation == generation and connection.may_end_lease():
            connection.close()
