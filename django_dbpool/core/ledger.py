"""Who holds what: the record of a lease, and what can be concluded from all records together."""

from __future__ import annotations

import linecache
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

current_unit: ContextVar[object] = ContextVar("dbpool_unit", default=None)
"""
What the code works on behalf of: a request's environ, a task, a command. It is set for each of them and read for
few, so it is turned into words only when a report asks.
"""

unit_labels: dict[type, Callable[[Any], str]] = {}
"""How to name a unit, by its type."""


def label_of(unit: object) -> str | None:
    """For example ``GET /reports/7/ (reports/<int:pk>/)``; None outside of any unit."""
    label = unit_labels.get(type(unit))
    return label(unit) if label is not None else None


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

    def __str__(self) -> str:
        parts = [f"thread {self.thread!r}", f"{self.since_seconds:.1f} s", self.state]
        if self.unit:
            parts.insert(0, self.unit)
        if self.pinned:
            parts.append(f"pinned: {self.pinned}")
        parts.append(f"backend {self.backend_pid}")
        return ", ".join(parts)


# libpq's PGTransactionStatusType, https://www.postgresql.org/docs/current/libpq-status.html
TRANSACTION_STATES = ("idle", "running", "idle in transaction", "failed transaction", "lost")


def stack_of(ident: int, frames: Mapping[int, FrameType]) -> tuple[str, ...]:
    """The calls a thread is in, as ``file:line in function: source``; empty when it has ended."""
    lines = []
    frame = frames.get(ident)
    while frame is not None:
        code = frame.f_code
        source = linecache.getline(code.co_filename, frame.f_lineno).strip()
        lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}: {source}")
        frame = frame.f_back
    return tuple(reversed(lines))


@dataclass(frozen=True, slots=True)
class PoolView:
    """What cycle detection needs to know of one pool."""

    alias: str
    holders: Sequence[Owner]
    waiters: Sequence[Owner]


def find_cycle(start: Owner, waits_for: str, views: Iterable[PoolView]) -> tuple[str, ...]:
    """
    Follow "waits for a connection held by" and "waits for the end of" from ``start`` until it meets itself.

    Args:
        start: the caller whose wait has failed.
        waits_for: alias of the pool it waited for.
        views: all pools of the process.

    Returns:
        One sentence per step of the cycle; empty if the wait may end, as far as the ledger can see. Waits for locks,
        queues and events are invisible here.
    """
    views = tuple(views)
    by_alias: dict[str, list[Owner]] = {}
    waiting_at: dict[int, str] = {}
    for view in views:
        by_alias.setdefault(view.alias, []).extend(view.holders)
        for owner in view.waiters:
            waiting_at[owner.ident] = view.alias
    waiting_at[start.ident] = waits_for
    frames = sys._current_frames()
    names = {owner.ident: owner.thread.name for view in views for owner in (*view.holders, *view.waiters)}
    names[start.ident] = start.thread.name

    def steps(ident: int) -> list[tuple[int, str]]:
        name = names.get(ident, str(ident))
        alias = waiting_at.get(ident)
        if alias is not None:
            return [
                (owner.ident, f"thread {name!r} waits for {alias!r}, held by {owner.thread.name!r}")
                for owner in by_alias.get(alias, ())
            ]
        child = _joins(ident, frames)
        if child is None:
            return []
        names.setdefault(child[0], child[1])
        return [(child[0], f"thread {name!r} waits for thread {child[1]!r} to finish")]

    # A wait for a pool ends as soon as one holder goes on: only those all of whose paths lead to waits are stuck.
    stuck: dict[int, list[tuple[int, str]]] = {}
    found = [start.ident]
    while found:
        ident = found.pop()
        if ident not in stuck:
            stuck[ident] = steps(ident)
            found += [target for target, _ in stuck[ident]]
    while free := [
        i for i, ways in stuck.items() if not ways or any(target not in stuck for target, _ in ways)
    ]:
        for ident in free:
            del stuck[ident]

    seen: set[int] = set()
    path: list[str] = []

    def visit(ident: int) -> bool:
        for target, sentence in stuck.get(ident, ()):
            if target == start.ident:
                path.append(sentence)
                return True
            if target not in seen:
                seen.add(target)
                path.append(sentence)
                if visit(target):
                    return True
                path.pop()
        return False

    return tuple(path) if visit(start.ident) else ()


def _joins(ident: int, frames: Mapping[int, FrameType]) -> tuple[int, str] | None:
    """The thread that thread ``ident`` waits for in ``Thread.join`` or ``Future.result``, from its frames."""
    frame = frames.get(ident)
    while frame is not None:
        target = frame.f_locals.get("self")
        if frame.f_code is threading.Thread.join.__code__ and isinstance(target, threading.Thread):
            return (target.ident or 0, target.name)
        if isinstance(target, Future) and frame.f_code is Future.result.__code__:
            return _runner_of(target, frames)
        frame = frame.f_back
    return None


def _runner_of(future: Future[object], frames: Mapping[int, FrameType]) -> tuple[int, str] | None:
    """The thread that executes ``future``: the one with an executor's work item for it on its stack."""
    for ident, leaf in frames.items():
        frame: FrameType | None = leaf
        while frame is not None:
            item = frame.f_locals.get("self") if frame.f_code.co_name == "run" else None
            if getattr(item, "future", None) is future:
                names = {thread.ident: thread.name for thread in threading.enumerate()}
                return (ident, names.get(ident, str(ident)))
            frame = frame.f_back
    return None
