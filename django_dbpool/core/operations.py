"""
Operations: pieces of work that somebody may want to watch, with a name, a beginning and perhaps a measure of progress.

The records of this process: what runs, and the last that have ended. Who holds which connection on whose behalf is
looked at from outside, see ``django_dbpool.operations``; nothing here is asked or told by a lease.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from _thread import get_ident
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any

from .ledger import begin_unit, current_unit, label_of, name_of, thread_units, unit_labels, unit_names
from .names import NO_TAGS, amount
from .process import this_process
from .watching import Held, Kind, Operation, Progress, State, Watch
from .words import one_line

KEPT = 100
"""Operations that are remembered after their end."""


numbers = itertools.count(1)
"""Of the operations of this process."""


class Running:
    """
    An operation while it runs. Its code has it as ``with track_operation(...) as operation``.

    It is a unit of work of the ledger, too: leases are labelled with it.
    """

    __slots__ = (
        "__weakref__",
        "_done",
        "_lock",
        "_of_thread",
        "_total",
        "before",
        "began",
        "id",
        "ident",
        "in_thread",
        "kind",
        "name",
        "origin",
        "outer",
        "parent",
        "registered",
        "started",
        "tags",
        "thread",
        "watch",
    )

    def __init__(
        self,
        name: str,
        kind: Kind,
        *,
        tags: Mapping[str, str] = NO_TAGS,
        total: float | None = None,
        outer: object = None,
        parent: str | None = None,
        origin: tuple[str | None, str | None] | None = None,
        in_thread: bool,
    ) -> None:
        thread = threading.current_thread()
        self.id = f"{this_process().instance}-{next(numbers)}"
        self.name = name
        self.kind = kind
        self.tags = tags
        self.outer = outer
        """The unit that it is part of, which may be an operation."""
        self.parent = parent
        self.origin = origin
        """Label and name of the unit that has started it, if that is not around it."""
        self.before: object = None
        """What was the current unit before."""
        self.in_thread = in_thread
        """The thread that began it does nothing else until its end: it is no event loop's."""
        self.registered = False
        """It is the unit of its thread: a shutdown waits for it."""
        self.thread = thread.name
        self._of_thread = weakref.ref(thread)
        self.ident = get_ident()
        self.started = time.time()
        self.began = monotonic()
        self.watch = Watch()
        self._lock = threading.Lock()
        self._done: float = 0
        self._total = total

    def advance(self, n: float = 1, total: float | None = None) -> None:
        """
        Say that ``n`` more are done; from any thread.

        Args:
            n: of whatever is counted.
            total: how many there are, if that is known only now, or has changed.

        Raises:
            TypeError: it is no number.
            ValueError: it is not finite, or negative.
        """
        n = amount("advance", "n", n)
        total = None if total is None else amount("advance", "total", total)
        with self._lock:
            self._done += n
            if total is not None:
                self._total = total

    def progress(self, seconds: float) -> Progress | None:
        with self._lock:
            done, total = self._done, self._total
        if not done and total is None:
            return None
        rate = done / seconds if seconds > 0 else 0.0
        left = max(0.0, total - done) / rate if total is not None and rate > 0 else None
        return Progress(done, total, rate, left)

    def abandoned(self) -> bool:
        """Whether its thread has ended without its end: a block was interrupted at its very edge, or never closed."""
        thread = self._of_thread()
        return self.in_thread and (thread is None or not thread.is_alive())

    def includes(self, unit: object) -> bool:
        """Whether what is done on behalf of this unit is done on behalf of this operation."""
        while isinstance(unit, Running):
            if unit is self:
                return True
            unit = unit.outer
        return False

    def record(
        self,
        held: tuple[Held, ...] = (),
        *,
        state: State = "running",
        holds_idle: bool = False,
        error: str | None = None,
    ) -> Operation:
        seconds = max(0.0, monotonic() - self.began)
        label, name = self.origin or origin_of(self.outer)
        return Operation(
            id=self.id,
            name=self.name,
            kind=self.kind,
            state=state,
            unit=label,
            unit_name=name,
            parent=self.parent,
            thread=self.thread,
            thread_ident=self.ident,
            started=self.started,
            seconds=seconds,
            tags=self.tags,
            progress=self.progress(seconds),
            held=held,
            holding=None if self.watch.looked is None else min(self.watch.holding, seconds),
            holds_idle=holds_idle,
            error=error,
        )


def described(describe: Any, unit: object) -> str | None:
    """A unit's label or name, safe to show; a URLconf that can't be imported is no reason to fail."""
    try:
        text = describe(unit) if unit is not None else None
    except Exception:  # noqa: BLE001  # the project's own code may run: converters, URLconfs
        return f"<{type(unit).__name__}>"
    return None if text is None else one_line(text)


def origin_of(unit: object) -> tuple[str | None, str | None]:
    """Label and name of the request, task or command around, whatever operations are in between."""
    while isinstance(unit, Running):
        if unit.origin is not None:
            return unit.origin
        unit = unit.outer
    return described(label_of, unit), described(name_of, unit)


def root_of(unit: object) -> object:
    """
    The unit that a shutdown knows: of an operation the request or task around it, or itself if its thread does
    nothing else; None if it knows none, which is no reason to refuse it.
    """
    while isinstance(unit, Running):
        if unit.registered:
            return unit
        unit = unit.outer
    return unit


_running: dict[str, Running] = {}
_ended: deque[Operation] = deque(maxlen=KEPT)


def current() -> Running | None:
    """The innermost operation that this code is part of."""
    unit = current_unit.get()
    return unit if isinstance(unit, Running) else None


def begin(running: Running) -> None:
    """Make it the current unit."""
    running.before = current_unit.get()
    _running[running.id] = running
    current_unit.set(running)
    if running.in_thread and thread_units.get(running.ident) is None:
        running.registered = True
        begin_unit(running)


def end(running: Running, state: State, error: str | None) -> None:
    """Not ``ContextVar.reset()``: an asynchronous generator may end in another context than it began in."""
    if thread_units.get(running.ident) is running:
        thread_units.pop(running.ident, None)
    if running.includes(current_unit.get()):
        current_unit.set(running.before)
    if _running.pop(running.id, None) is not None:
        _ended.append(running.record(state=state, holds_idle=running.watch.once_idle, error=error))


def abandon(running: Running) -> None:
    """Its thread has gone."""
    if _running.pop(running.id, None) is not None:
        _ended.append(running.record(state="ended", holds_idle=running.watch.once_idle))


def remember(operation: Operation) -> None:
    """One that ended without anybody's saying so here."""
    _ended.append(operation)


def explicit() -> tuple[Running, ...]:
    """Those that said so themselves, oldest first."""
    return tuple(_running.values())


def ended() -> tuple[Operation, ...]:
    """The last that have ended, oldest first."""
    return tuple(_ended)


def reset_after_fork() -> None:
    """The threads of the parent's operations did not survive; the forking thread's own goes on as the child's."""
    own = get_ident()
    for running in tuple(_running.values()):
        if running.ident != own:
            del _running[running.id]
        running._lock = threading.Lock()
    _ended.clear()


def _label(running: Running) -> str:
    outer = described(label_of, running.outer)
    own = f"{'thread' if running.kind == 'thread' else 'operation'} {running.name!r}"
    return f"{own} in {outer}" if outer else own


def _name(running: Running) -> str | None:
    """Of the route or task around it: that is what it is compared and limited by."""
    outer = running.outer
    return running.name if outer is None else name_of(outer) or running.name


unit_labels[Running] = _label
unit_names[Running] = _name
