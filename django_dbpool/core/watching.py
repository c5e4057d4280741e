"""Operations as whoever watches them sees them: records, and what is concluded from looks at them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["request", "task", "command", "operation", "thread"]
State = Literal["running", "done", "failed", "cancelled", "ended"]

LOOK_EVERY = 1.0
"""Seconds between two looks at who holds what."""

IDLE_AFTER = 1.0
"""Seconds without a statement after which a connection that is held counts as held idle."""


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
