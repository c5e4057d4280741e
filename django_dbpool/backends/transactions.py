"""
Transactions without a connection until the first statement.

``atomic()`` asks for autocommit, switches it off, commits and switches it on again. Here the first three answer from
memory while nothing is leased, and COMMIT ends the lease before the ``on_commit`` hooks run.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from django.db import Error
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import debug_transaction
from django.utils.asyncio import async_unsafe

from ..core import blocks, sqlstate, writes
from ..pool.commit_status import transaction_id
from ..pool.entry import INTRANS
from .leases import LeaseMixin
from .losses import Question, was_committed
from .patched import djangos_own

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry

_Watched: Any = BaseDatabaseWrapper  # django-stubs leaves out what begins with an underscore
_DJANGOS_COMMIT = djangos_own(BaseDatabaseWrapper, "_commit")
_DJANGOS_ROLLBACK = djangos_own(BaseDatabaseWrapper, "_rollback")


def _was_rolled_back(error: Error) -> bool:
    """Whether a COMMIT with this error has committed nothing, for certain."""
    known: bool | None = getattr(error, "maybe_committed", None)
    return known is False or sqlstate.is_serialization(getattr(error.__cause__, "sqlstate", None))


class TransactionsMixin(LeaseMixin):
    """Autocommit, COMMIT, ROLLBACK and commit hooks."""

    def _reading_connection(self) -> AbstractContextManager[None]:
        raise NotImplementedError  # by PooledDatabaseMixin

    def get_autocommit(self) -> bool:
        return self.autocommit if self._pooled else bool(super().get_autocommit())

    @async_unsafe
    def set_autocommit(self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False) -> None:
        if not self._pooled:
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
            return
        self.validate_no_atomic_block()
        entry = self._entry
        if autocommit:
            if entry is not None and not entry.autocommit:
                with self.wrap_database_errors:
                    entry.set_autocommit(True)
            self.autocommit = True
            self._end_statement()
        else:
            if entry is not None and entry.autocommit:
                with debug_transaction(self, "BEGIN"), self.wrap_database_errors:
                    entry.set_autocommit(False)
            elif self.queries_logged:
                with debug_transaction(self, "BEGIN"):
                    pass
            self.autocommit = False
        if autocommit and self.run_commit_hooks_on_set_autocommit_on:
            self.run_and_clear_commit_hooks()
            self.run_commit_hooks_on_set_autocommit_on = False

    def _commit(self) -> None:
        try:
            self._commit_now()
        except BaseException as error:
            if not (isinstance(error, Error) and _was_rolled_back(error)):
                writes.note_commit()
            blocks.note_failed_commit(self, error)
            raise
        if writes.watching:
            writes.note_commit()

    def _commit_now(self) -> None:
        if not self._pooled:
            if blocks.deadlines_used:
                self._refuse_late()
            super()._commit()
            return
        entry = self._entry
        question: Question | None = None
        try:
            if entry is not None and entry.history is not None:
                question = self._prepare_question(entry)
            # Logged also when the transaction had no statement: the query log looks as it does on the stock engine.
            if entry is None or _Watched._commit is _DJANGOS_COMMIT:
                if self.queries_logged:
                    with debug_transaction(self, "COMMIT"):
                        self._end_with(entry, "COMMIT")
                else:
                    self._end_with(entry, "COMMIT")
            else:
                with self._reading_connection():
                    self._in_time(entry, super()._commit, "COMMIT")
        except BaseException as error:
            self._give_up_if_lost(entry)
            if question is None or not was_committed(question, error):
                raise
        self._end_transaction()

    def _rollback(self) -> None:
        if not self._pooled:
            super()._rollback()
            return
        entry = self._entry
        try:
            if entry is None or _Watched._rollback is _DJANGOS_ROLLBACK:
                with debug_transaction(self, "ROLLBACK"):
                    self._end_with(entry, "ROLLBACK")
            else:
                with self._reading_connection():
                    self._in_time(entry, super()._rollback, "ROLLBACK")
        except BaseException:
            self._give_up_if_lost(entry)
            raise
        self._end_transaction()

    def _end_with(self, entry: PoolEntry | None, what: str) -> None:
        if entry is None:
            return
        try:
            self._in_time(entry, entry.conn.commit if what == "COMMIT" else entry.conn.rollback, what)
        except psycopg.Error:
            with self.wrap_database_errors:
                raise

    def _prepare_question(self, entry: PoolEntry) -> Question | None:
        """What has to be known before COMMIT is sent, to ask afterwards what became of it. A round trip."""
        if entry.pgconn.transaction_status != INTRANS:
            return None
        asked: list[str | None] = []
        self._in_time(entry, lambda: asked.append(transaction_id(entry)), "SELECT")
        assert self._pool is not None
        return Question(self._pool, str(entry.history), asked[0])

    def _give_up_if_lost(self, entry: PoolEntry | None) -> None:
        """However it ended, the transaction is over: the next one takes another connection."""
        if entry is not None and entry is self._entry and entry.lost():
            self._lose(entry, over=True)

    def _savepoint_rollback(self, sid: str) -> None:
        super()._savepoint_rollback(sid)
        self._undone += 1

    def run_and_clear_commit_hooks(self) -> None:
        """Hooks lease before ordinary callers, and an error from one says that the transaction is committed."""
        before, self._in_commit_hooks = self._in_commit_hooks, True  # a hook's atomic() may have hooks of its own
        try:
            super().run_and_clear_commit_hooks()
        except Exception as error:
            with suppress(AttributeError):  # an exception class with slots
                error.committed = True  # type: ignore[attr-defined]
            raise
        finally:
            self._in_commit_hooks = before
