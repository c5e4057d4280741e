"""
Runs whose runner is dead are sent again, without waiting for the queue to notice: whoever writes ``restarted`` into the
row sends it, so of several reapers one does. That a message too many is sent does no harm, for a run has one runner at
a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import monotonic
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from ..conf import project_config
from ..core.logs import get_logger
from ..models import BatchCheckpoint, BatchRun
from .deleting import delete_old
from .starting import Start, prefixes, starter_of
from .status import PartStatus, RunStatus, runs, tables_of

logger = get_logger("django_dbpool.batch")

MOST = 100
"""Parts that one pass sends again; the next one has the others."""
TIDY_EVERY = 3600.0
"""Seconds between two looks for runs that are too old to be remembered, in one process."""
LONGEST_BACKOFF = 6
"""The pause between two restarts is takeover_after, doubled at most so often."""

_RUNS = BatchRun._meta.db_table
_CHECKPOINTS = BatchCheckpoint._meta.db_table

_tidied: dict[str, float] = {}

# Restarts since it last got ahead: a run that does a batch each time before it is killed is not given up.
_IN_VAIN = "CASE WHEN c.batches > c.restarted_with THEN 0 ELSE c.restarts END"
_SILENT = "c.heartbeat <= clock_timestamp() - make_interval(secs => r.takeover_after)"
_DUE = (
    "NOT c.finished AND r.state = 'open' AND r.wanted = 'run' AND r.task <> '' AND ("
    "  c.token = '' AND c.reason = 'resumed'"
    f" OR {_SILENT} AND (c.token <> '' OR c.reason IN ('', 'shutdown', 'stopped', 'paused'))"
    " AND (c.restarted IS NULL OR c.restarted <= clock_timestamp() - make_interval(secs =>"
    f" r.takeover_after * power(2, least({LONGEST_BACKOFF}, {_IN_VAIN}))))"
    f") AND {_IN_VAIN} <= %(limit)s"
)

# Who holds the row is in the middle of a batch, and so as alive as can be: skipped, not waited for.
_CLAIM = (
    f"UPDATE {_CHECKPOINTS} SET restarted = clock_timestamp(), restarted_with = batches, "  # noqa: S608
    "restarts = CASE WHEN reason = 'resumed' THEN 0 ELSE due.in_vain + 1 END, "
    "reason = CASE WHEN token = '' THEN '' ELSE reason END FROM ("
    f"SELECT c.id AS checkpoint, {_IN_VAIN} AS in_vain, r.name, r.task, r.arguments, r.parts "
    f"FROM {_CHECKPOINTS} c JOIN {_RUNS} r ON r.id = c.run_id "
    f"WHERE {_DUE} AND (%(run)s::text IS NULL OR r.name = %(run)s) "
    "AND EXISTS (SELECT FROM unnest(%(prefixes)s::text[]) AS p WHERE starts_with(r.task, p)) "
    f"ORDER BY c.id LIMIT {MOST} FOR UPDATE OF c SKIP LOCKED"
    ") AS due WHERE id = due.checkpoint "
    "RETURNING id, due.name, due.task, due.arguments::text, part, due.parts, runner, restarts, batches"
)


@dataclass(frozen=True, slots=True)
class _Claimed:
    checkpoint: int
    start: Start
    runner: str
    restarts: int
    batches: int


def reap(using: str | None = None) -> list[str]:
    """
    Send again what has lost its runner, by the starters that this process knows; end what was cancelled and has nobody
    to end it; forget what is too old. To be called now and then by processes that know how tasks are sent; any number
    of them may.

    Args:
        using: database alias; default: "default".

    Returns:
        Names of the runs that were sent again, each as often as it has parts that were.

    Raises:
        OperationalError: the database is away. Where the tables are missing nothing happens.

    Example:
        for alias in batch.databases():
            batch.reap(alias)
    """
    alias = using or DEFAULT_DB_ALIAS
    try:
        with tables_of(alias):
            end_cancelled(alias)
            started = restart(alias)
            _tidy(alias)
    except ImproperlyConfigured as error:
        logger.debug("database %r: %s", alias, error)
        return []
    return started


def restart(alias: str, name: str | None = None) -> list[str]:
    """
    Claim the parts that are due, and send them.

    Args:
        name: only those of this run.

    Returns:
        Names of the runs.
    """
    limit = project_config().batch_restarts
    started = []
    for claimed in _claim(alias, limit, name):
        if claimed.restarts > limit:
            logger.error(
                "%s: given up: its runner (%s) is gone, it was sent again %d times, and not one batch was done. "
                "`manage.py dbpool batches resume` begins anew",
                _title(claimed.start),
                claimed.runner or "none yet",
                limit,
            )
        elif _send(alias, claimed):
            started.append(claimed.start.name)
    return started


def _claim(alias: str, limit: int, name: str | None) -> list[_Claimed]:
    if not prefixes():
        return []
    with connections[alias].cursor() as cursor:
        cursor.execute(_CLAIM, {"limit": limit, "run": name, "prefixes": prefixes()})
        rows: list[Any] = cursor.fetchall()
    return [
        _Claimed(
            pk,
            # resume() alone begins to count anew.
            Start(run, alias, task, json.loads(arguments), part, parts, resumed=restarts == 0),
            runner,
            restarts,
            batches,
        )
        for pk, run, task, arguments, part, parts, runner, restarts, batches in rows
    ]


def _send(alias: str, claimed: _Claimed) -> bool:
    """Holding nothing: a message broker may take its time."""
    starter = starter_of(claimed.start.task)
    assert starter is not None
    try:
        starter(claimed.start)
    except Exception:
        logger.exception("%s: could not be sent again; it is tried again later", _title(claimed.start))
        # That the queue is away is no fault of the run's.
        mine = BatchCheckpoint.objects.using(alias).filter(pk=claimed.checkpoint, restarts=claimed.restarts)
        mine.update(restarts=max(0, claimed.restarts - 1))
        return False
    logger.warning(
        "%s: sent again (%d), last runner: %s, batches so far: %d",
        _title(claimed.start),
        claimed.restarts,
        claimed.runner or "none",
        claimed.batches,
    )
    return True


def _title(start: Start) -> str:
    return f"batch run {start.name!r}" + (f" part {start.part} of {start.parts}" if start.parts > 1 else "")


def end_cancelled(alias: str, name: str | None = None) -> None:
    """
    What was cancelled is ended by its runners. Where there is none, or none that lives, this does it.

    Args:
        name: only this run.
    """
    wanted = BatchRun.objects.using(alias).filter(state=BatchRun.State.OPEN, wanted=BatchRun.Wanted.CANCEL)
    wanted = wanted if name is None else wanted.filter(name=name)
    for pk in wanted.values_list("pk", flat=True):
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute(_END_PARTS, [pk, pk])
            cursor.execute(_END_RUN, [pk, pk])


# Who lives ends its part itself. The run's row first, as a runner at its own end does.
_END_PARTS = (
    f"WITH run AS MATERIALIZED (SELECT id, takeover_after FROM {_RUNS} WHERE id = %s AND state = 'open' FOR UPDATE), "  # noqa: S608
    f"free AS MATERIALIZED (SELECT c.id FROM {_CHECKPOINTS} c JOIN run r ON r.id = c.run_id "
    f"WHERE c.run_id = %s AND NOT c.finished AND (c.token = '' OR {_SILENT}) FOR UPDATE OF c SKIP LOCKED) "
    f"UPDATE {_CHECKPOINTS} SET finished = true, reason = 'cancelled', token = '' WHERE id IN (SELECT id FROM free)"
)
_END_RUN = (
    f"UPDATE {_RUNS} SET state = 'cancelled', ended = clock_timestamp() WHERE id = %s AND state = 'open' "  # noqa: S608
    f"AND wanted = 'cancel' AND NOT EXISTS (SELECT FROM {_CHECKPOINTS} WHERE run_id = %s AND NOT finished)"
)


def dead_runs(using: str | None = None, takeover_after: float | None = None) -> list[tuple[RunStatus, PartStatus]]:
    """
    What somebody should look at: parts whose runner is dead or that were given up, of runs that are wanted.

    Args:
        using: database alias; default: "default".
        takeover_after: seconds without a sign of life; default: what the run says.

    Raises:
        ImproperlyConfigured: the tables are missing there.
    """
    found = []
    for run in runs(using, "open"):
        limit = run.takeover_after if takeover_after is None else takeover_after
        for part in run.ranges:
            silent = part.condition == "running" and not part.in_batch and part.heartbeat_age >= limit
            if part.condition in ("dead", "given up") or silent:
                found.append((run, part))
    return found


def _tidy(alias: str) -> None:
    days = project_config().batch_retention
    if days is None or monotonic() - _tidied.get(alias, -TIDY_EVERY) < TIDY_EVERY:
        return
    _tidied[alias] = monotonic()
    if deleted := delete_old(days, alias):
        logger.info("database %r: %d batch runs that ended more than %d days ago were forgotten", alias, deleted, days)
