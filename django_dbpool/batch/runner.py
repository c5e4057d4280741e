"""
One run, step by step: a step is a transaction or the decision to wait. It never waits itself, so that synchronous and
asynchronous callers share it, and holds nothing between two steps.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.blocks import seconds_left
from ..errors import CommitUnknown, ShuttingDown
from ..models import BatchRun
from ..pool import stopping
from ..transaction.retrying import retrying
from ..transaction.verdict import was_refused
from . import waiting
from .book import Book, StillCommitting, key_text
from .claiming import Claim, Place
from .current import Batch, current_batch
from .errors import BatchRunTaken
from .extent import Extent
from .holding import refuse_broken, refuse_held, release_all, statement_limit
from .keys import Keys
from .plan import Plan
from .progress import KEPT_FAILURES, BatchProgress, BatchResult, FailedItem, Reason

logger = logging.getLogger("django_dbpool.batch")

_STOPS: dict[str, Reason] = {BatchRun.Wanted.PAUSE: "paused", BatchRun.Wanted.CANCEL: "cancelled"}


class Runner:
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
        self._bounded: Any = None
        """The rows up to the run's end; never evaluated itself."""
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

    # -- begin ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """
        Before the first step.

        Raises:
            BatchRefused: something is held here.
        """
        refuse_held()
        self._release()

    def _find(self) -> float:
        """The run, or begin it. Twice does no harm, so a COMMIT that nobody has answered is repeated, too."""
        try:
            if self._book is None:
                upper, total = self._measured()
                self.place = Place(upper=upper, total=total)
            else:
                self.place = self._claimed(self._book.claim)
        except Exception as error:
            if not (waiting.passes(error) or isinstance(error, CommitUnknown)):
                raise
            if not self._has_patience():
                self._note_patience(error)
                raise
            return self._wait(error, type(error).__name__)
        self.found = True
        self._waiting_since = None
        self._waits = 0
        self._before = self.place.done
        self._exhausted = self.place.upper is None
        if self.place.ended:
            logger.warning(
                "batch run %r ended before (%s): nothing is done. A new run needs a name of its own",
                self.plan.name,
                self.place.ended,
            )
        self._heard = time.monotonic()
        return 0.0

    def _claimed(self, claim: Claim) -> Place:
        repeated = retrying(self.plan.alias)
        place = repeated.call(claim.find)
        if place is None:
            # Before anything is written down: to find the end of a large table may take a while.
            upper, total = self._measured()
            place = repeated.call(claim.create, upper, total) or repeated.call(claim.find)
        if place is None:
            raise BatchRunTaken(claim.name, "another runner has begun it at the same moment, and it was deleted since.")
        return place

    def _measured(self) -> tuple[Keys | None, int | None]:
        extent = Extent.of(self.plan.source, self.plan.key, self.plan.alias)
        upper = extent.upper()
        return upper, extent.count(upper)

    # -- one step -------------------------------------------------------------------------------------------------

    def step(self) -> float | None:
        """
        Seconds to wait before the next one; None: there is none.

        Raises:
            Exception: the handler's and whatever else ends the run; what was committed before is saved.
        """
        try:
            if self._question is not None:
                return self._answer(self._question)
            if not self.found and self._waits == 0:
                return self._find()  # also for who is late or wants to stop: to tell how far it is
            if self._skipping is None:
                if (reason := self._reason()) is not None:
                    return self._finish(reason)
                if (why := waiting.reason_to_wait(self.plan.alias, self.plan.busy_above)) and self._has_patience():
                    return self._wait(None, why)
                if not self.found:
                    return self._find()
            try:
                retrying(self.plan.alias).call(self._transaction)
            except ShuttingDown:
                self.stop = "shutdown"
                return 0.0
            except Exception as error:  # noqa: BLE001  # raised again by whatever can't do better
                return self._failed(error)
            return self._succeeded()
        finally:
            self._release()

    def _reason(self) -> Reason | None:
        """Why to end here."""
        if self.place.ended:
            return "cancelled" if self.place.ended == BatchRun.State.CANCELLED else "done"
        if self._exhausted:
            return "done"
        if self.stop is None and self.plan.should_stop is not None and self.plan.should_stop():
            self.stop = "stopped"
        if self.stop is None and self.place.wanted in _STOPS:
            self.stop = _STOPS[self.place.wanted]
        if self.stop is None and stopping.announced is not None:
            self.stop = "shutdown"
        if self.stop is None and self._seconds_left() <= 0:
            self.stop = "deadline"
        return self.stop

    def _seconds_left(self) -> float:
        limit = self.plan.deadline
        own = math.inf if limit is None else limit - (time.monotonic() - self._began)
        return min(own, seconds_left())

    def may_wait(self, seconds: float) -> bool:
        """Whether there will be something to do after so long a wait."""
        if self._question is not None or self._skipping is not None or self._ending:
            return True  # what was begun is finished, whoever wants it to stop
        if self._reason() is None and seconds >= self._seconds_left():
            self.stop = "deadline"  # no batch begins after it: waiting for that helps nobody
        return self._reason() is None

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
        rows = self._bounded
        if rows is None:
            rows = self._bounded = self.plan.source.filter(self.plan.key.up_to(self._end()))
        if (last := self.place.last or self.place.lower) is not None:
            rows = rows.filter(self.plan.key.after(last))
        items: list[Any] = []
        for item in rows[: self._limit()]:
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
        mark = current_batch.set(Batch(self.plan.name, self.plan.key))
        try:
            self.plan.handler(items)
        finally:
            current_batch.reset(mark)

    def _end(self) -> Keys:
        assert self.place.upper is not None
        return self.place.upper

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

    # -- what goes wrong ------------------------------------------------------------------------------------------

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
            committed = retrying(self.plan.alias).call(self._book.is_at, self._ahead[0])
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
                retrying(self.plan.alias).call(self._book.note_failure, failed.key, error, skipped=False)
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

    # -- between two steps ----------------------------------------------------------------------------------------

    def beat(self) -> None:
        """
        While it waits: say that it lives, if that is due, and hear what is wanted.

        Raises:
            BatchRunTaken: it was given up for dead.
        """
        if self._book is None or not self.found or time.monotonic() - self._heard < self.beat_every:
            return
        self._heard = time.monotonic()
        try:
            self.place.wanted = self._book.heartbeat()
        except BatchRunTaken:
            raise
        except Exception as error:  # noqa: BLE001  # it waits for this to pass, perhaps
            logger.info("%s: no heartbeat: %s", self.title, type(error).__name__)
        finally:
            self._release()

    @property
    def title(self) -> str:
        return self.plan.title

    def progress(self) -> BatchProgress:
        place, seconds = self.place, time.monotonic() - self._began
        here = place.done - self._before
        rate = here / seconds if seconds > 0 else 0.0
        left = None
        if place.total is not None and rate > 0:
            left = max(0, place.total - place.done - place.failed) / rate
        return BatchProgress(self.plan.name, place.done, place.failed, place.total, self.batches, seconds, rate, left)

    # -- end ------------------------------------------------------------------------------------------------------

    def _finish(self, reason: Reason) -> float | None:
        self.stop = reason
        if self._book is None or self.place.ended or not self.found:
            return None
        try:
            retrying(self.plan.alias).call(self._book.finish, reason)
        except BatchRunTaken:
            raise
        except Exception as error:
            if reason not in ("done", "cancelled"):
                # The next runner finds a heartbeat that grows old; all else is saved.
                logger.warning("%s: its end could not be written (%s)", self.title, type(error).__name__)
                return None
            # To be done twice does no harm, so a COMMIT that nobody has answered is repeated, too.
            if (waiting.passes(error) or isinstance(error, CommitUnknown)) and self._has_patience():
                self._ending = True
                return self._wait(error, "the end can't be written")
            raise
        return None

    def abandon(self, error: BaseException) -> None:
        """After an error: let the next one begin at once, if the database allows. What was committed is there."""
        self._only_item = self._skipping = None
        if self._book is None or isinstance(error, BatchRunTaken) or self.place.ended or not self.found:
            return
        with suppress(Exception):
            # An error that somebody sends to stop the run says what is to be known of that. What is none, like the
            # SystemExit of a worker that is made to end, is no failure of the run's: somebody else is to go on.
            other = f"failed: {type(error).__qualname__}" if isinstance(error, Exception) else "stopped"
            reason = getattr(error, "batch_reason", None) or other
            retrying(self.plan.alias, attempts=1).call(self._book.finish, reason[:200])
        self._release()

    def result(self) -> BatchResult:
        assert self.stop is not None
        place = self.place
        return BatchResult(
            name=self.plan.name,
            reason=self.stop,
            done=place.done,
            failed=place.failed,
            total=place.total,
            handled=place.done - self._before,
            batches=self.batches,
            seconds=time.monotonic() - self._began,
            resumed=place.resumed,
            failures=tuple(self._failures),
            dry_run=self.plan.dry_run,
        )

    def _release(self) -> None:
        release_all(shared_thread=self._shared_thread)


def _of_test_case(connection: BaseDatabaseWrapper) -> bool:
    """Whose transaction is never committed, and whose hooks may be counted."""
    blocks: list[Any] = connection.atomic_blocks
    return bool(blocks) and blocks[0]._from_testcase


def _note(error: BaseException, text: str) -> None:
    with suppress(AttributeError, TypeError):
        error.add_note(text)
