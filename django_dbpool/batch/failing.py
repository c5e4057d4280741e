"""
What becomes of a batch that has failed: whether it was committed, whether it is tried again as it is, and how the item
is found that it fails for.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from ..core.logs import get_logger
from ..errors import CommitUnknown
from ..transaction.verdict import was_refused
from . import waiting
from .book import StillCommitting, key_text
from .errors import BatchRunTaken
from .progress import FailedItem
from .working import Working

logger = get_logger("django_dbpool.batch")


class Failing(Working):
    """A runner as far as it knows what to do about errors."""

    def _failed(self, error: Exception) -> float:
        if isinstance(error, BatchRunTaken):
            raise error
        if self._committed:
            self._succeeded()
            _note(error, "run_batches(): raised after the commit of its batch, by an on_commit hook; the batch is done")
            raise error
        if self._complete and not was_refused(error):
            if self._book is None:
                _note(
                    error,
                    "run_batches(): nobody knows whether this batch was committed; checkpoint=... would tell",
                )
                raise error
            self._question = error
            return self._answer(error)
        return self._judge(error)

    def _answer(self, error: Exception) -> float:
        """A COMMIT that nobody has answered: the checkpoint was written by it, or it was not."""
        assert self._book is not None
        try:
            committed = self.repeated.call(self._book.is_at, self._ahead[0])
        except Exception as unknown:
            if isinstance(unknown, BatchRunTaken):
                raise
            if not (isinstance(unknown, StillCommitting) or waiting.passes(unknown)):
                raise
            if not self._has_patience():
                _note(error, "run_batches(): what became of this COMMIT could not be asked; the next start finds out")
                raise error from None
            return self._wait(unknown, "the outcome of a COMMIT can't be asked yet")
        self._question = None
        if committed:
            logger.warning(
                "%s: a COMMIT that was not answered has succeeded; its on_commit hooks did not run", self.title
            )
            return self._succeeded()
        return self._judge(error)

    def _judge(self, error: Exception) -> float:
        """Of a batch that was not committed, and of which nothing is left."""
        if waiting.passes(error) or isinstance(error, CommitUnknown):
            if self._has_patience():
                return self._wait(error, type(error).__name__)
            self._note_patience(error)
            raise error
        if self._skipping is not None or not self._keys or not waiting.blames_items(error):
            raise error
        if self._rows_read == 1:
            return self._poisoned(FailedItem(self._only_item, self._keys[0], error))
        if self._sizes:
            self._sizes.pop()
        half = self._rows_read // 2
        self._sizes += [self._rows_read - half, half]
        return 0.0

    def _poisoned(self, failed: FailedItem[Any]) -> float:
        decision = self.plan.on_error
        if callable(decision):
            self._release()
            decision = decision(failed)
            if decision not in ("raise", "skip"):
                raise TypeError(f'run_batches(): on_error returned {decision!r}, not "raise" or "skip".')
        error = failed.error
        limit = self.plan.max_failures
        if decision == "skip" and limit is not None and self._skipped >= limit:
            _note(error, f"run_batches(): {limit} items were skipped already (max_failures)")
            decision = "raise"
        if decision == "skip":
            logger.warning("%s: skips item %s: %s", self.title, key_text(failed.key), type(error).__qualname__)
            self._skipping = failed
            return 0.0
        if self._book is not None:
            try:
                self.repeated.call(self._book.note_failure, failed.key, error, skipped=False)
            except Exception:
                logger.exception("%s: the failure of item %s could not be recorded", self.title, key_text(failed.key))
        _note(error, f"run_batches(): raised for item {key_text(failed.key)}; what comes before it is done")
        raise error

    def _note_patience(self, error: Exception) -> None:
        _note(error, f"run_batches(): after {self.plan.patience:g} s of trying again (patience)")

    def _has_patience(self) -> bool:
        return self._waiting_since is None or time.monotonic() - self._waiting_since < self.plan.patience

    def _wait(self, error: Exception | None, why: str) -> float:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            logger.info("%s: waits: %s", self.title, why)
        self._waits += 1
        return waiting.delay_after(error, self._waits)


def _note(error: BaseException, text: str) -> None:
    with suppress(AttributeError, TypeError):
        error.add_note(text)
