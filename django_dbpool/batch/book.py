"""
Where a run is remembered: rows that only the runner whose token is in them may write, and only from the place where it
believes to be. A runner that was given up for dead, or a forked copy of one, finds that nothing matches any more.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError, connections, models, transaction
from django.db.models import ExpressionWrapper, F
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from ..backends.losses import driver_error
from ..core.process import this_process
from ..core.words import one_line
from ..models import BatchCheckpoint, BatchFailure, BatchRun
from .errors import BatchRunMismatch, BatchRunTaken
from .keys import Key, Keys

LONGEST_ERROR = 2000
UNDEFINED_TABLE = "42P01"
LOCK_NOT_AVAILABLE = "55P03"

_RUNS = BatchRun._meta.db_table
_CHECKPOINTS = BatchCheckpoint._meta.db_table
_FAILURES = BatchFailure._meta.db_table


_OURS = str(Path(__file__).parents[1])


class StillCommitting(Exception):
    """The transaction whose outcome is asked for has not ended."""


@dataclass
class Place:
    """Where a run is, as this runner knows it."""

    last: Keys | None = None
    """Up to this key everything is done."""
    stored: str | None = None
    """The same as the server has it."""
    upper: Keys | None = None
    """The run's end; None if there are no rows."""
    done: int = 0
    failed: int = 0
    total: int | None = None
    resumed: bool = False
    ended: str = ""
    """State of a run that had ended before."""
    wanted: str = BatchRun.Wanted.RUN


