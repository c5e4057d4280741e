"""Transactions and sessions for applications: beginning at once, and keeping one connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import Atomic
from psycopg import Connection

from .backends.dedicated import dedicated_connection
from .backends.leases import LeaseMixin
from .backends.mixin import PooledDatabaseMixin

__all__ = ["atomic", "dedicated", "pin"]


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
def pin(using: str | None = None) -> Iterator[Any]:
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


def dedicated(
    using: str | None = None, *, autocommit: bool = True, **connect_kwargs: Any
) -> AbstractContextManager[Connection[Any]]:
    """
    A psycopg connection of one's own, outside of the pool: for LISTEN loops, leader locks and the like.

    It is made with the alias's settings but without the time limits of ``POOL``, is in no pool's count (the server
    counts it, of course), also when the pool is exhausted or switched off, and is closed at the end of the block
    whatever happened: what was not committed is rolled back, locks are gone. Its errors are psycopg's, not Django's,
    and ``connection_created`` isn't sent for it. A child made by ``fork()`` inside the block must not use it; it gets
    psycopg's error about a closed connection.

    Args:
        using: database alias.
        autocommit: False begins a transaction with the first statement; commit it yourself.
        connect_kwargs: parameters for ``psycopg.connect`` beside or instead of the alias's. ``options`` are added.

    Raises:
        DatabaseUnavailable: on entry; the driver's error is ``__cause__``.

    Example:
        with transaction.dedicated() as connection:
            connection.execute("LISTEN jobs")
            for notification in connection.notifies():
                work_on(notification.payload)
    """
    db = connections[using or DEFAULT_DB_ALIAS]
    if not isinstance(db, PooledDatabaseMixin):
        raise ImproperlyConfigured(
            f"dedicated() needs a database engine of django_dbpool; DATABASES[{db.alias!r}] has "
            f"{db.settings_dict['ENGINE']!r}."
        )
    return dedicated_connection(db, autocommit, connect_kwargs)
