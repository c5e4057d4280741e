"""
Runs of batches, as the databases remember them. Unlike everything else here this is not published by processes: each
database that has the tables is asked, in a few short questions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, models
from django.db.models import Q
from django.db.models.functions import Cast

from ..batch import PartStatus, RunStatus, databases
from ..batch.status import TROUBLE, page_of, tables_of
from ..core.words import one_line
from ..fleet.reading import first_line
from ..models import BatchFailure, BatchRun
from ..transaction import atomic, deadline, reserved
from .page import Page, words_of

PATIENCE = 3.0
"""Seconds for all that one database is asked for one list."""
PER_PAGE = 25
LONGEST_ERROR = 500
STATES = ("open", "trouble", "done", "cancelled")
"""``trouble``: those that are open, and nobody gets on with them."""


@dataclass(frozen=True, slots=True)
class BatchPartRow:
    """One range of a run's keys."""

    part: int
    condition: str
    """running, pausing, cancelling, dead, given up, failed, paused, stopped, waiting, done or cancelled."""
    runner: str
    """Host, process id and instance of the last one."""
    heartbeat_age: float
    """Seconds since it was heard of."""
    in_batch: bool
    """Its transaction is open at this moment."""
    done: int
    failed: int
    batches: int
    rate: float | None
    """Items per second."""
    restarts: int
    """How often it was sent again since it last got ahead."""
    reason: str
    """Why the last runner stopped."""
    last_key: str | None
    """Up to this one everything is done."""
    upper: str | None
    """The last one."""

    @property
    def place(self) -> str:
        """Where the runner is: host and process id, as processes are named elsewhere."""
        host, _, rest = self.runner.partition(" ")
        return f"{host}:{rest.partition(' ')[0]}" if rest else host


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One run. Times are seconds."""

    key: str
    """To name it by in an action."""
    name: str
    alias: str
    """Of its database."""
    model: str
    task: str
    """Which does it; empty: other code does."""
    state: str
    """open, done or cancelled."""
    wanted: str
    """run, pause or cancel."""
    condition: str
    """The worst one of its parts."""
    done: int
    failed: int
    """Items that were skipped."""
    total: int | None
    """All that there were at its start, if that is known."""
    percent: float | None
    batches: int
    rate: float | None
    """Items per second, of all that are at work."""
    seconds_left: float | None
    created: float
    """Unix time, by the clock of its database."""
    ended: float | None
    takeover_after: float
    """So long nothing is heard of a runner that counts as dead."""
    heartbeat_age: float | None
    """Of the one at work that was heard of the longest time ago; where nobody is, of the last one."""
    at_work: int
    """Parts that somebody works on."""
    failures: int
    """Items that are written down with their error."""
    parts: tuple[BatchPartRow, ...]

    @property
    def runners(self) -> tuple[BatchPartRow, ...]:
        """Parts that somebody works on, or should."""
        return tuple(each for each in self.parts if each.condition in ("running", "pausing", "cancelling", "dead"))

    @property
    def title(self) -> str:
        """Its name, as it is shown."""
        return one_line(self.name, 200)

    @property
    def handled(self) -> int:
        """Items that are done or were skipped."""
        return self.done + self.failed

    @property
    def age(self) -> float:
        """Seconds since it was begun."""
        return max(0.0, time.time() - self.created)

    @property
    def took(self) -> float | None:
        """Seconds from its beginning to its end."""
        return None if self.ended is None else max(0.0, self.ended - self.created)

    @property
    def query(self) -> str:
        """Of the address of its page."""
        return urlencode({"alias": self.alias, "name": self.name})

    @property
    def may_pause(self) -> bool:
        return self.state == "open" and self.wanted == "run"

    @property
    def may_resume(self) -> bool:
        return self.state == "open" and (self.wanted != "run" or self.condition in (*TROUBLE, "stopped"))

    @property
    def may_cancel(self) -> bool:
        return self.state == "open" and self.wanted != "cancel"

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchFailureRow:
    """An item that a run could not do."""

    key: str
    skipped: bool
    """The run went on without it."""
    error_type: str
    error: str
    place: str
    """Where in the code it was raised."""
    times: int
    at: float
    """Unix time of the last attempt."""

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, time.time() - self.at)

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Runs, and what could not be asked for them."""

    rows: Page[BatchRow]
    aliases: tuple[str, ...]
    """Databases that may have some."""
    remarks: tuple[str, ...] = ()
    """Databases that can't be asked, and why."""


