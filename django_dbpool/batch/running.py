"""The public calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from django.db import models

from .driving import drive, drive_async
from .origin import Origin
from .plan import M, OnError, planned
from .progress import BatchProgress, BatchResult


def run_batches(
    source: models.QuerySet[M],
    handler: Callable[[list[M]], object],
    *,
    key: str | Sequence[str] = "pk",
    size: int = 50,
    pause: float = 0,
    using: str | None = None,
    checkpoint: str | None = None,
    part: int | None = None,
    deadline: float | None = None,
    on_progress: Callable[[BatchProgress], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_error: OnError = "raise",
    dry_run: bool = False,
    statement_timeout: float | None = None,
    busy_above: float | None = 0.75,
    patience: float = 300,
    takeover_after: float = 60,
    max_failures: int | None = 1000,
    origin: Origin | None = None,
) -> BatchResult:
    """
    Go through the rows of a queryset in batches, each in a transaction of its own that reads its rows and calls the
    handler. Between two of them, and in the pause, no connection is held.

    With ``checkpoint`` each row is handled exactly once as far as the database goes: how far the run is, is written in
    the batch's own transaction, so that work and checkpoint are committed together or not at all, whatever is killed.
    The same call with the same name goes on where it stopped. Rows that were committed before the run's start are
    handled once, later ones at most once. Effects outside of that database happen at least once: see
    ``idempotency_key`` and ``outbox``.

    Args:
        source: without slice, order, values, or union. Its filter is asked for each batch.
        handler: called with a list of instances, in the transaction. It may run again with the same rows, read anew,
            if that is rolled back: after a deadlock, a lost connection, and to find the item that fails.
        key: field or fields to go by, which may not be NULL and should not change. The primary key is added to what is
            not unique.
        size: rows of a batch.
        pause: seconds between two batches.
        using: database alias; that of the queryset or the one to write to.
        checkpoint: name of the run, used once: of one that has ended nothing is done again.
        part: of a run that ``split()`` has divided, from 0: only that range of keys.
        deadline: seconds; no batch begins later. What is done is saved.
        on_progress: called after each batch, outside of its transaction.
        should_stop: asked before each batch.
        on_error: what to do with an item that fails alone, after those before it were committed. "raise" raises its
            error, "skip" records it and goes on, a function is asked.
        dry_run: only go through the rows and count them: neither the handler is called nor anything written.
        statement_timeout: seconds for each statement of a batch, on the server.
        busy_above: share of the pool in use from which on batches wait, so that pages come first; None: they don't.
        patience: seconds that one batch waits for a pool with room, or for a server that is back. Then it runs although
            the pool is busy, or raises what is in the way.
        takeover_after: seconds without a sign of life after which another runner may have the run.
        max_failures: items that one call may skip; the next one is raised.
        origin: what the run's row is to say of how to begin it again; see ``Origin``.

    Returns:
        Why it ended, and what was done.

    Raises:
        BatchRefused: in a transaction, or while the thread keeps a connection.
        BatchRunTaken: another runner has the run of this name.
        BatchRunMismatch: the name belongs to a run about something else, or has no such part.
        TypeError, ValueError, ImproperlyConfigured: what was given can't work.
        KeyboardInterrupt: after the batch at hand, when Ctrl-C was pressed; at once when it was pressed twice.
        Exception: the handler's, with a note that names the item; what the database raised for longer than
            ``patience``.

    Example:
        def expire(items: list[Voucher]) -> None:
            Voucher.objects.filter(pk__in=[item.pk for item in items]).update(expired=True)

        run_batches(Voucher.objects.filter(expired=False), expire, checkpoint="expire vouchers 2026-11", pause=0.1)
    """
    return drive(
        planned(
            source,
            handler,
            key=key,
            using=using,
            checkpoint=checkpoint,
            part=part,
            origin=origin,
            size=size,
            pause=pause,
            deadline=deadline,
            on_progress=on_progress,
            should_stop=should_stop,
            on_error=on_error,
            dry_run=dry_run,
            statement_timeout=statement_timeout,
            busy_above=busy_above,
            patience=patience,
            takeover_after=takeover_after,
            max_failures=max_failures,
        )
    )


async def arun_batches(
    source: models.QuerySet[M],
    handler: Callable[[list[M]], object],
    *,
    key: str | Sequence[str] = "pk",
    size: int = 50,
    pause: float = 0,
    using: str | None = None,
    checkpoint: str | None = None,
    part: int | None = None,
    deadline: float | None = None,
    on_progress: Callable[[BatchProgress], Awaitable[object] | object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_error: OnError = "raise",
    dry_run: bool = False,
    statement_timeout: float | None = None,
    busy_above: float | None = 0.75,
    patience: float = 300,
    takeover_after: float = 60,
    max_failures: int | None = 1000,
    origin: Origin | None = None,
) -> BatchResult:
    """
    ``run_batches`` for a task of an event loop. Each batch runs as ``sync_to_async`` code does, pauses don't block the
    loop. A task that is cancelled ends after the batch at hand, with its checkpoint saved. ``on_progress`` may be
    asynchronous; the handler may not, since a transaction can't span an await.

    Example:
        await arun_batches(Voucher.objects.filter(expired=False), expire, pause=0.1)
    """
    return await drive_async(
        planned(
            source,
            handler,
            key=key,
            using=using,
            checkpoint=checkpoint,
            part=part,
            origin=origin,
            size=size,
            pause=pause,
            deadline=deadline,
            on_progress=on_progress,
            should_stop=should_stop,
            on_error=on_error,
            dry_run=dry_run,
            statement_timeout=statement_timeout,
            busy_above=busy_above,
            patience=patience,
            takeover_after=takeover_after,
            max_failures=max_failures,
        )
    )
