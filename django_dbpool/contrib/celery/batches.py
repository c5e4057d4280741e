"""Long jobs as tasks: ``run_batches()`` with a run for each message, whatever becomes of the worker that has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from celery import shared_task, uuid
from celery.exceptions import Ignore, Retry, SoftTimeLimitExceeded
from django.db import models

from ...core.logs import get_logger
from .database import DatabaseTask
from .draining import is_draining
from .interrupts import Interrupted, Interrupts
from .joint import FannedOut
from .sending import HEADER, headers_of, origin_of, part_id, written
from .telling import teller

if TYPE_CHECKING:
    from ...batch import BatchProgress, BatchResult, BatchRunTaken, FailedItem

logger = get_logger("django_dbpool.batch")

TELL_EVERY = 1.0
"""Seconds between two reports of progress to the result backend."""
FRUITLESS = 3
"""Times in a row that a soft time limit may end a task before its first batch."""
LOOK_AGAIN = 1.0
"""Seconds to the next attempt, when the server is still at the last batch of a runner that is gone."""


class BatchTask(DatabaseTask):
    """
    A task that goes through the rows of a queryset in batches, each in a transaction of its own, with a checkpoint that
    is committed together with the work. In between it holds nothing.

    Each message is a run of its own (``get_checkpoint``): when it is delivered again, retried, or sent again because
    its worker is dead, it goes on where the last batch was committed.

    Derive from it and write ``get_queryset`` and one of ``process_batch`` and ``process_item``; or decorate a function
    with ``batch_task``. The attributes are arguments of ``run_batches()``; ``deadline`` is that of one go.

    Example:
        class ExpireVouchers(BatchTask):
            name = "shop.expire_vouchers"
            size, pause = 100, 0.1

            def get_queryset(self, **kwargs):
                return Voucher.objects.filter(expired=False, **kwargs)

            def process_batch(self, items, **kwargs):
                Voucher.objects.filter(pk__in=[item.pk for item in items]).update(expired=True)

        expire_vouchers = app.register_task(ExpireVouchers())
        expire_vouchers.delay(shop_id=7)
    """

    abstract = True
    idempotent = True  # its checkpoint sees to that
    acks_late = True
    reject_on_worker_lost = True

    size: int = 50
    pause: float = 0
    key: str | Sequence[str] = "pk"
    using: str | None = None
    deadline: float | None = None
    on_error: Literal["raise", "skip"] | Callable[[FailedItem[Any]], Literal["raise", "skip"]] = "raise"
    statement_timeout: float | None = None
    busy_above: float | None = 0.75
    patience: float = 300
    takeover_after: float = 60
    max_failures: int | None = 1000

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        function = cls.__dict__.get("run")
        if function is not None and "get_queryset" in cls.__dict__:
            # A function that was decorated: Celery takes it for the whole task, and it does a batch.
            cls.process_batch = function  # type: ignore[method-assign]
            cls.run = BatchTask.run  # type: ignore[method-assign]
            cls.__header__ = staticmethod(_any_arguments)

    # -- to be written by whoever derives: with the message's keyword arguments by name, if that is clearer --------

    def get_queryset(self, *args: Any, **kwargs: Any) -> models.QuerySet[Any]:
        """
        The rows, without slice or order. Asked once for each go, with the message's keyword arguments; its filter is
        asked for each batch.
        """
        raise NotImplementedError(f"{type(self).__name__}: write get_queryset(self, **kwargs).")

    def process_batch(self, items: list[Any], /, *args: Any, **kwargs: Any) -> object:
        """In the batch's transaction. It may be called again with the same rows, if that was rolled back."""
        for item in items:
            self.process_item(item, **kwargs)
        return None

    def process_item(self, item: Any, /, *args: Any, **kwargs: Any) -> object:
        raise NotImplementedError(
            f"{type(self).__name__}: write process_batch(self, items, **kwargs) or process_item(self, item, **kwargs)."
        )

    def get_checkpoint(self, *args: Any, **kwargs: Any) -> str:
        """
        The name of the run, which is used once. By default that of the task and the id of the message: each ``delay()``
        is a run of its own. ``delay(..., run="newsletter 7")`` names it; the same name again does nothing again.
        """
        return f"{self.name} {self.request.id}"

    def on_progress(self, progress: BatchProgress, /, *args: Any, **kwargs: Any) -> object:
        """After each batch, outside of its transaction and with nothing held. What it raises ends this go."""

    def fan_out(self, n: int, /, **kwargs: Any) -> FannedOut:
        """
        Divide the rows in parts of the same number of rows, and send a task for each: as many of them as there are
        workers go on at the same time. Each part has a checkpoint of its own.

        Args:
            n: parts; of few rows there are fewer.
            kwargs: as for ``delay()``; ``run="..."`` names the run. The same name again sends its parts again, which
                does no harm.

        Returns:
            What tells of all of them together.

        Raises:
            BatchRefused: in a transaction, or while the thread keeps a connection.
            BatchRunMismatch: the name belongs to a run about something else.
            Exception: the broker's.

        Example:
            expire_vouchers.fan_out(4, shop_id=7).get(timeout=3600).done
        """
        from ...batch import Origin, split
        from ...batch.source import alias_of

        name = kwargs.pop("run", None)
        if name is None:
            self.push_request(id=uuid(), called_directly=True)
            try:
                name = self.get_checkpoint(**kwargs)
            finally:
                self.pop_request()
        message = {**kwargs, "run": name}
        rows = self.get_queryset(**kwargs)
        parts = split(
            rows,
            n,
            key=self.key,
            checkpoint=name,
            using=self.using,
            origin=written(self.name, message, {}) or Origin(),
            takeover_after=self.takeover_after,
        )
        for part in range(parts):
            headers = {HEADER: {"part": part, "parts": parts}}
            self.apply_async(kwargs=message, headers=headers, task_id=part_id(name, part))
        return FannedOut(name, alias_of(rows, self.using, checkpoint=True), parts)

    # -- a go -----------------------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """
        Returns:
            How it ended, as a dictionary of what a ``BatchResult`` has; its reason is "taken" if another message's
            task is at work on the run.
        """
        if args:
            raise TypeError(f"{self.name}() takes keyword arguments only.")
        try:
            return self._go(self._begin(dict(kwargs)))
        finally:
            if not self._is_local():
                teller().end(self.request.id)

    def _go(self, go: Go) -> Any:
        with Interrupts() as interrupts:
            try:
                with interrupts.armed():
                    result = self._run_batches(go)
            except Interrupted as interrupted:
                if interrupts.terminated:
                    return None  # to nobody: this process ends here
                raise self._queued_again(interrupted.batch_reason, go, ended=True) from None
            if isinstance(result, dict):
                return result
            if result.reason in ("stopped", "shutdown") and not self._is_local():
                raise self._queued_again(result.reason, go)
        return outcome(result)

    def _begin(self, given: dict[str, Any]) -> Go:
        name = given.pop("run", None)
        return Go(
            name=self.get_checkpoint(**given) if name is None else name,
            given=given,
            part=headers_of(self).get("part"),
            rows=self.get_queryset(**given),
        )

    def _run_batches(self, go: Go) -> BatchResult | dict[str, Any]:
        from ...batch import BatchRunTaken
        from .taken import server_notices_loss

        with server_notices_loss(go.rows, self.using):
            while True:
                try:
                    return self._batches(go)
                except BatchRunTaken as taken:
                    if (answer := self._without_it(taken, go)) is not None:
                        return answer

    def _batches(self, go: Go) -> BatchResult:
        from ...batch import run_batches

        def handle(items: list[Any]) -> None:
            self.process_batch(items, **go.given)

        return run_batches(
            go.rows,
            handle,
            key=self.key,
            size=self.size,
            pause=self.pause,
            using=self.using,
            checkpoint=go.name,
            deadline=self.deadline,
            on_progress=partial(self._note_progress, go),
            should_stop=None if self._is_local() else is_draining,
            on_error=self.on_error,
            statement_timeout=self.statement_timeout,
            busy_above=self.busy_above,
            patience=self.patience,
            takeover_after=self.takeover_after,
            max_failures=self.max_failures,
            part=go.part,
            origin=origin_of(self),
        )

    def _without_it(self, taken: BatchRunTaken, go: Go) -> dict[str, Any] | None:
        """
        Another runner has the run.

        Returns:
            The task's result; None: it may be tried again at once.

        Raises:
            Ignore: this is the other one's message, delivered twice.
            BatchRunTaken: the run was deleted.
            Retry: it is tried again later.
        """
        from ...batch.source import alias_of
        from .taken import is_gone, is_known, release, sender_of

        using = alias_of(go.rows, self.using, checkpoint=True)
        if not is_known(taken.name, using):
            raise taken  # it was deleted: to begin anew would be to do everything twice
        if is_gone(taken.runner):
            if release(taken, using, go.part):
                return None
            if not self._is_local():
                raise self._queued_again("its last runner is gone, the server not done with it", go, LOOK_AGAIN)
        if self._is_local():
            raise taken
        logger.info("%s", taken)
        sender = sender_of(taken.name, using, go.part)
        if sender is None:
            # Nobody sends it again if its runner dies: this message does.
            raise self._queued_again("another runner has it", go, self.takeover_after)
        if sender == self.request.id:
            raise Ignore(str(taken))
        return {"run": taken.name, "reason": "taken", "runner": taken.runner}

    def _is_local(self) -> bool:
        """Whoever called it has the result; there is no message that could be sent again."""
        return bool(self.request.called_directly or self.request.is_eager)

    def _queued_again(self, why: str, go: Go, countdown: float = 0, *, ended: bool = False) -> Retry:
        """
        The same message once more, not counted as a retry; this one is to be acknowledged.

        Args:
            countdown: seconds.
            ended: it had to end in the middle of something.

        Raises:
            SoftTimeLimitExceeded: it would never get further.
        """
        fruitless = headers_of(self).get("fruitless", 0) + 1 if ended and not (go.batches or is_draining()) else 0
        if fruitless >= FRUITLESS:
            logger.error("%s: %d times in a row no batch ended within the soft time limit", self.name, fruitless)
            raise SoftTimeLimitExceeded
        headers = {**(self.request.headers or {}), HEADER: {**headers_of(self), "fruitless": fruitless}}
        signature = self.signature_from_request(
            self.request, retries=self.request.retries, countdown=countdown, headers=headers
        )
        signature.apply_async()
        return Retry(why, when=countdown, sig=signature)

    def _note_progress(self, go: Go, progress: BatchProgress) -> None:
        go.batches = progress.batches
        self.on_progress(progress, **go.given)
        now = time.monotonic()
        if self._is_local() or now - go.told < TELL_EVERY:
            return
        go.told = now
        meta = {
            "run": progress.name,
            "done": progress.done,
            "failed": progress.failed,
            "total": progress.total,
            "rate": progress.rate,
            "seconds_left": progress.seconds_left,
        }
        request = self.request
        store = partial(self.backend.store_result, request.id, meta, "PROGRESS", request=request)
        teller().tell(request.id, store)


@dataclass
class Go:
    """One execution of a task. The task itself is shared by all threads of a worker."""

    name: str
    """Of the run."""
    given: dict[str, Any]
    part: int | None
    rows: models.QuerySet[Any]
    batches: int = 0
    told: float = 0.0


def outcome(result: BatchResult) -> dict[str, Any]:
    """What a result backend keeps."""
    return {
        "run": result.name,
        "reason": result.reason,
        "done": result.done,
        "failed": result.failed,
        "total": result.total,
        "handled": result.handled,
        "batches": result.batches,
        "seconds": round(result.seconds, 3),
        "resumed": result.resumed,
    }


def batch_task(
    get_queryset: Callable[..., models.QuerySet[Any]], **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """
    A task out of a function that does a batch.

    Args:
        get_queryset: a function that gets the message's keyword arguments.
        options: attributes of ``BatchTask``, and whatever ``shared_task`` takes.

    Example:
        @batch_task(lambda shop_id: Voucher.objects.filter(shop=shop_id, expired=False), size=100, pause=0.1)
        def expire_vouchers(items, shop_id):
            Voucher.objects.filter(pk__in=[item.pk for item in items]).update(expired=True)

        expire_vouchers.delay(shop_id=7)
    """
    made: Callable[[Callable[..., Any]], Any] = shared_task(
        base=BatchTask, get_queryset=staticmethod(get_queryset), **options
    )
    return made


def _any_arguments(*args: Any, **kwargs: Any) -> None: ...
