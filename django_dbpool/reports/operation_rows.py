"""What runs, and what has lately ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ..fleet import Process
from .holder_rows import key_of
from .page import PER_PAGE, Page, matches, page_of, words_of
from .reading import Fleet
from .told import Told, told


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation: a request, a task, a command, a thread, or what the project calls one. Times are seconds."""

    id: str
    process: str
    instance: str
    name: str
    kind: str
    state: str
    """running, done, failed, cancelled, or ended: nobody says how."""
    unit: str | None
    """The request or task that it is part of."""
    thread: str
    started: float
    """Unix time, by the clock of its host."""
    seconds: float
    """Up to now; of one that has ended, to its end."""
    ended_ago: float | None
    done: float | None
    total: float | None
    rate: float | None
    """Per second."""
    seconds_left: float | None
    percent: float | None
    held: int
    """Connections that it holds."""
    keys: tuple[str, ...]
    """Of these leases, as a holder's."""
    holding: float | None
    """Seconds in which it held one, sampled."""
    holds_idle: bool
    """It holds one on which nothing has been executed for a second or more; of one that has ended: it once did."""
    error: str | None
    """Class of the exception that ended it."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


class _Found(NamedTuple):
    process: Process
    told: Told
    running: bool
    order: float


def operations(
    fleet: Fleet, *, page: int = 1, q: str = "", running: bool = True, kind: str = "", per_page: int = PER_PAGE
) -> Page[OperationRow]:
    """
    Of each process the 50 oldest that run, or the last 50 that have ended.

    Args:
        page: the first is 1.
        q: words that are all found in name, request or task, thread, tags or process.
        running: those that run, the longest first; else those that have ended, the latest first.
        kind: "request", "task", "command", "operation" or "thread"; all when empty.
    """
    words = words_of(q)
    found = [
        each
        for each in _found(fleet, running)
        if kind in ("", each.told.text("kind")) and (not words or matches(words, *_texts(each)))
    ]
    found.sort(key=lambda each: each.order)
    return page_of(found, page, _row, per_page)


def _found(fleet: Fleet, running: bool) -> Iterator[_Found]:
    for process in fleet.processes:
        for each in told(process, "operations" if running else "operations_ended"):
            order = -(each.number("seconds") + process.age) if running else each.number("ago") + process.age
            yield _Found(process, each, running, order)


def _texts(found: _Found) -> tuple[object, ...]:
    each = found.told
    names = (each.text(key) for key in ("id", "name", "kind", "state", "unit", "thread", "error"))
    return (found.process.name, *names, *(text for item in each.mapping("tags").items() for text in item))


def _row(found: _Found) -> OperationRow:
    process, each, running, _ = found
    progress = each.part("progress")
    done = progress.number("done") if progress is not None else None
    total = progress.number_or_none("total") if progress is not None else None
    keys = tuple(
        key_of(process.identity.instance, held.text("alias"), held.count("backend_pid"), held.count("generation"))
        for held in each.each("held")
    )
    return OperationRow(
        id=each.text("id"),
        process=process.name,
        instance=process.identity.instance,
        name=each.text("name"),
        kind=each.text("kind"),
        state=each.text("state"),
        unit=each.text_or_none("unit"),
        thread=each.text("thread"),
        started=each.number("started"),
        seconds=each.number("seconds") + (process.age if running else 0.0),
        ended_ago=None if running else each.number("ago") + process.age,
        done=done,
        total=total,
        rate=progress.number("rate") if progress is not None else None,
        seconds_left=progress.number_or_none("seconds_left") if progress is not None else None,
        percent=min(100.0, 100 * done / total) if done is not None and total else None,
        held=len(keys),
        keys=keys,
        holding=each.number_or_none("holding"),
        holds_idle=each.flag("holds_idle"),
        error=each.text_or_none("error"),
        tags=each.mapping("tags"),
    )
