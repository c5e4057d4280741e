"""Connections outside of the pool."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections
from psycopg import Connection

from ..backends.dedicated import dedicated_connection
from ..backends.mixin import PooledDatabaseMixin


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
            f'dedicated() needs a database engine of django_dbpool; DATABASES["{db.alias}"] has '
            f"{db.settings_dict['ENGINE']!r}."
        )
    return dedicated_connection(db, autocommit, connect_kwargs)
