"""How a runner gets a run, or a part of one: by its token in the row, if nobody else's is there that may be alive."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, connections, models
from django.db.models import ExpressionWrapper, F
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from ..backends.losses import driver_error
from ..core.process import this_process
from ..models import BatchCheckpoint, BatchRun
from .errors import BatchRunMismatch, BatchRunTaken
from .extent import share
from .keys import Key, Keys
from .origin import Origin

UNDEFINED_TABLE = "42P01"


@dataclass
class Place:
    """Where a run is, as this runner knows it; of one that is divided, where its part is."""

    last: Keys | None = None
    """Up to this key everything is done."""
    stored: str | None = None
    """The same as the server has it."""
    lower: Keys | None = None
    """Keys are greater; None: it begins with the first one."""
    upper: Keys | None = None
    """The end; None if there are no rows."""
    done: int = 0
    failed: int = 0
    total: int | None = None
    resumed: bool = False
    ended: str = ""
    """State of a run that had ended before."""
    wanted: str = BatchRun.Wanted.RUN


@dataclass
class Claim:
    """The rows of one run, and which of them are this runner's."""

    name: str
    alias: str
    key: Key
    takeover_after: float = 60
    part: int | None = None
    """None: the run is not divided."""
    origin: Origin = field(default_factory=Origin)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    run_id: int = 0
    id: int = 0
    """Of the checkpoint."""

    def run(self) -> BatchRun | None:
        """
        The run, whoever has it; None: there is none of that name.

        Raises:
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
                f"run_batches(checkpoint={self.name!r}): database {self.alias!r} has no table "
                f"{BatchRun._meta.db_table}. Run `manage.py migrate --database={self.alias}`: the checkpoint has to be "
                "where the work is."
            ) from error
        if run is not None and (run.model, run.key) != self._about():
            raise BatchRunMismatch(
                f"Batch run {self.name!r} is about {run.model} by {run.key}, not {self.key.model._meta.label} by "
                f"{', '.join(self.key.names)}. Give a run about other rows another name."
            )
        return run

    def find(self) -> Place | None:
        """
        The run, now this runner's; None: there is none of that name. In a transaction.

        Raises:
            BatchRunTaken: another runner is at work.
            BatchRunMismatch: it is about other rows, or divided in another way.
            ImproperlyConfigured: the tables are missing.
        """
        run = self.run()
        if run is None:
            if self.part:
                raise BatchRunMismatch(
                    f"There is no batch run {self.name!r} that part {self.part} could be of: split() makes it."
                )
            return None
        if not (0 <= self.part < run.parts if self.part is not None else run.parts == 1):
            raise BatchRunMismatch(
                f"Batch run {self.name!r} has {run.parts} parts, numbered from 0: run_batches(part=...) takes one of "
                f"these, not {self.part}."
            )
        self.run_id = run.pk
        return self._take(run)

    def create(self, upper: Keys | None, total: int | None) -> Place | None:
        """The run, begun by this runner; None: somebody has been quicker. In a transaction."""
        if not self.insert([], upper, total):
            return None
        rows = BatchCheckpoint.objects.using(self.alias).filter(run_id=self.run_id, part=0)
        rows.update(token=self.token, runner=runner(), begun=Now())
        self.id = rows.values_list("pk", flat=True)[0]
        return Place(upper=upper, total=total)

    def insert(self, places: Sequence[Keys], upper: Keys | None, total: int | None) -> bool:
        """
        The rows of a run that nobody is at work at. In a transaction.

        Args:
            places: the keys that it is divided at.

        Returns:
            Whether it was made; if not, there is one of that name.
        """
        model, key = self._about()
        bounds: list[Keys | None] = [None, *places, upper]
        made = BatchRun(
            name=self.name,
            model=model,
            key=key,
            total=total,
            parts=len(bounds) - 1,
            task=self.origin.task,
            arguments=dict(self.origin.arguments),
            takeover_after=self.takeover_after,
        )
        # Not get_or_create(): two that begin at once are to meet here, without an error that ends the transaction.
        BatchRun.objects.using(self.alias).bulk_create([made], ignore_conflicts=True)
        run = BatchRun.objects.using(self.alias).filter(name=self.name).values_list("pk", flat=True).first()
        rows = BatchCheckpoint.objects.using(self.alias).filter(run_id=run)
        if run is None or rows.exists():
            return False
        self.run_id = run
        parts = range(made.parts)
        BatchCheckpoint.objects.using(self.alias).bulk_create(BatchCheckpoint(run_id=run, part=part) for part in parts)
        for part in parts:
            ends = {"lower": bounds[part], "upper": bounds[part + 1]}
            given = {name: self._as_json(keys) for name, keys in ends.items() if keys is not None}
            if given:
                rows.filter(part=part).update(**given)
        return True

    def _as_json(self, keys: Keys) -> ExpressionWrapper[RawSQL]:
        connection = connections[self.alias]
        jsonb = RawSQL(self.key.as_jsonb(connection), self.key.prepared(keys, connection))  # noqa: S611
        return ExpressionWrapper(jsonb, output_field=models.JSONField())

    def _take(self, run: BatchRun) -> Place:
        rows = BatchCheckpoint.objects.using(self.alias).filter(run=run, part=self.part or 0)
        # Not waited for: whoever holds the row is in the middle of a batch, and so as alive as can be.
        free = rows.select_for_update(skip_locked=True).annotate(
            age=ExpressionWrapper(Now() - F("heartbeat"), output_field=models.DurationField()),
            **self.key.stored("last_key"),
            **self.key.stored("lower"),
            **self.key.stored("upper"),
            stored=RawSQL("last_key::text", []),
        )
        found: Any = free.first()
        if found is None:
            raise self._taken(rows.values_list("runner", flat=True).first() or "", None)
        total = run.total
        place = Place(
            last=self._keys(found, "last_key"),
            stored=found.stored,
            lower=self._keys(found, "lower"),
            upper=self._keys(found, "upper"),
            done=found.done,
            failed=found.failed,
            total=None if total is None else share(total, run.parts, found.part),
            resumed=bool(found.runner) and found.token != self.token,
            wanted=run.wanted,
        )
        if run.state != BatchRun.State.OPEN or found.finished:
            place.ended = found.reason if run.state == BatchRun.State.OPEN else run.state
            return place
        age = found.age.total_seconds()
        if found.token not in ("", self.token) and age < self.takeover_after:
            raise self._taken(found.runner, age)
        rows.update(
            token=self.token,
            runner=runner(),
            heartbeat=Now(),
            reason="",
            begun=Now(),
            begun_with=F("done") + F("failed"),
        )
        if run.takeover_after != self.takeover_after:
            BatchRun.objects.using(self.alias).filter(pk=run.pk).update(takeover_after=self.takeover_after)
        self.id = found.pk
        return place

    def _about(self) -> tuple[str, str]:
        return self.key.model._meta.label, ",".join(self.key.names)

    def _keys(self, row: Any, column: str) -> Keys | None:
        if getattr(row, column) is None:
            return None
        return tuple(getattr(row, name) for name in self.key.stored(column))

    def _taken(self, runner: str, age: float | None) -> BatchRunTaken:
        when = "is in the middle of a batch" if age is None else f"was last heard of {age:.0f} s ago"
        text = (
            f"another runner ({runner or 'unknown'}) has it, which {when}. If it is dead, its run may be taken over "
            f"{self.takeover_after:g} s after that (takeover_after)."
        )
        return BatchRunTaken(self.name, text, runner, age)


def runner() -> str:
    """How a row names this process."""
    return f"{socket.gethostname()[:100]} {os.getpid()} {this_process().instance}"
