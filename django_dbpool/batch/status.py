"""How runs are, as their rows say: read without a lock, so that who looks never gets in a runner's way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, ProgrammingError, connections, models, router
from django.db.models import Count
from django.db.models.expressions import RawSQL

from ..backends.losses import driver_error
from ..conf import project_config
from ..models import BatchCheckpoint, BatchFailure, BatchRun
from .errors import BatchRunMissing

UNDEFINED = frozenset({"42P01", "42703"})
"""SQLSTATEs of a table or a column that is not there."""

ALIVE = frozenset({"running", "pausing", "cancelling"})
"""Conditions of what a runner works on at this moment."""
TROUBLE = ("given up", "dead", "failed")
"""Conditions that somebody should know of, the worst first."""
_ORDER = (*TROUBLE, "running", "pausing", "cancelling", "paused", "stopped", "waiting", "done", "cancelled")

_CHECKPOINTS = BatchCheckpoint._meta.db_table


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One range of a run's keys. Most runs have one."""

    part: int
    condition: str
    """
    ``running``, ``pausing``, ``cancelling``: a runner is at work, the last two until its batch at hand is over.
    ``dead``: the runner was not heard of for ``takeover_after``. ``given up``: it was sent again as often as that is
    allowed, and nobody got on with it. ``failed``: an error has ended it. ``paused``, ``stopped``; ``waiting``: nobody
    has begun it yet; ``done``, ``cancelled``.
    """
    runner: str
    """Host, process id and instance of the last one; empty if there was none."""
    heartbeat_age: float
    """Seconds since the runner was heard of, on the server's clock; since it was made where there was none."""
    in_batch: bool
    """A transaction holds the row at this moment, which is a sign of life however old the heartbeat is."""
    done: int
    failed: int
    batches: int
    rate: float | None
    """Items a second of the last runner; None if it has not done any."""
    restarts: int
    """How often it was sent again since it last got ahead."""
    reason: str
    """Why the last runner stopped; empty while one is at work."""
    last_key: Any
    upper: Any

    @property
    def alive(self) -> bool:
        return self.condition in ALIVE


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run. Items are counted over all processes that have worked on it."""

    name: str
    using: str
    """Alias of its database."""
    model: str
    key: str
    """Names of the key's fields, with commas between."""
    state: str
    """``open``, ``done`` or ``cancelled``."""
    wanted: str
    """``run``, ``pause`` or ``cancel``."""
    condition: str
    """The worst one of its parts."""
    task: str
    """Name of the task that does it; empty: other code has started it, and starts it again."""
    total: int | None
    done: int
    failed: int
    """Items that were skipped."""
    batches: int
    parts: int
    ranges: tuple[PartStatus, ...]
    """By their number."""
    failures: int
    """Items that are written down with their error; one that was not skipped is among them."""
    rate: float | None
    """Items a second of all runners at work together; None if there is none."""
    seconds_left: float | None
    """At that rate; None if it can't be told."""
    created: datetime
    ended: datetime | None
    takeover_after: float
    """Seconds without a sign of life after which a runner counts as dead."""

    @property
    def runners(self) -> tuple[str, ...]:
        """Who is at work."""
        return tuple(each.runner for each in self.ranges if each.alive)

    @property
    def heartbeat_age(self) -> float | None:
        """Of the runner at work that was heard of the longest time ago; of the last one where there is none."""
        at_work = [each.heartbeat_age for each in self.ranges if each.alive]
        rest = [each.heartbeat_age for each in self.ranges if each.runner]
        return max(at_work) if at_work else min(rest, default=None)

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where the total is not known."""
        if self.state == BatchRun.State.DONE:
            return 1.0
        if self.total is None:
            return None
        return min(1.0, (self.done + self.failed) / self.total) if self.total else 1.0

    def to_json(self) -> dict[str, Any]:
        """For ``json.dumps``; times as ISO 8601."""
        known = dataclasses.asdict(self)
        known["created"] = self.created.isoformat()
        known["ended"] = self.ended.isoformat() if self.ended else None
        known["runners"] = list(self.runners)
        known["heartbeat_age"] = self.heartbeat_age
        known["share"] = self.share
        known["ranges"] = [
            {**each, "alive": part.alive} for each, part in zip(known["ranges"], self.ranges, strict=True)
        ]
        return known


def databases() -> list[str]:
    """Aliases on which runs may be remembered: PostgreSQL, and no router keeps the tables off."""
    return [
        alias
        for alias in connections
        if connections[alias].vendor == "postgresql" and router.allow_migrate_model(alias, BatchRun)
    ]


TABLES = (
    f"(SELECT concat_ws(' ', s.system_identifier, d.oid, to_regclass('{BatchRun._meta.db_table}')::oid)"  # noqa: S608
    " FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database())"
)
"""SQL that tells the tables of a database from all others', by whichever alias and address they are reached."""


def distinct(aliases: Iterable[str]) -> list[str]:
    """
    Of aliases of the same tables the first one.

    Raises:
        DatabaseError: one can't be asked.
    """
    found: dict[str, str] = {}
    for alias in aliases:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {TABLES}")
            found.setdefault(cursor.fetchone()[0], alias)
    return list(found.values())


def status(name: str, using: str | None = None) -> RunStatus:
    """
    How a run is, at this moment.

    Args:
        using: database alias of its rows; default: "default".

    Raises:
        BatchRunMissing: there is none of that name.
        ImproperlyConfigured: the tables are missing there.

    Example:
        >>> status("expire vouchers 2026-11").condition
        'running'
    """
    alias = using or DEFAULT_DB_ALIAS
    found = _statuses(alias, BatchRun.objects.using(alias).filter(name=name))
    if not found:
        raise BatchRunMissing(f"There is no batch run {name!r} on database {alias!r}.")
    return found[0]


