"""One attempt: where it may begin, its transaction, and the record of what it has done for good."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic
from psycopg.pq import TransactionStatus

from ..backends.mixin import PooledDatabaseMixin
from ..backends.pins import Pins
from ..core.blocks import current_attempt
from ..errors import RetryingInsideTransaction
from .declared import leave
from .verdict import Done, is_harmless, was_refused


def is_pooled(connection: BaseDatabaseWrapper) -> bool:
    return isinstance(connection, PooledDatabaseMixin) and connection._pooled


class Attempt(Done):
    """
    One run of a block that may be repeated. Entered by its thread or task; prepared and watched in the thread whose
    connections it uses.

    Args:
        alias: the database whose transaction is repeated.
        number: from 1.
        atomic: whether it opens a transaction.
    """

    def __init__(self, alias: str, number: int, *, atomic: bool) -> None:
        self.number = number
        self.outer: Any = None
        self._alias = alias
        self._block = Atomic(alias, savepoint=True, durable=False) if atomic else None
        self._is_outermost = False
        self._watched: list[tuple[BaseDatabaseWrapper, int]] = []
        self._pins: Pins | None = None
        self._connections: list[BaseDatabaseWrapper] = []
        """Those of its thread."""

    # -- begin --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """
        In the thread whose connections it is going to use.

        Raises:
            RetryingInsideTransaction: there is a transaction already.
            DatabaseError: on an alias that is not pooled, where a transaction begins with connecting.
        """
        connection = connections[self._alias]
        refuse_inside_transaction(connection)
        if self._block is not None and not is_pooled(connection):
            connection.close_if_health_check_failed()
            connection.ensure_connection()
        self._pins = Pins()
        for alias in connections:
            try:
                connection = connections[alias]
            except ImproperlyConfigured:  # an engine that nobody can use here
                continue
            self._connections.append(connection)
            # In this transaction everything goes back with it. On other databases nothing does.
            if self._block is None or alias != self._alias:
                self._watch(connection)

    def _watch(self, connection: BaseDatabaseWrapper) -> None:
        connection.execute_wrappers.append(self._observe)
        self._watched.append((connection, len(connection.atomic_blocks)))

    def enter(self) -> None:
        """Begin, where the block is going to run."""
        self.outer = current_attempt.get()
        current_attempt.set(self)
        if self._block is None:
            return
        self._is_outermost = not connections[self._alias].in_atomic_block
        try:
            self._block.__enter__()
        except BaseException:
            self.end()
            raise

    # -- what is done in it ---------------------------------------------------------------------------------------

    def _observe(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        """One of Django's execute_wrappers: around each statement of the thread on a watched connection."""
        if not self._is_mine():
            return execute(sql, params, many, context)
        connection = context["connection"]
        try:
            result = execute(sql, params, many, context)
        except Exception as error:
            if not self._is_in_block(connection):
                if is_harmless(connection, sql):
                    self.harmless = error
                else:  # also a soft time limit's, that came in the middle
                    self.unknown = self.unknown or not was_refused(error)
            raise
        self.note(connection, sql)
        return result

    def note(self, connection: BaseDatabaseWrapper, sql: Any) -> None:
        if is_harmless(connection, sql) or not any(watched is connection for watched, _ in self._watched):
            return
        if self._is_in_block(connection):
            self._note_its_commit(connection)
        else:
            self.kept = f"a statement on database {connection.alias!r}"

    def _is_mine(self) -> bool:
        """Other tasks and requests may run in the same thread, between two statements of an asynchronous block."""
        attempt = current_attempt.get()
        while attempt is not None and attempt is not self:
            attempt = attempt.outer
        return attempt is self

    def _is_in_block(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether a transaction is open that was begun in this attempt."""
        before = next((depth for watched, depth in self._watched if watched is connection), 0)
        return len(connection.atomic_blocks) > before

    def _note_its_commit(self, connection: BaseDatabaseWrapper) -> None:
        outermost: Any = connection.atomic_blocks[0]
        if outermost._from_testcase:
            return  # it will never be committed, and the test may count its hooks
        if not any(hook[1] == self._inner_committed for hook in connection.run_on_commit):
            _first_on_commit(connection, self._inner_committed)

    def _inner_committed(self) -> None:
        self.kept = "a transaction in it"

    def _own_committed(self) -> None:
        self.committed = True

    def note_elsewhere(self, connection: BaseDatabaseWrapper, sql: Any) -> None:
        # A thread to which asyncio.to_thread() or sync_to_async(thread_sensitive=False) has carried the context. What
        # becomes of it isn't seen, so it is not waited for.
        if not any(own is connection for own in self._connections) and not is_harmless(connection, sql):
            self.kept = f"a statement on database {connection.alias!r}, in another thread,"

    def note_failed_commit(self, connection: BaseDatabaseWrapper, error: BaseException) -> None:
        # Of a transaction in it. Whoever catches the error and fails later for another reason is not to be repeated.
        if any(watched is connection for watched, _ in self._watched):
            self.unknown = self.unknown or not was_refused(error)

    def lost_a_session(self) -> bool:
        return self._pins is not None and self._pins.lost()

    # -- end ------------------------------------------------------------------------------------------------------

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """
        Commit or roll back.

        Raises:
            Exception: of COMMIT, or of a hook after it.
        """
        if self._block is None:
            return
        connection = connections[self._alias]
        commits = kind is None and self._is_outermost
        commits = commits and not (connection.needs_rollback or connection.closed_in_transaction)
        if commits:
            _first_on_commit(connection, self._own_committed)
        try:
            self._block.__exit__(kind, error, traceback)
        except Exception as failure:
            # Without the server's word that it has failed it may be done.
            self.commit_unknown = commits and not (self.committed or was_refused(failure))
            raise

    def end(self) -> None:
        """After all of it, whatever happened, where it was entered."""
        leave(current_attempt, self)

    def unwatch(self) -> None:
        """In the thread of the connections: statements of others, which run there, go through the same list."""
        for connection, _ in self._watched:
            if self._observe in connection.execute_wrappers:
                connection.execute_wrappers.remove(self._observe)
        self._watched.clear()

    def release(self) -> None:
        """Before a pause, in the thread of the connections: hold none that the next attempt could do without."""
        connection = connections[self._alias]
        if connection.in_atomic_block:
            return  # a test case's
        if not is_pooled(connection):
            connection.close_if_unusable_or_obsolete()
            return
        assert isinstance(connection, PooledDatabaseMixin)
        entry = connection._entry
        if entry is None or connection.is_shared() or not connection.may_end_lease():
            return
        # One that was pinned in the attempt and is lost would be met again by all that follow.
        if entry.pinned is None or entry.lost():
            connection.close()


def _first_on_commit(connection: BaseDatabaseWrapper, hook: Any) -> None:
    """
    Have the hook run before all others if the transaction is committed, and only then. A hook that is registered
    inside of a savepoint goes with it, so the set of savepoints is emptied.
    """
    connection.on_commit(hook)
    hooks: list[Any] = connection.run_on_commit
    _, *rest = hooks.pop()
    hooks.insert(0, (set(), *rest))


def refuse_inside_transaction(connection: BaseDatabaseWrapper) -> None:
    """
    Those of Django's test cases don't count: they stand for no transaction at all.

    Raises:
        RetryingInsideTransaction: with what to do.
    """
    if connection.in_atomic_block:
        blocks: list[Any] = connection.atomic_blocks
        if all(block._from_testcase for block in blocks) and blocks:
            return
        how = "inside of an atomic() block"
    elif not _autocommit(connection):
        how = "with autocommit off, in a transaction that is managed by hand"
    elif transaction_status(connection) in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        how = "inside of a transaction that a BEGIN in raw SQL has begun"
    else:
        return
    raise RetryingInsideTransaction(
        f"transaction.retrying() was begun on database {connection.alias!r} {how}. Of that transaction it could repeat "
        "only a part: the server has given up all of it when an attempt fails. Put retrying() around the outermost "
        "block, instead of its atomic(). A view under ATOMIC_REQUESTS has to be decorated itself, so that it opens its "
        'own transaction: `@transaction.retrying`, or `@method_decorator(transaction.retrying, name="dispatch")`.'
    )


def _autocommit(connection: BaseDatabaseWrapper) -> bool:
    if is_pooled(connection) or connection.connection is not None:
        return bool(connection.get_autocommit())
    return bool(connection.settings_dict["AUTOCOMMIT"])  # nothing connected yet, and Django would connect to look


def transaction_status(connection: BaseDatabaseWrapper) -> object:
    if is_pooled(connection):
        entry = getattr(connection, "_entry", None)
        return entry and entry.pgconn.transaction_status
    raw = connection.connection  # noqa: DBP102  # of another engine
    return getattr(getattr(raw, "pgconn", None), "transaction_status", None)
