"""What a run must not hold: where it may begin, and what is given back after each batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections
from psycopg.pq import TransactionStatus

from ..backends.mixin import PooledDatabaseMixin
from ..errors import RetryingInsideTransaction
from ..transaction.attempt import is_pooled, refuse_inside_transaction, transaction_status
from .errors import BatchRefused


def refuse_held() -> None:
    """
    Raises:
        BatchRefused: this thread has a transaction or keeps a connection, on whatever database: for the whole run.
    """
    for connection in connections.all(initialized_only=True):
        try:
            refuse_inside_transaction(connection)
        except RetryingInsideTransaction:
            raise BatchRefused(
                f"run_batches() was called in a transaction on database {connection.alias!r}: its "
                "batches could not be committed one by one, nor would anything be given back between them. Call it "
                "outside of atomic(); a view under ATOMIC_REQUESTS needs @non_atomic_requests. (That of a TestCase "
                "doesn't count.)"
            ) from None
        if not is_pooled(connection) or connection.in_atomic_block:
            continue
        assert isinstance(connection, PooledDatabaseMixin)
        entry = connection._entry
        if entry is None or connection.is_shared():
            continue
        if entry.pinned is not None:
            kept = f"is pinned ({entry.pinned})"
        elif not connection.may_end_lease():
            kept = "has an iterator, a stream or the like that is not finished"
        else:
            continue
        raise BatchRefused(
            f"run_batches() was called while this thread's connection to database {connection.alias!r} {kept}: it "
            "would be held during the whole run. Declare session variables with transaction.session(), take locks that "
            "outlive a transaction on a connection of transaction.dedicated(), and finish iterators before."
        )


def release_all(*, shared_thread: bool) -> None:
    """
    End the batch's unit of work: give back what it has used, pinned or not, on every database. Nothing was held
    before the first one.

    Args:
        shared_thread: other tasks' synchronous code runs here too, and may be in the middle of something.
    """
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:
            continue  # a test case's
        if not is_pooled(connection):
            connection.close_if_unusable_or_obsolete()
            continue
        assert isinstance(connection, PooledDatabaseMixin)
        if connection.is_shared():
            continue
        if connection._entry is None or connection.may_end_lease() or not shared_thread:
            connection.close()


def refuse_broken(connection: Any) -> None:
    """
    After a handler, before COMMIT.

    Raises:
        BatchRefused: the server would answer COMMIT with a rollback, and call that a success.
    """
    if connection.needs_rollback:
        what = (
            "has left a transaction that will be rolled back, by a database error that it caught or by set_rollback(),"
        )
    elif transaction_status(connection) == TransactionStatus.INERROR:
        what = "has caught a database error, after which the server rolls back the whole transaction,"
    else:
        return
    raise BatchRefused(
        f"run_batches(): the handler {what} and returned as if all was well. Put what may fail into an atomic() block "
        "of its own and catch its error around that, or let it out."
    )


@contextmanager
def statement_limit(connection: Any, seconds: float | None) -> Iterator[None]:
    """For the statements of this transaction, on the server."""
    if seconds is None:
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('statement_timeout'), set_config('statement_timeout', %s, true)",
            [str(max(1, round(1000 * seconds)))],
        )
        before = cursor.fetchone()[0]
    yield
    if len(connection.atomic_blocks) > 1:  # in a test case's transaction, which goes on
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [before])
