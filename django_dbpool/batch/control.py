"""Pause, resume, cancel: written into the run's row, which its runners read with each batch and in pauses."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ..core.logs import get_logger
from ..models import BatchCheckpoint, BatchRun
from .errors import BatchRunEnded, BatchRunMissing
from .reaping import end_cancelled, restart
from .status import RunStatus, status, tables_of

logger = get_logger("django_dbpool.batch")

_CHECKPOINTS = BatchCheckpoint._meta.db_table
_RUNS = BatchRun._meta.db_table

# Parts that nobody works on. Who has a part's row is in a batch, so alive: skipped. What was just sent is on its way.
_RESUME = (
    f"UPDATE {_CHECKPOINTS} SET restarts = 0, reason = 'resumed', token = '' WHERE id IN ("  # noqa: S608
    f"SELECT c.id FROM {_CHECKPOINTS} c JOIN {_RUNS} r ON r.id = c.run_id WHERE r.id = %s AND NOT c.finished AND ("
    "  c.token <> '' AND c.heartbeat <= clock_timestamp() - make_interval(secs => r.takeover_after)"
    "  OR c.token = '' AND (c.reason <> '' OR"
    "    greatest(c.heartbeat, c.restarted) <= clock_timestamp() - make_interval(secs => r.takeover_after))"
    ") FOR UPDATE OF c SKIP LOCKED)"
)


def pause(name: str, using: str | None = None) -> RunStatus:
    """
    Stop a run at the end of the batch at hand, until it is resumed. Whoever starts it meanwhile is told "paused".

    Args:
        using: database alias of its rows; default: "default".

    Returns:
        How it is then: ``condition`` is "pausing" until the batch at hand is over.

    Raises:
        BatchRunMissing: there is none of that name.
        BatchRunEnded: it has ended.
        ImproperlyConfigured: the tables are missing there.

    Example:
        pause("expire vouchers 2026-11")
    """
    return _write(name, using, BatchRun.Wanted.PAUSE)


def resume(name: str, using: str | None = None) -> RunStatus:
    """
    Let a run go on that was paused, has failed, has stopped or was given up. If a task does it, that is sent again for
    each part that nobody works on: by this process if it knows how (``register_starter``), else by the next ``reap()``
    of one that does. A run that other code has started is started again by that code; from now on it may.

    Raises:
        BatchRunMissing, BatchRunEnded, ImproperlyConfigured: as ``pause``.

    Example:
        resume("expire vouchers 2026-11")
    """
    return _write(name, using, BatchRun.Wanted.RUN)


def cancel(name: str, using: str | None = None) -> RunStatus:
    """
    End a run for good, at the end of the batch at hand; at once where nobody works on it. What is done stays done.

    Raises:
        BatchRunMissing, BatchRunEnded, ImproperlyConfigured: as ``pause``. To cancel twice is no error.

    Example:
        cancel("expire vouchers 2026-11")
    """
    return _write(name, using, BatchRun.Wanted.CANCEL)


def _write(name: str, using: str | None, wanted: BatchRun.Wanted) -> RunStatus:
    alias = using or DEFAULT_DB_ALIAS
    with tables_of(alias):
        with transaction.atomic(using=alias):
            run = BatchRun.objects.using(alias).select_for_update(no_key=True).filter(name=name).first()
            if run is None:
                raise BatchRunMissing(f"There is no batch run {name!r} on database {alias!r}.")
            if run.state != BatchRun.State.OPEN:
                if wanted == BatchRun.Wanted.CANCEL and run.state == BatchRun.State.CANCELLED:
                    return status(name, alias)
                raise BatchRunEnded(f"Batch run {name!r} on database {alias!r} has ended ({run.state}).")
            _change(alias, run, wanted)
        if wanted == BatchRun.Wanted.CANCEL:
            end_cancelled(alias, name)
        return status(name, alias)


def _change(alias: str, run: Any, wanted: BatchRun.Wanted) -> None:
    logger.info("batch run %r on database %r: wanted is %r, was %r", run.name, alias, str(wanted), run.wanted)
    BatchRun.objects.using(alias).filter(pk=run.pk).update(wanted=wanted)
    if wanted == BatchRun.Wanted.RUN and run.task:
        with connections[alias].cursor() as cursor:
            cursor.execute(_RESUME, [run.pk])
        # Not before it is committed, or the task could find it paused still.
        transaction.on_commit(partial(restart, alias, run.name), using=alias)
