"""Who holds what: the record of a lease, and what can be concluded from all records together."""

from __future__ import annotations

import linecache
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Protocol

from .sqltext import LONGEST
from .words import one_line

current_unit: ContextVar[object] = ContextVar("dbpool_unit", default=None)
"""
What the code works on behalf of: a request's environ, a task, a command. It is set for each of them and read for
few, so it is turned into words only when a report asks.
"""

thread_units: dict[int, object] = {}
"""The same by thread, for leases in whose context it isn't set, and for a shutdown, which waits for them."""


class _Mark:
    """Goes with its thread: of a request whose end nobody reports nothing is left for the next thread of that ident."""

    __slots__ = ("ident",)

    def __init__(self) -> None:
        self.ident = threading.get_ident()

    def __del__(self, pop: Callable[[int, object], object] = thread_units.pop) -> None:
        pop(self.ident, None)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.mark = _Mark()
        self.ident = self.mark.ident


of_thread = _OfThread()


def begin_unit(unit: object) -> None:
    """The calling thread works on behalf of this unit now; None: of none."""
    if unit is None:
        end_unit()
    else:
        thread_units[of_thread.ident] = unit


def running_unit() -> object:
    """What the calling code works on behalf of: as its context says, else its thread; None if neither does."""
    unit = current_unit.get()
    return thread_units.get(threading.get_ident()) if unit is None else unit


def end_unit() -> None:
    """Its work has ended."""
    thread_units.pop(of_thread.ident, None)


def forget_other_threads() -> None:
    """In a forked child, which has one thread."""
    own = thread_units.get(of_thread.ident)
    thread_units.clear()
    if own is not None:
        begin_unit(own)


unit_labels: dict[type, Callable[[Any], str]] = {}
"""How to name a unit, by its type."""


unit_names: dict[type, Callable[[Any], str | None]] = {}
"""What units of one kind have in common, by their type: the route of a request, the name of a task."""


def name_of(unit: object) -> str | None:
    """For example ``reports/<int:pk>/``; None where the unit has no name, or there is none."""
    name = unit_names.get(type(unit))
    return name(unit) if name is not None else None


def label_of(unit: object) -> str | None:
    """For example ``GET /reports/<int:pk>/``; None outside of any unit."""
    label = unit_labels.get(type(unit))
    return one_line(label(unit)) if label is not None else None


def label_and_name(unit: object) -> tuple[str | None, str | None]:
    """
    Both, or None for what can't be found out: a project's code runs for that (the converters of its routes), and what
    it raises must not cost anybody the connection that is being lent, given back or reported.
    """
    label = name = None
    with suppress(Exception):
        label = label_of(unit)
    with suppress(Exception):
        name = name_of(unit)
    return label, name


class Borrower(Protocol):
    """What keeps the lease for a thread: a database wrapper."""

    def holds(self, entry: object) -> bool:
        """Whether it has this connection now."""

    def is_shared(self) -> bool:
        """Whether other threads may use what it holds after the end of the one that leased it."""


class Owner:
    """
    The thread behind a lease, and what keeps the lease for it, if that is known. Made once per database wrapper and
    thread, so that recording a lease is one assignment.
    """

    __slots__ = ("borrower", "ident", "thread")

    def __init__(self, borrower: weakref.ref[Borrower] | None = None) -> None:
        self.thread = threading.current_thread()
        self.ident = threading.get_ident()
        self.borrower = borrower


@dataclass(frozen=True, slots=True)
class Holder:
    """One lease as it was at one moment."""

    alias: str
    backend_pid: int
    thread: str
    thread_ident: int
    unit: str | None
    since_seconds: float
    """Age of the lease."""
    pinned: str | None
    """Why the connection is kept although no transaction needs it."""
    state: str
    """Of the transaction: idle, running, idle in transaction, failed transaction, lost."""
    stack: tuple[str, ...] = ()
    """Where the holder's thread was, outermost call first; no variables."""
    group: str | None = None
    """Whose limit in POOL["groups"] it counts against."""
    reserved: bool = False
    """The connection is one of the reserve."""
    name: str | None = None
    """What the unit has in common with others of its kind: the route, the name of the task."""
    generation: int = -1
    """Number of the lease on its connection: with the backend's pid it tells one lease from the next."""
    statements: int = 0
    """Begun in this lease."""
    sql: str | None = None
    """The last of them, with placeholders for its values."""
    leased_at: tuple[str, ...] = ()
    """Where it was leased, innermost call first, if that was recorded (DBPOOL["LEAK_STACKS"])."""

    def __post_init__(self) -> None:
        # Visitors, and whoever sends tasks, have a hand in these words, and they go into logs and onto screens.
        for name in ("thread", "unit", "pinned", "group", "name"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, one_line(text))
        if self.sql is not None:
            object.__setattr__(self, "sql", one_line(self.sql, LONGEST))

    def __str__(self) -> str:
        parts = [f"thread {self.thread!r}", f"{self.since_seconds:.1f} s", self.state]
        if self.unit:
            parts.insert(0, self.unit)
        if self.group is not None:
            parts.append(f"group {self.group!r}")
        if self.reserved:
            parts.append("in the reserve")
        if self.pinned:
            parts.append(f"pinned: {self.pinned}")
        parts.append(f"backend {self.backend_pid}")
        return ", ".join(parts)


# libpq's PGTransactionStatusType, https://www.postgresql.org/docs/current/libpq-status.html
TRANSACTION_STATES = ("idle", "running", "idle in transaction", "failed transaction", "lost")


def place_of(call: tuple[CodeType, int]) -> str:
    """A call as ``file:line in function: source``."""
    code, line = call
    source = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_qualname}: {source}"


def stack_of(ident: int, frames: Mapping[int, FrameType]) -> tuple[str, ...]:
    """The calls a thread is in, as ``file:line in function: source``; empty when it has ended."""
    lines = []
    frame = frames.get(ident)
    while frame is not None:
        lines.append(place_of((frame.f_code, frame.f_lineno)))
        frame = frame.f_back
    return tuple(reversed(lines))
