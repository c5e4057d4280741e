"""Is there a transaction around this code whose fate an error decides?"""

from __future__ import annotations

from typing import Any

from django.db import connections

from ..backends.mixin import PooledDatabaseMixin


def open_transaction(*, unbegun: bool) -> str | None:
    """
    The alias of a transaction that is open in this thread, by ``atomic()`` or by hand.

    Args:
        unbegun: count those, too, that have no connection yet, because nothing was executed in them.
    """
    for connection in connections.all(initialized_only=True):
        if in_transaction(connection) and (unbegun or _begun(connection)):
            return connection.alias
    return None


def in_transaction(connection: Any) -> bool:
    """By ``atomic()`` or by hand."""
    if connection.in_atomic_block:
        # TestCase's are around each test and end with it.
        return not all(block._from_testcase for block in connection.atomic_blocks)
    pooled = isinstance(connection, PooledDatabaseMixin) and connection._pooled
    held = connection._entry if pooled else connection.connection
    return held is not None and not connection.autocommit


def _begun(connection: Any) -> bool:
    if isinstance(connection, PooledDatabaseMixin) and connection._pooled:
        return connection._entry is not None or connection.closed_in_transaction
    return True