def batches(*, page: int = 1, q: str = "", alias: str = "", state: str = "", per_page: int = PER_PAGE) -> BatchPage:
    """
    Runs of all databases, the latest first. One that can't be asked is told of in ``remarks``.

    Args:
        page: the first is 1.
        q: words that are all found in name, task or model.
        alias: only this database.
        state: "open", "done", "cancelled", or "trouble": open, and dead, failed or given up.

    Example:
        for run in batches(state="trouble").rows.items:
            print(run.name, run.condition, run.runners)
    """
    known = databases()
    listed: list[_Listed] = []
    missing, remarks = [], []
    for each in known:
        if alias not in ("", each):
            continue
        try:
            with _asking(each):
                listed.append(_listed(each, q, state, max(1, page) * per_page))
        except ImproperlyConfigured as error:
            missing.append(str(error))
        except DatabaseError as error:
            remarks.append(_unreadable(each, error))
    if not listed and not remarks:  # where others have the tables, a database without is as it should be
        remarks += missing
    total = sum(each.total for each in listed)
    pages = max(1, -(-total // per_page))
    if page > pages:
        return batches(page=pages, q=q, alias=alias, state=state, per_page=per_page)
    latest = sorted((row for each in listed for row in each.latest), reverse=True)
    shown = latest[(max(1, page) - 1) * per_page :][:per_page]
    rows = [row for each in known for row in _rows(each, [pk for _, name, pk in shown if name == each], remarks)]
    rows.sort(key=lambda row: row.created, reverse=True)
    return BatchPage(Page(tuple(rows), max(1, page), pages, total, per_page), tuple(known), tuple(remarks))


def batch(name: str, alias: str) -> tuple[BatchRow | None, str]:
    """
    One run with its parts; None where there is none of that name, or it can't be asked for: then the text says why.

    Example:
        run, why = batch("expire vouchers 2026-11", "default")
    """
    if alias not in databases() or "\0" in name:
        return None, ""
    try:
        with _asking(alias):
            return next(map(_row, page_of(alias, BatchRun.objects.using(alias).filter(name=name))), None), ""
    except (DatabaseError, ImproperlyConfigured) as error:
        return None, _unreadable(alias, error)


def batch_failures(
    name: str, alias: str, *, page: int = 1, q: str = "", per_page: int = PER_PAGE
) -> tuple[Page[BatchFailureRow], str]:
    """
    Items that a run could not do, the latest first; and why they can't be told, where they can't.

    Args:
        page: the first is 1.
        q: words that are all found in key, error or place.
    """
    nothing: Page[BatchFailureRow] = Page((), 1, 1, 0, per_page)
    if alias not in databases() or "\0" in name:
        return nothing, ""
    rows = BatchFailure.objects.using(alias).filter(run__name=name).order_by("-created", "-pk")
    rows = rows.annotate(text=Cast("key", models.TextField()))
    for word in words_of(q):
        texts = ("text", "error_type", "error", "place")
        rows = rows.filter(reduce(or_, (Q((f"{each}__icontains", word)) for each in texts)))
    try:
        with _asking(alias):
            total = rows.count()
            pages = max(1, -(-total // per_page))
            number = min(max(1, page), pages)
            items = tuple(map(_failure, rows[(number - 1) * per_page :][:per_page]))
    except (DatabaseError, ImproperlyConfigured) as error:
        return nothing, _unreadable(alias, error)
    return Page(items, number, pages, total, per_page), ""


def key_of_batch(alias: str, name: str) -> str:
    """To name a run by in an action."""
    return json.dumps([alias, name])


def batch_of(key: str) -> tuple[str, str]:
    """
    Alias and name of a key.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(key)
    except RecursionError as error:
        raise ValueError(key) from error
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(each, str) for each in found)):
        raise ValueError(key)
    for each in found:
        each.encode()  # JSON may have half surrogates, which no database takes: a ValueError
    return found[0], found[1]


# -- the questions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Listed:
    total: int
    latest: tuple[tuple[datetime, str, int], ...]
    """When it was made, alias, primary key."""


@contextmanager
def _asking(alias: str) -> Iterator[None]:
    """What somebody looks at while something is wrong must not wait for that, nor break a transaction of theirs."""
    inside = connections[alias].in_atomic_block
    savepoint: AbstractContextManager[Any] = atomic(using=alias) if inside else nullcontext()
    with reserved(), deadline(PATIENCE), tables_of(alias), savepoint:
        yield


def _listed(alias: str, q: str, state: str, most: int) -> _Listed:
    rows = BatchRun.objects.using(alias).order_by("-created", "-pk")
    for word in words_of(q):
        rows = rows.filter(Q(name__icontains=word) | Q(task__icontains=word) | Q(model__icontains=word))
    if state == "trouble":
        rows = rows.filter(state=BatchRun.State.OPEN)
        rows = rows.filter(name__in=[run.name for run in page_of(alias, rows) if run.condition in TROUBLE])
    elif state:
        rows = rows.filter(state=state)
    latest = tuple((created, alias, pk) for created, pk in rows.values_list("created", "pk")[:most])
    return _Listed(len(latest) if len(latest) < most else rows.count(), latest)


def _rows(alias: str, wanted: Sequence[int], remarks: list[str]) -> list[BatchRow]:
    if not wanted:
        return []
    try:
        with _asking(alias):
            return [_row(run) for run in page_of(alias, BatchRun.objects.using(alias).filter(pk__in=wanted))]
    except (DatabaseError, ImproperlyConfigured) as error:
        remarks.append(_unreadable(alias, error))
        return []


def _unreadable(alias: str, error: Exception) -> str:
    if isinstance(error, ImproperlyConfigured):
        return str(error)
    return f"Database {alias!r} can't be asked for its batch runs: {first_line(error)}"


def _row(run: RunStatus) -> BatchRow:
    return BatchRow(
        key=key_of_batch(run.using, run.name),
        name=run.name,
        alias=run.using,
        model=one_line(run.model),
        task=one_line(run.task),
        state=run.state,
        wanted=run.wanted,
        condition=run.condition,
        done=run.done,
        failed=run.failed,
        total=run.total,
        percent=None if run.share is None else 100 * run.share,
        batches=run.batches,
        rate=run.rate,
        seconds_left=run.seconds_left,
        created=run.created.timestamp(),
        ended=run.ended.timestamp() if run.ended else None,
        takeover_after=run.takeover_after,
        heartbeat_age=run.heartbeat_age,
        at_work=len(run.runners),
        failures=run.failures,
        parts=tuple(map(_part, run.ranges)),
    )


def _part(part: PartStatus) -> BatchPartRow:
    values = {each.name: getattr(part, each.name) for each in fields(BatchPartRow)}
    told = {"last_key": _key(part.last_key), "upper": _key(part.upper)}
    return BatchPartRow(**{**values, **told, "runner": one_line(part.runner), "reason": one_line(part.reason)})


def _key(stored: Any) -> str | None:
    """Of one field its value, of several all."""
    if stored is None:
        return None
    return one_line(", ".join(each if isinstance(each, str) else json.dumps(each) for each in stored))


def _failure(row: BatchFailure) -> BatchFailureRow:
    return BatchFailureRow(
        key=_key(row.key) or "",
        skipped=row.skipped,
        error_type=one_line(row.error_type),
        error=one_line(row.error, LONGEST_ERROR),
        place=one_line(row.place),
        times=row.times,
        at=row.created.timestamp(),
    )
