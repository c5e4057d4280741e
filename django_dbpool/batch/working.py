"""
The transaction of one step, and what is known after it. What a batch has done counts once it is committed, and then at
once: between two steps there is nothing but the place.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..models import BatchRun
from ..transaction.retrying import retrying
from .book import Book
from .claiming import Claim, Place
from .current import Batch, current_batch
from .holding import refuse_broken, release_all, statement_limit
from .keys import Keys
from .plan import Plan
from .progress import KEPT_FAILURES, FailedItem, Reason
from .reading import Reader


class NotWanted(Exception):
    """
    The run was paused or cancelled while the batch before was at work: this one is rolled back before its handler is
    called.

    Args:
        wanted: of the run.
    """

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class Working:
    """
    Args:
        shared_thread: its steps run in a thread that other tasks use too.
    """

    def __init__(self, plan: Plan, *, shared_thread: bool = False) -> None:
        self.plan = plan
        self.stop: Reason | None = None
        """Set by whoever wants it to end at the next boundary."""
        self.batches = 0
        self.found = False
        """Where the run is, is known."""
        self.place = Place()
        self.beat_every = plan.takeover_after / 4
        """Seconds between two signs of life."""
        self._book: Book | None = None
        if plan.name is not None and not plan.dry_run:
            claim = Claim(plan.name, plan.alias, plan.key, plan.takeover_after, plan.part, plan.origin)
            self._book = Book(claim)
        self._shared_thread = shared_thread
        self._began = self._heard = time.monotonic()
        self._before = 0
        """Items that earlier calls have handled."""
        self.repeated = retrying(plan.alias)
        """Calls a function in a transaction."""
        self._reader = Reader(plan.source, plan.key, plan.alias, plan.size)
        self._exhausted = False
        self._sizes: list[int] = []
        """Of the parts that a batch which failed was divided into, the next one last."""
        self._skipped = 0
        """Items of this call."""
        self._failures: list[tuple[Keys, str]] = []
        self._skipping: FailedItem[Any] | None = None
        self._question: Exception | None = None
        """What was raised by a COMMIT that may have succeeded."""
        self._ending = False
        self._waits = 0
        self._waiting_since: float | None = None
        # Of the last transaction, whatever became of it:
        self._keys: list[Keys] = []
        self._rows_read = 0
        self._only_item: Any = None
        self._ahead: tuple[str | None, str] = (None, BatchRun.Wanted.RUN)
        self._complete = self._committed = False

    @property
    def title(self) -> str:
        return self.plan.title

    def _release(self) -> None:
        release_all(shared_thread=self._shared_thread)

    def _limit(self) -> int:
        return self._sizes[-1] if self._sizes else self.plan.size

    def _transaction(self) -> None:
        """A batch, or the step over an item. May run several times."""
        self._keys, self._rows_read, self._only_item = [], 0, None
        self._complete = self._committed = False
        connection = connections[self.plan.alias]
        if not _of_test_case(connection):
            connection.on_commit(self._note_commit)
        if self._skipping is not None:
            self._step_over(self._skipping)
        else:
            with statement_limit(connection, self.plan.statement_timeout):
                self._batch()
            refuse_broken(connection)
        self._complete = True

    def _note_commit(self) -> None:
        self._committed = True

    def _batch(self) -> None:
        assert self.place.upper is not None
        items: list[Any] = []
        for item in self._reader.read(self.place.last or self.place.lower, self.place.upper, self._limit()):
            self._rows_read += 1
            keys = self.plan.key.of(item)
            if not self._keys or keys != self._keys[-1]:  # a join may give one several times
                self._keys.append(keys)
                items.append(item)
        if not items or self.plan.dry_run:
            return
        if len(items) == 1:
            self._only_item = items[0]
        if self._book is not None:
            self._ahead = self._book.advance(self.place, self._keys[-1], done=len(items))
            if self._ahead[1] != BatchRun.Wanted.RUN:
                raise NotWanted(self._ahead[1])
        mark = current_batch.set(Batch(self.plan.name, self.plan.key))
        try:
            self.plan.handler(items)
        finally:
            current_batch.reset(mark)

    def _step_over(self, failed: FailedItem[Any]) -> None:
        self._keys = [failed.key]
        if self._book is not None:
            self._ahead = self._book.advance(self.place, failed.key, failed=1)
            self._book.note_failure(failed.key, failed.error, skipped=True)

    def _succeeded(self) -> float:
        place, was_over = self.place, self._rows_read < self._limit()
        if self._keys:
            place.last = self._keys[-1]
            place.stored, place.wanted = self._ahead
            self.batches += 1
        if self._skipping is None:
            place.done += len(self._keys)
            self._exhausted = was_over
        else:
            place.failed += 1
            self._skipped += 1
            if len(self._failures) < KEPT_FAILURES:
                self._failures.append((self._skipping.key, type(self._skipping.error).__qualname__))
        if self._sizes:
            self._sizes.pop()
        self._skipping = self._question = self._waiting_since = None
        self._only_item = None
        self._waits = 0
        self._heard = time.monotonic()
        return 0.0 if self._sizes or self._exhausted else self.plan.pause


def _of_test_case(connection: BaseDatabaseWrapper) -> bool:
    """Whose transaction is never committed, and whose hooks may be counted."""
    blocks: list[Any] = connection.atomic_blocks
    return bool(blocks) and blocks[0]._from_testcase