def runs(using: str | None = None, state: str | None = None) -> list[RunStatus]:
    """
    All runs of a database, the latest first.

    Args:
        using: database alias; default: "default".
        state: only those that are "open", "done" or "cancelled".

    Raises:
        ValueError: there is no such state.
        ImproperlyConfigured: the tables are missing there.

    Example:
        unhappy = [run.name for run in runs(state="open") if run.condition in ("dead", "failed", "given up")]
    """
    alias = using or DEFAULT_DB_ALIAS
    rows = BatchRun.objects.using(alias).order_by("-pk")
    if state is not None:
        rows = rows.filter(state=BatchRun.State(state))
    return _statuses(alias, rows)


def page_of(using: str, rows: models.QuerySet[BatchRun]) -> list[RunStatus]:
    """Of some rows of ``BatchRun``, in their order."""
    return _statuses(using, rows)


def _statuses(alias: str, rows: models.QuerySet[BatchRun]) -> list[RunStatus]:
    with tables_of(alias):
        found = list(rows)
        ids = [run.pk for run in found]
        parts: dict[int, list[Any]] = {pk: [] for pk in ids}
        for checkpoint in _checkpoints(alias, ids):
            parts[checkpoint.run_id].append(checkpoint)
        failures = _failures(alias, ids)
    limit = project_config().batch_restarts
    return [_status(alias, run, parts[run.pk], failures.get(run.pk, 0), limit) for run in found]


class tables_of:  # noqa: N801  # reads as a phrase: with tables_of(alias)
    """
    Raises:
        ImproperlyConfigured: instead of the server's error, where the tables are missing or of another version.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, ProgrammingError):
            return
        driver = driver_error(error)
        if driver is not None and driver.sqlstate in UNDEFINED:
            raise ImproperlyConfigured(
                f"Database {self._alias!r} has no tables for batch runs, or those of another version. Run "
                f"`manage.py migrate django_dbpool --database={self._alias}`."
            ) from error


def _checkpoints(alias: str, ids: Sequence[int]) -> Iterable[Any]:
    rows = BatchCheckpoint.objects.using(alias).filter(run__in=ids).order_by("run", "part")
    return rows.annotate(
        age=RawSQL(  # noqa: S611
            f"extract(epoch FROM clock_timestamp() - {_CHECKPOINTS}.heartbeat)::float8", [], models.FloatField()
        ),
        worked=RawSQL(  # noqa: S611
            f"extract(epoch FROM {_CHECKPOINTS}.heartbeat - {_CHECKPOINTS}.begun)::float8", [], models.FloatField()
        ),
        held=RawSQL(BatchCheckpoint.in_batch(_CHECKPOINTS), [], models.BooleanField()),  # noqa: S611
    )


def _failures(alias: str, ids: Sequence[int]) -> Mapping[int, int]:
    rows = BatchFailure.objects.using(alias).filter(run__in=ids).values_list("run").annotate(Count("pk"))
    return dict(rows.order_by())


def _status(alias: str, run: BatchRun, checkpoints: Sequence[Any], failures: int, limit: int) -> RunStatus:
    ranges = tuple(_part(run, checkpoint, limit) for checkpoint in checkpoints)
    done, failed = sum(each.done for each in ranges), sum(each.failed for each in ranges)
    rates = [each.rate for each in ranges if each.alive and each.rate]
    rate = sum(rates) if rates else None
    left = None if run.total is None or rate is None else max(0, run.total - done - failed) / rate
    return RunStatus(
        name=run.name,
        using=alias,
        model=run.model,
        key=run.key,
        state=run.state,
        wanted=run.wanted,
        condition=_worst(run, ranges),
        task=run.task,
        total=run.total,
        done=done,
        failed=failed,
        batches=sum(each.batches for each in ranges),
        parts=run.parts,
        ranges=ranges,
        failures=failures,
        rate=rate,
        seconds_left=left,
        created=run.created,
        ended=run.ended,
        takeover_after=run.takeover_after,
    )


def _worst(run: BatchRun, ranges: Sequence[PartStatus]) -> str:
    if run.state != BatchRun.State.OPEN:
        return run.state
    return min((each.condition for each in ranges if each.condition != "done"), key=_ORDER.index, default="waiting")


def _part(run: BatchRun, row: Any, limit: int) -> PartStatus:
    worked, handled = row.worked, row.done + row.failed - row.begun_with
    return PartStatus(
        part=row.part,
        condition=_condition(run, row, limit),
        runner=row.runner,
        heartbeat_age=max(0.0, row.age),
        in_batch=row.held and not row.finished,
        done=row.done,
        failed=row.failed,
        batches=row.batches,
        rate=handled / worked if worked and worked > 0 and handled > 0 else None,
        restarts=0 if row.batches > row.restarted_with else row.restarts,
        reason=row.reason,
        last_key=row.last_key,
        upper=row.upper,
    )


def _condition(run: BatchRun, row: Any, limit: int) -> str:
    if row.finished or run.state != BatchRun.State.OPEN:
        return row.reason if row.reason == BatchRun.State.CANCELLED else BatchRun.State.DONE.value
    if row.token and (row.held or row.age < run.takeover_after):
        return {"pause": "pausing", "cancel": "cancelling"}.get(run.wanted, "running")
    if run.wanted == BatchRun.Wanted.PAUSE:
        return "paused"
    if row.restarts > limit and row.batches <= row.restarted_with:
        return "given up"
    if row.token:
        return "dead"
    if row.reason.startswith("failed"):
        return "failed"
    return "stopped" if row.reason not in ("", "resumed") else "waiting"
