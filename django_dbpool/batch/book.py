"""
Where a run is remembered: rows that only the runner whose token is in them may write, and only from the place where it
believes to be. A runner that was given up for dead, or a forked copy of one, finds that nothing matches any more.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from django.db import OperationalError, connections, models, transaction
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from ..backends.losses import driver_error
from ..core.words import one_line
from ..models import BatchCheckpoint, BatchFailure, BatchRun
from .claiming import Claim, Place
from .errors import BatchRunTaken
from .keys import Keys

LONGEST_ERROR = 2000
LOCK_NOT_AVAILABLE = "55P03"

_RUNS = BatchRun._meta.db_table
_CHECKPOINTS = BatchCheckpoint._meta.db_table
_FAILURES = BatchFailure._meta.db_table


_OURS = str(Path(__file__).parents[1])


class StillCommitting(Exception):
    """The transaction whose outcome is asked for has not ended."""


class Book:
    """The rows of one run, or part of one, that is this runner's."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.alias = claim.alias
        self.key = key = claim.key
        alias = claim.alias
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
                [*self.key.prepared(keys, connection), done, failed, self.claim.id, self.claim.token, place.stored],
            )
            row = cursor.fetchone()
        if row is None:
            raise self._lost()
        return row[0], row[1]

    def _lost(self) -> BatchRunTaken:
        rows = BatchCheckpoint.objects.using(self.alias).filter(pk=self.claim.id)
        token, runner = rows.values_list("token", "runner").first() or (None, "")
        if token is None:
            text = "its checkpoint was deleted while it ran."
        elif token == self.claim.token:
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
        return BatchRunTaken(self.claim.name, text, runner)

    def is_at(self, stored: str | None) -> bool:
        """
        Whether a transaction of this runner whose COMMIT nobody has answered was committed. In a transaction.

        Args:
            stored: where the checkpoint is if it was.

        Raises:
            StillCommitting: that transaction has not ended, so nobody knows yet.
            BatchRunTaken: somebody else has the run by now.
        """
        rows = BatchCheckpoint.objects.using(self.alias).filter(pk=self.claim.id)
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
        if found is None or found[0] != self.claim.token:
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
        return BatchCheckpoint.objects.using(self.alias).filter(pk=self.claim.id, token=self.claim.token)

    def note_failure(self, keys: Keys, error: Exception, *, skipped: bool) -> None:
        connection = self._connection
        with connection.cursor() as cursor:
            cursor.execute(
                self._note_failure,
                [
                    self.claim.run_id,
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
            run = BatchRun.objects.using(self.alias).select_for_update().filter(pk=self.claim.run_id)
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
                parts = BatchCheckpoint.objects.using(self.alias).filter(run_id=self.claim.run_id)
                if not parts.filter(finished=False).exists():
                    # Of several parts that were cancelled one may have come to its end before.
                    cancelled = parts.filter(reason=BatchRun.State.CANCELLED).exists()
                    state = BatchRun.State.CANCELLED if cancelled else BatchRun.State.DONE
                    run.filter(state=BatchRun.State.OPEN).update(state=state, ended=Now())


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
