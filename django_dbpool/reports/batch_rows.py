"""
Runs of batches, as the databases remember them. Unlike everything else here this is not published by processes: each
database that has the tables is asked, in a few short questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, models
from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast

from ..batch import databases
from ..batch.status import TABLES, TROUBLE, page_of, tables_of
from ..fleet.reading import first_line
from ..models import BatchFailure, BatchRun
from ..transaction import atomic, deadline, reserved
from .batch_shown import BatchFailureRow, BatchRow, failure_of, row_of
from .page import Page, words_of

PATIENCE = 3.0
"""Seconds for all that one database is asked for one list."""
PER_PAGE = 25
DEEPEST = 10_000
"""Runs that one leafs through. Of each of them at least the key has to be read."""
STATES = ("open", "trouble", "done", "cancelled")
"""``trouble``: those that are open, and nobody gets on with them."""


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
    Runs of all databases, the latest first, and those of a database with two aliases under the first. One that can't
    be asked is told of in ``remarks``. The list ends after the latest 10,000; ``q`` and ``state`` find older ones.

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
    found: dict[str, _Listed] = {}
    missing, remarks = [], []
    for each in known:
        if alias not in ("", each):
            continue
        try:
            with _asking(each):
                one = _listed(each, q, state, min(max(1, page) * per_page, DEEPEST))
                found.setdefault(one.tables, one)
        except ImproperlyConfigured as error:
            missing.append(str(error))
        except DatabaseError as error:
            remarks.append(_unreadable(each, error))
    listed = found.values()
    if not listed and not remarks:  # where others have the tables, a database without is as it should be
        remarks += missing
    total = sum(each.total for each in listed)
    pages = max(1, -(-min(total, DEEPEST) // per_page))
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
            return next(map(row_of, page_of(alias, BatchRun.objects.using(alias).filter(name=name))), None), ""
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
            items = tuple(map(failure_of, rows[(number - 1) * per_page :][:per_page]))
    except (DatabaseError, ImproperlyConfigured) as error:
        return nothing, _unreadable(alias, error)
    return Page(items, number, pages, total, per_page), ""


# -- the questions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Listed:
    total: int
    latest: tuple[tuple[datetime, str, int], ...]
    """When it was made, alias, primary key."""
    tables: str
    """The same under another alias of this database; empty where nothing was found."""


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
    keys = rows.annotate(tables=RawSQL(TABLES, [], models.TextField()))  # noqa: S611
    read = tuple(keys.values_list("created", "pk", "tables")[:most])
    latest = tuple((created, alias, pk) for created, pk, _ in read)
    return _Listed(len(read) if len(read) < most else rows.count(), latest, read[0][2] if read else "")


def _rows(alias: str, wanted: Sequence[int], remarks: list[str]) -> list[BatchRow]:
    if not wanted:
        return []
    try:
        with _asking(alias):
            return [row_of(run) for run in page_of(alias, BatchRun.objects.using(alias).filter(pk__in=wanted))]
    except (DatabaseError, ImproperlyConfigured) as error:
        remarks.append(_unreadable(alias, error))
        return []


def _unreadable(alias: str, error: Exception) -> str:
    if isinstance(error, ImproperlyConfigured):
        return str(error)
    return f"Database {alias!r} can't be asked for its batch runs: {first_line(error)}"
