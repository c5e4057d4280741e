"""Blocks that begin at once, and blocks that keep one connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic

from ..backends.leases import LeaseMixin


class EagerAtomic(Atomic):
    """``atomic()`` that leases its connection on entry."""

    def __enter__(self) -> None:
        connections[self.using or DEFAULT_DB_ALIAS].ensure_connection()
        super().__enter__()


def atomic(using: str | None = None, savepoint: bool = True, durable: bool = False, *, eager: bool = False) -> Atomic:
    """
    Django's ``atomic()`` as a context manager or decorator factory.

    Args:
        using: database alias.
        savepoint, durable: as in Django.
        eager: lease the connection on entry, so that PoolExhausted or DatabaseUnavailable is raised before the
            block's first line rather than at its first statement.
    """
    kind = EagerAtomic if eager else Atomic
    return kind(using, savepoint, durable)


@contextmanager
def pin(using: str | None = None) -> Iterator[BaseDatabaseWrapper]:
    """
    Keep one connection for the block, for session state that the SQL text doesn't show.

    The connection is closed at the end, not lent on: its session state is unknown. Inside ``atomic()``, or when
    something else pinned it before, it is kept to the end of that.

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
        if connection._entry is entry and entry.generation == generation and not connection.in_atomic_block:
            connection.close()
