"""Tasks that hold a connection only while they use it, and are retried when a database fails for what passes."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.contrib.django.task import DjangoTask
from celery.exceptions import TaskPredicate
from django.db import DEFAULT_DB_ALIAS

if TYPE_CHECKING:
    from ...transaction.attempt import Attempt

from ...core.logs import get_logger

logger = get_logger("django_dbpool.celery")


class DatabaseTask(DjangoTask):  # type: ignore[misc]  # Celery has no types
    """
    A task that is retried when a database fails for a reason that passes: a lost connection, a deadlock, a server that
    restarts or is full, an open circuit, a pool without a free connection. Between two attempts it waits in the queue,
    with growing random pauses, and holds nothing; nor does it in its hooks (``on_success``, ``on_failure``,
    ``after_return``).

    It is never retried after it has committed anything, or when nobody knows whether it has (``CommitUnknown``), unless
    it says that to run it twice is the same as to run it once: ``idempotent = True``. Errors of the code are not
    retried; ``autoretry_for`` and ``self.retry()`` are as everywhere in Celery.

    Attributes:
        idempotent: the whole task may run again, whatever it has done.
        max_retries: of all reasons together.
        retry_backoff: seconds; the longest first pause, which doubles with each.
        retry_backoff_max: seconds; the longest pause.
        retry_jitter: pauses are random, from 0 to that.

    Example:
        @app.task(base=DatabaseTask, idempotent=True)
        def recount(shop_id): ...
    """

    abstract = True
    idempotent: bool = False
    max_retries: int | None = 12
    retry_backoff: float = 1
    retry_backoff_max: float = 60
    retry_jitter: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly or getattr(request, "dbpool_entered", False):
            return super().__call__(*args, **kwargs)
        request.dbpool_entered = True
        if request.is_eager:  # a part of its caller, whose transaction it may be in
            return self.run(*args, **kwargs)
        return self._attempted(*args, **kwargs)

    def _attempted(self, *args: Any, **kwargs: Any) -> Any:
        attempt = None if self.idempotent else _begun()
        try:
            return self.run(*args, **kwargs)
        except TaskPredicate:
            raise
        except Exception as error:
            _release(attempt)
            if not _may_run_again(error, attempt):
                raise
            logger.info("%s[%s] runs again: %s", self.name, self.request.id, type(error).__name__)
            raise self.retry(exc=error, countdown=self._pause(error)) from error
        finally:
            _release(attempt)
            if attempt is not None:
                attempt.end()

    def _pause(self, error: Exception) -> float:
        """Seconds."""
        longest = min(self.retry_backoff_max, self.retry_backoff * 2.0 ** min(self.request.retries, 32))
        pause = random.uniform(0, longest) if self.retry_jitter else longest  # noqa: S311
        return max(pause, min(getattr(error, "retry_after", None) or 0.0, self.retry_backoff_max))


def _begun() -> Attempt:
    """What sees to it that nothing is done twice."""
    from ...transaction.attempt import Attempt

    attempt = Attempt(DEFAULT_DB_ALIAS, 1, atomic=False)
    attempt.prepare()
    attempt.enter()
    return attempt


def _release(attempt: Attempt | None) -> None:
    """At the end of its work, before hooks and before anything is sent. Twice does no harm."""
    from ...batch.holding import release_all

    if attempt is not None:
        attempt.unwatch()
    release_all(shared_thread=False)


def _may_run_again(error: Exception, attempt: Attempt | None) -> bool:
    from ...batch.waiting import passes
    from ...errors import CommitUnknown, ShuttingDown
    from ...transaction.verdict import why_not

    if not (passes(error) or isinstance(error, (CommitUnknown, ShuttingDown))):
        return False
    reason = None if attempt is None else why_not(error, attempt, type(error))
    if reason is not None:
        with suppress(AttributeError, TypeError):  # an error that takes no notes
            error.add_note(f"DatabaseTask: it is not run again, for {reason}. See DatabaseTask.idempotent.")
    return reason is None
