"""Long jobs as tasks: ``run_batches()`` with a run for each message, whatever becomes of the worker that has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from celery import shared_task
from celery.exceptions import Retry
from django.db import models

from .database import DatabaseTask
from .draining import is_draining

if TYPE_CHECKING:
    from ...batch import BatchProgress, BatchResult, FailedItem

logger = logging.getLogger("django_dbpool.batch")

TELL_EVERY = 1.0
"""Seconds between two reports of progress to the result backend."""


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

    # -- to be written by whoever derives -------------------------------------------------------------------------

    def get_queryset(self, **kwargs: Any) -> models.QuerySet[Any]:
        """
        The rows, without slice or order. Asked once for each go, with the message's keyword arguments; its filter is
        asked for each batch.
        """
        raise NotImplementedError(f"{type(self).__name__}: write get_queryset(self, **kwargs).")

    def process_batch(self, items: list[Any], **kwargs: Any) -> object:
        """In the batch's transaction. It may be called again with the same rows, if that was rolled back."""
        for item in items:
            self.process_item(item, **kwargs)
        return None

    def process_item(self, item: Any, **kwargs: Any) -> object:
        raise NotImplementedError(
            f"{type(self).__name__}: write process_batch(self, items, **kwargs) or process_item(self, item, **kwargs)."
        )

    def get_checkpoint(self, **kwargs: Any) -> str:
        """
        The name of the run, which is used once. By default that of the task and the id of the message: each ``delay()``
        is a run of its own. ``delay(..., run="newsletter 7")`` names it; the same name again does nothing again.
        """
        return f"{self.name} {self.request.id}"

    # -- a go -----------------------------------------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """
        Returns:
            How it ended, as a dictionary of what a ``BatchResult`` has.
        """
        from ...batch import run_batches

        if args:
            raise TypeError(f"{self.name}() takes keyword arguments only.")
        given = dict(kwargs)
        name = given.pop("run", None)
        result = run_batches(
            self.get_queryset(**given),
            lambda items: self.process_batch(items, **given),
            key=self.key,
            size=self.size,
            pause=self.pause,
            using=self.using,
            checkpoint=name if name is not None else self.get_checkpoint(**given),
            deadline=self.deadline,
            on_progress=self._teller(),
            should_stop=is_draining,
            on_error=self.on_error,
            statement_timeout=self.statement_timeout,
            busy_above=self.busy_above,
            patience=self.patience,
            takeover_after=self.takeover_after,
            max_failures=self.max_failures,
        )
        if result.reason in ("stopped", "shutdown") and not (self.request.called_directly or self.request.is_eager):
            raise self._queued_again(result.reason)
        return outcome(result)

    def _queued_again(self, why: str) -> Retry:
        """The same message once more, not counted as a retry; this one is to be acknowledged."""
        signature = self.signature_from_request(self.request, retries=self.request.retries, countdown=0)
        signature.apply_async()
        return Retry(why, when=0, sig=signature)

    def _teller(self) -> Callable[[BatchProgress], None] | None:
        if self.request.called_directly or self.request.is_eager or self.request.id is None:
            return None
        told = 0.0

        def tell(progress: BatchProgress) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told < TELL_EVERY:
                return
            told = now
            meta = {
                "run": progress.name,
                "done": progress.done,
                "failed": progress.failed,
                "total": progress.total,
                "rate": progress.rate,
                "seconds_left": progress.seconds_left,
            }
            try:
                self.update_state(state="PROGRESS", meta=meta)
            except Exception as error:  # noqa: BLE001  # a result backend that is away is no reason to stop
                logger.info("%s: progress could not be told: %s", self.name, type(error).__name__)

        return tell


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


def batch_task(get_queryset: Callable[..., models.QuerySet[Any]], **options: Any) -> Callable[[Callable[..., Any]], Any]:
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
    return shared_task(base=BatchTask, get_queryset=staticmethod(get_queryset), **options)


def _any_arguments(*args: Any, **kwargs: Any) -> None: ...