class Book:
    """The rows of one run."""

    def __init__(self, name: str, alias: str, key: Key, takeover_after: float) -> None:
        self.name = name
        self.alias = alias
        self.key = key
        self.token = secrets.token_hex(16)
        self._takeover_after = takeover_after
        self._run_id = 0
        self._id = 0
        jsonb = key.as_jsonb(connections[alias])
        self._advance = (
            f"UPDATE {_CHECKPOINTS} SET last_key = {jsonb}, done = done + %s, failed = failed + %s, "  # noqa: S608
            "batches = batches + 1, heartbeat = clock_timestamp() "
            "WHERE id = %s AND token = %s AND NOT finished AND last_key IS NOT DISTINCT FROM %s::jsonb "
            f"RETURNING last_key::text, (SELECT wanted FROM {_RUNS} WHERE id = run_id)"
        )
        self._note_failure = (
            f"INSERT INTO {_FAILURES} (run_id, key, skipped, error_type, error, place, times) "  # noqa: S608
            f"VALUES (%s, {jsonb}, %s, %s, %s, %s, 1) ON CONFLICT (run_id, key) DO UPDATE SET "
            "skipped = excluded.skipped, error_type = excluded.error_type, error = excluded.error, "
            f"place = excluded.place, times = {_FAILURES}.times + 1, created = clock_timestamp()"
        )

    # -- begin ----------------------------------------------------------------------------------------------------

    def find(self) -> Place | None:
        """
        The run, now this runner's; None: there is none of that name. In a transaction.

        Raises:
            BatchRunTaken: another runner is at work.
            BatchRunMismatch: it is about other rows.
            ImproperlyConfigured: the tables are missing.
        """
        try:
            run = BatchRun.objects.using(self.alias).filter(name=self.name).first()
        except ProgrammingError as error:
            driver = driver_error(error)
            if driver is None or driver.sqlstate != UNDEFINED_TABLE:
                raise
            raise ImproperlyConfigured(
                f"run_batches(checkpoint={self.name!r}): database {self.alias!r} has no table {_RUNS}. Run "
                f"`manage.py migrate --database={self.alias}`: the checkpoint has to be where the work is."
            ) from error
        if run is None:
            return None
        self._run_id = run.pk
        if (run.model, run.key) != self._about():
            raise BatchRunMismatch(
                f"Batch run {self.name!r} is about {run.model} by {run.key}, not {self.key.model._meta.label} by "
                f"{', '.join(self.key.names)}. Give a run about other rows another name."
            )
        return self._take(run)

    def create(self, upper: Keys | None, total: int | None) -> Place | None:
        """The run, begun by this runner; None: somebody has been quicker. In a transaction."""
        model, key = self._about()
        made = BatchRun(name=self.name, model=model, key=key, total=total)
        # Not get_or_create(): two that begin at once are to meet here, without an error that ends the transaction.
        BatchRun.objects.using(self.alias).bulk_create([made], ignore_conflicts=True)
        run = BatchRun.objects.using(self.alias).filter(name=self.name).values_list("pk", flat=True).first()
        if run is None:
            return None
        checkpoint = BatchCheckpoint(run_id=run, token=self.token, runner=self._runner())
        BatchCheckpoint.objects.using(self.alias).bulk_create([checkpoint], ignore_conflicts=True)
        rows = BatchCheckpoint.objects.using(self.alias).filter(run_id=run, token=self.token)
        found = rows.values_list("pk", flat=True).first()
        if found is None:
            return None
        self._run_id, self._id = run, found
        if upper is not None:
            jsonb = RawSQL(self.key.as_jsonb(self._connection), self.key.prepared(upper, self._connection))  # noqa: S611
            rows.update(upper=ExpressionWrapper(jsonb, output_field=models.JSONField()))
        return Place(upper=upper, total=total)

    def _take(self, run: BatchRun) -> Place:
        rows = BatchCheckpoint.objects.using(self.alias).filter(run=run, part=0)
        # Not waited for: whoever holds the row is in the middle of a batch, and so as alive as can be.
        free = rows.select_for_update(skip_locked=True).annotate(
            age=ExpressionWrapper(Now() - F("heartbeat"), output_field=models.DurationField()),
            **self.key.stored("last_key"),
            **self.key.stored("upper"),
            stored=RawSQL("last_key::text", []),
        )
        found: Any = free.first()
        if found is None:
            raise self._taken(rows.values_list("runner", flat=True).first() or "", None)
        place = Place(
            last=self._keys(found, "last_key"),
            stored=found.stored,
            upper=self._keys(found, "upper"),
            done=found.done,
            failed=found.failed,
            total=run.total,
            resumed=found.token != self.token,
            wanted=run.wanted,
        )
        if run.state != BatchRun.State.OPEN or found.finished:
            place.ended = run.state
            return place
        age = found.age.total_seconds()
        if found.token not in ("", self.token) and age < self._takeover_after:
            raise self._taken(found.runner, age)
        rows.update(token=self.token, runner=self._runner(), heartbeat=Now(), reason="")
        self._id = found.pk
        return place

    def _about(self) -> tuple[str, str]:
        return self.key.model._meta.label, ",".join(self.key.names)

    def _keys(self, row: Any, column: str) -> Keys | None:
        if getattr(row, column) is None:
            return None
        return tuple(getattr(row, name) for name in self.key.stored(column))

    def _runner(self) -> str:
        return f"{socket.gethostname()[:100]} {os.getpid()} {this_process().instance}"

    def _taken(self, runner: str, age: float | None) -> BatchRunTaken:
        when = "is in the middle of a batch" if age is None else f"was last heard of {age:.0f} s ago"
        text = (
            f"another runner ({runner or 'unknown'}) has it, which {when}. If it is dead, its run may be taken over "
            f"{self._takeover_after:g} s after that (takeover_after)."
        )
        return BatchRunTaken(self.name, text, runner, age)

    @property
    def _connection(self) -> Any:
        return connections[self.alias]

    # -- at work --------------------------------------------------------------------------------------------------

    def advance(self, place: Place, keys: Keys, *, done: int = 0, failed: int = 0) -> tuple[str, str]:
        """
        Move the checkpoint, in the batch's transaction and before its work: from here to the end of the transaction
        nobody else can.

        Returns:
            The key as the server has it, and what is wanted of the run.

        Raises:
            BatchRunTaken: the run is not this runner's any more, or not where it believes it to be.
        """
        connection = self._connection
        with connection.cursor() as cursor:
            cursor.execute(
                self._advance,
                [*self.key.prepared(keys, connection), done, failed, self._id, self.token, place.stored],
            )
            row = cursor.fetchone()
        if row is None:
            raise self._lost()
        return row[0], row[1]

    def _lost(self) -> BatchRunTaken:
        rows = BatchCheckpoint.objects.using(self.alias).filter(pk=self._id)
        token, runner = rows.values_list("token", "runner").first() or (None, "")
        if token is None:
            text = "its checkpoint was deleted while it ran."
        elif token == self.token:
            text = (
                "its checkpoint is not where this runner has left it: a forked copy is at work, or the server has lost "
                "what it had committed (synchronous_commit = off, a failover). This batch was rolled back. The "
                "next start goes on from where the database is."
            )
        else:
            text = (
                f"it is no longer this runner's: {runner or 'somebody'} has taken it over. This batch was rolled back, "
                "and the other one goes on."
            )
        return BatchRunTaken(self.name, text, runner)

    def is_at(self, stored: str | None) -> bool:
        """
        Whether a transaction of this runner whose COMMIT nobody has answered was committed. In a transaction.

        Args:
            stored: where the checkpoint is if it was.

        Raises:
            StillCommitting: that transaction has not ended, so nobody knows yet.
            BatchRunTaken: somebody else has the run by now.
        """
        rows = BatchCheckpoint.objects.using(self.alias).filter(pk=self._id)
        try:
            # The lock, because what is asked about may still be on its way: it holds the row until it ends.
            found = (
                rows.select_for_update(nowait=True)
                .annotate(here=RawSQL("last_key IS NOT DISTINCT FROM %s::jsonb", [stored], models.BooleanField()))
                .values_list("token", "here")
                .first()
            )
        except OperationalError as error:
            driver = driver_error(error)
            if driver is not None and driver.sqlstate == LOCK_NOT_AVAILABLE:
                raise StillCommitting from error
            raise
        if found is None or found[0] != self.token:
            raise self._lost()
        return bool(found[1])

    def heartbeat(self) -> str:
        """
        Say that this runner lives; what is wanted of the run.

        Raises:
            BatchRunTaken: the run is not this runner's any more.
        """
        with transaction.atomic(using=self.alias):
            if self._mine().select_for_update(skip_locked=True).exists():
                self._mine().update(heartbeat=Now())
            # Else a transaction has the row, perhaps one of this runner's that the server is still at.
        wanted = self._mine().values_list("run__wanted", flat=True).first()
        if wanted is None:
            raise self._lost()
        return str(wanted)

    def _mine(self) -> models.QuerySet[BatchCheckpoint]:
        return BatchCheckpoint.objects.using(self.alias).filter(pk=self._id, token=self.token)

    def note_failure(self, keys: Keys, error: Exception, *, skipped: bool) -> None:
        connection = self._connection
        with connection.cursor() as cursor:
            cursor.execute(
                self._note_failure,
                [
                    self._run_id,
                    *self.key.prepared(keys, connection),
                    skipped,
                    f"{type(error).__module__}.{type(error).__qualname__}"[-200:],
                    text_of(error),
                    place_of(error),
                ],
            )

    # -- end ------------------------------------------------------------------------------------------------------

    def finish(self, reason: str) -> None:
        """
        The end of the run, or of this runner's part in it. To do it twice does no harm.

        Args:
            reason: "done" and "cancelled" end the run.

        Raises:
            BatchRunTaken: the run is not this runner's any more.
        """
        ends = reason in (BatchRun.State.DONE, BatchRun.State.CANCELLED)
        with transaction.atomic(using=self.alias):
            run = BatchRun.objects.using(self.alias).select_for_update().filter(pk=self._run_id)
            list(run.values_list("pk"))  # parts that end at the same moment end one after the other
            # Who only stops doesn't wait: a batch whose COMMIT was never answered may have the row for long.
            if not self._mine().select_for_update(skip_locked=not ends).exists():
                if ends:
                    raise self._lost()
                return
            # The token of one that has ended stays, so that who asks again after a lost COMMIT finds it.
            fields = {"finished": True} if ends else {"token": ""}
            self._mine().update(reason=reason, heartbeat=Now(), **fields)
            if ends:
                parts = BatchCheckpoint.objects.using(self.alias).filter(run_id=self._run_id, finished=False)
                if not parts.exists():
                    run.filter(state=BatchRun.State.OPEN).update(state=reason, ended=Now())


def text_of(error: Exception) -> str:
    """Of the server's errors without the detail, which quotes values of rows."""
    driver = driver_error(error)
    text = (driver.diag.message_primary or type(driver).__name__) if driver is not None else str(error)
    return text.replace("\0", "")[:LONGEST_ERROR]


def place_of(error: BaseException) -> str:
    """Where it was raised: the innermost line outside of installed packages, else the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(_OURS)]
    if not frames:
        return ""
    frame = (own or frames)[-1]
    return one_line(f"{frame.filename}:{frame.lineno} in {frame.name}"[-300:], 300)


def key_text(keys: Keys) -> str:
    """For notes and logs."""
    return one_line(json.dumps([str(each) for each in keys], ensure_ascii=False), 200)
