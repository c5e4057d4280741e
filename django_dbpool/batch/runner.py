"""
One run, step by step: a step is a transaction or the decision to wait. It never waits itself, so that synchronous and
asynchronous callers share it, and holds nothing between two steps.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress

from ..core.blocks import seconds_left
from ..core.logs import get_logger
from ..errors import CommitUnknown, ShuttingDown
from ..models import BatchRun
from ..pool import stopping
from ..transaction.retrying import retrying
from . import waiting
from .claiming import Claim, Place
from .errors import BatchRunTaken
from .extent import Extent
from .failing import Failing
from .holding import refuse_held
from .keys import Keys
from .progress import BatchProgress, BatchResult, Reason
from .working import NotWanted

logger = get_logger("django_dbpool.batch")

_STOPS: dict[str, Reason] = {BatchRun.Wanted.PAUSE: "paused", BatchRun.Wanted.CANCEL: "cancelled"}


class Runner(Failing):
    """Begins, goes from step to step, and ends; see ``Working`` for what it is given."""

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
        place = self.repeated.call(claim.find)
        if place is None:
            # Before anything is written down: to find the end of a large table may take a while.
            upper, total = self._measured()
            place = self.repeated.call(claim.create, upper, total) or self.repeated.call(claim.find)
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
                self.repeated.call(self._transaction)
            except ShuttingDown:
                self.stop = "shutdown"
                return 0.0
            except NotWanted as told:
                self.place.wanted = told.wanted
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
            self.repeated.call(self._book.finish, reason)
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
