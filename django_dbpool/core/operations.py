"""
Operations: pieces of work that somebody may want to watch, with a name, a beginning and perhaps a measure of progress.

The records of this process: what runs, and the last that have ended. Who holds which connection on whose behalf is
looked at from outside, see ``django_dbpool.operations``; nothing here is asked or told by a lease.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import unicodedata
from _thread import get_ident
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from .ledger import begin_unit, current_unit, label_of, name_of, thread_units, unit_labels, unit_names
from .process import this_process
from .readers import shown

Kind = Literal["request", "task", "command", "operation", "thread"]
State = Literal["running", "done", "failed", "cancelled", "ended"]

KEPT = 100
"""Operations that are remembered after their end."""

LOOK_EVERY = 1.0
"""Seconds between two looks at who holds what."""

IDLE_AFTER = 1.0
"""Seconds without a statement after which a connection that is held counts as held idle."""

LONGEST_NAME = 200
LONGEST_TAG = 100
MOST_TAGS = 20


def clean(text: str, longest: int = LONGEST_NAME) -> str:
    """
    A text that may be written into a log or a terminal: of bounded length, on one line, and without characters that
    are not seen or change what others look like (control characters, bidirectional marks, lone surrogates).
    """
    text = text[: longest + 1]  # a hostile text may be long
    text = "".join("\ufffd" if unicodedata.category(each)[0] in "CZ" and each != " " else each for each in text)
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def clean_name(call: str, name: object) -> str:
    """
    Raises:
        TypeError: it is no string.
        ValueError: it is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"{call}(name={shown(name)}): name must be a string.")
    if not name.strip():
        raise ValueError(f"{call}(name={shown(name)}): name must not be empty.")
    return clean(name)


def clean_tags(call: str, tags: object) -> Mapping[str, str]:
    """
    Raises:
        TypeError: it is no mapping of strings to strings.
        ValueError: there are too many.
    """
    if tags is None:
        return _NO_TAGS
    if not isinstance(tags, Mapping):
        raise TypeError(f'{call}(tags={shown(tags)}): tags must be a mapping, as in {{"customer": "7"}}.')
    if len(tags) > MOST_TAGS:
        raise ValueError(f"{call}(tags=...): {len(tags)} tags are too many, at most {MOST_TAGS}.")
    for key, value in tags.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"{call}(tags={shown(tags)}): tags must be strings; write str({shown(value)}).")
    return MappingProxyType({clean(key, LONGEST_TAG): clean(value, LONGEST_TAG) for key, value in tags.items()})


_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is, as it says itself; whatever its unit is."""

    done: float
    total: float | None
    rate: float
    """Per second, since the operation began."""
    seconds_left: float | None
    """At that rate; None where it can't be told."""


@dataclass(frozen=True, slots=True)
class Held:
    """One connection that an operation holds now."""

    alias: str
    backend_pid: int
    generation: int
    """Of the lease: with it ``operations.cancel`` and ``terminate`` can be aimed."""
    seconds: float
    state: str
    """Of the transaction: idle, running, idle in transaction, failed transaction, lost."""
    statements: int
    """Begun in this lease."""
    pinned: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as it was at one moment; of one that has ended, at its end. Times are seconds."""

    id: str
    """Unique among all processes."""
    name: str
    kind: Kind
    state: State
    unit: str | None
    """The request, task or command that it is part of, in words."""
    unit_name: str | None
    """What that has in common with others of its kind: the route, the name of the task."""
    parent: str | None
    """The id of the operation around it, or of the one that started its thread."""
    thread: str
    thread_ident: int
    started: float
    """Unix time. Of requests and tasks: when they were first seen, at most about a second late."""
    seconds: float
    tags: Mapping[str, str]
    progress: Progress | None = None
    held: tuple[Held, ...] = ()
    holding: float | None = None
    """
    Seconds in which it held a connection, sampled: a connection that is held at one of the looks, once a second, was
    held since the look before. None where it was too short to be looked at.
    """
    holds_idle: bool = False
    """
    It holds a connection that has executed nothing for a second or more: a transaction that waits for something else.
    Of one that has ended: it once did.
    """
    error: str | None = None
    """Class of the exception that ended it."""

    @property
    def not_holding(self) -> float | None:
        """Seconds in which it held none."""
        return None if self.holding is None else max(0.0, self.seconds - self.holding)

    @property
    def statements(self) -> int:
        """Begun in the leases that it holds now."""
        return sum(held.statements for held in self.held)

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in Operation.__slots__},  # asdict() can't copy a read-only mapping
            "tags": dict(self.tags),
            "progress": None if self.progress is None else asdict(self.progress),
            "held": [asdict(held) for held in self.held],
            "not_holding": self.not_holding,
            "statements": self.statements,
        }


class Looked(NamedTuple):
    """A lease, as far as a look at its holder cares."""

    key: object
    """Another one after each statement."""
    seconds: float
    idle: bool


class Watch:
    """What looks at an operation have found. Written by one look at a time."""

    __slots__ = ("holding", "idle", "looked", "once_idle")

    def __init__(self) -> None:
        self.looked: float | None = None
        self.holding = 0.0
        self.idle: dict[object, float] = {}
        """
        The leases that executed nothing at the last look, each with the number of its statements, and when that was
        first seen.
        """
        self.once_idle = False

    def look(self, now: float, since: float, leases: Collection[Looked]) -> bool:
        """
        Args:
            since: when to begin, if this is the first look.

        Returns:
            Whether one of the leases has been idle for a while.
        """
        passed = now - (since if self.looked is None else self.looked)
        self.looked = now
        if leases:
            # The looks may have paused, while nobody leased anything.
            oldest = max(lease.seconds for lease in leases)
            self.holding += min(passed, max(oldest, LOOK_EVERY * 1.5))
        self.idle = {lease.key: self.idle.get(lease.key, now) for lease in leases if lease.idle}
        idle = any(now - first >= IDLE_AFTER for first in self.idle.values())
        self.once_idle = self.once_idle or idle
        return idle


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
        tags: Mapping[str, str] = _NO_TAGS,
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


def amount(call: str, name: str, value: object) -> float:
    """
    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{call}({name}={shown(value)}): {name} must be a number.")
    if not 0 <= value < math.inf:
        raise ValueError(f"{call}({name}={shown(value)}): {name} must be 0 or more, and finite.")
    return value


def described(describe: Any, unit: object) -> str | None:
    """A unit's label or name, safe to show; a URLconf that can't be imported is no reason to fail."""
    try:
        text = describe(unit) if unit is not None else None
    except Exception:  # noqa: BLE001  # the project's own code may run: converters, URLconfs
        return f"<{type(unit).__name__}>"
    return None if text is None else clean(text)


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
    outer = label_of(running.outer)
    own = f"{'thread' if running.kind == 'thread' else 'operation'} {running.name!r}"
    return f"{own} in {outer}" if outer else own


def _name(running: Running) -> str | None:
    """Of the route or task around it: that is what it is compared and limited by."""
    outer = running.outer
    return running.name if outer is None else name_of(outer) or running.name


unit_labels[Running] = _label
unit_names[Running] = _name
