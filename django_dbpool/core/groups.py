"""
Limits for groups of callers, so that batches don't starve pages and one client doesn't take all (a bulkhead).

A caller first joins its group and only then queues for a connection. Whoever finds its group full waits beside the
queue, where it is in nobody's way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .readers import count, nested, optional, reject, shown
from .ticket import ORDINARY, PRIORITY, Ticket

E = TypeVar("E")

UNIT = "unit"
"""Value of ``by``: callers are grouped by what they work for, the route of a request or the name of a task."""

_HINT = (
    'Write {"limits": {"reports/*": 2}}, a route, task name or name of transaction.group() and its connections; '
    "None: no limits."
)


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """``POOL["groups"]``."""

    limits: Mapping[str, int] = field(default_factory=dict)
    """Most connections by name of the group. ``*`` stands for any text; the exact name wins, then the first match."""
    default: int | None = None
    """The limit of each group that isn't named; None: none."""
    by: str | Callable[[Any], object] = UNIT
    """"unit", or a function, or its dotted path: given the unit of work, it returns the name of the group."""

    @classmethod
    def read(cls, raw: Any) -> GroupLimits:
        readers = {"limits": _limits, "default": optional(count(1)), "by": _by}
        values = nested(raw, readers, _HINT)
        if not values.get("limits") and values.get("default") is None:
            raise reject("limits nobody.", _HINT)
        return cls(**values)

    def find(self, name: str) -> tuple[str, int] | None:
        """The group that callers of this name belong to, and its limit; None if nothing limits them."""
        limit = self.limits.get(name)
        if limit is not None:
            return name, limit
        for pattern, limit in self.limits.items():
            if "*" in pattern and _matches(name, pattern):
                return pattern, limit
        return (name, self.default) if self.default is not None else None


def _limits(raw: Any) -> dict[str, int]:
    if not isinstance(raw, Mapping):
        raise reject("is not a dictionary.", _HINT)
    for name, limit in raw.items():
        if not isinstance(name, str) or not name:
            raise reject(f"has a name that is no text: {shown(name)}.", _HINT)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            hint = "Write an integer of at least 1."
            raise reject(f"has a limit for {name!r} that is no count: {shown(limit)}.", hint)
    return dict(raw)


def _by(raw: Any) -> Any:
    if raw == UNIT or callable(raw) or (isinstance(raw, str) and "." in raw):
        return raw
    raise reject(
        "is neither a function nor the dotted path of one.",
        'Write "unit" (route or task name), or "myproject.limits.client_of", a function that takes the unit of work.',
    )


def _matches(name: str, pattern: str) -> bool:
    """Not fnmatch, for which the brackets of a route's regular expression would be a set of characters."""
    first, *rest = pattern.split("*")
    if not name.startswith(first):
        return False
    last = rest.pop()
    at, end = len(first), len(name) - len(last)
    for part in rest:
        found = name.find(part, at, max(at, end))
        if found < 0:
            return False
        at = found + len(part)
    return at <= end and name.endswith(last)


class Group(Generic[E]):
    """Those of one group that have a connection or queue for one, and those that wait until fewer have."""

    __slots__ = ("limit", "members", "parked")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.members: set[Ticket[E]] = set()
        # By class. Callers with a reserved connection have no limit.
        self.parked: dict[int, deque[Ticket[E]]] = {PRIORITY: deque(), ORDINARY: deque()}

    def waiting(self) -> int:
        return sum(map(len, self.parked.values()))


class Groups(Generic[E]):
    """All groups of one gate that have members now. Its methods need the gate's lock, but for ``key_of``."""

    def __init__(self, policy: GroupLimits, name_of: Callable[[Any], object]) -> None:
        self.policy = policy
        self._name_of = name_of
        self._groups: dict[str, Group[E]] = {}
        self._asking = threading.local()

    def key_of(self, marked: str | None, unit: object) -> str | None:
        """
        The group of a caller: the marked one, else what the function says. Runs foreign code, so no lock is held.
        """
        if marked is None:
            if getattr(self._asking, "now", False):
                return None  # the function itself asks the database
            with self._not_again():
                name = self._name_of(unit)
            if name is None:
                return None
            marked = str(name)
        found = self.policy.find(marked)
        return found[0] if found is not None else None

    @contextmanager
    def _not_again(self) -> Iterator[None]:
        self._asking.now = True
        try:
            yield
        finally:
            self._asking.now = False

    def get(self, name: str) -> Group[E] | None:
        return self._groups.get(name)

    def join(self, ticket: Ticket[E]) -> Group[E] | None:
        """Make the ticket a member; the group that it has to wait for instead, if that is full."""
        assert ticket.group is not None
        group = self._groups.get(ticket.group)
        if group is None:
            found = self.policy.find(ticket.group)
            assert found is not None
            group = self._groups[ticket.group] = Group(found[1])
        if ticket not in group.members and (len(group.members) >= group.limit or self._is_behind(ticket, group)):
            return group
        group.members.add(ticket)
        return None

    @staticmethod
    def _is_behind(ticket: Ticket[E], group: Group[E]) -> bool:
        return any(parked and rank <= ticket.rank for rank, parked in group.parked.items())

    def leave(self, ticket: Ticket[E]) -> None:
        """Harmless when repeated."""
        group = self._groups.get(ticket.group or "")
        if group is None:
            return
        group.members.discard(ticket)
        for parked in group.parked.values():
            if ticket in parked:
                parked.remove(ticket)
        if not (group.members or group.waiting()):
            self._groups.pop(ticket.group or "", None)

    def promote(self, queues: tuple[deque[Ticket[E]], ...], now: Callable[[], float]) -> None:
        """
        Let those join and queue up whose groups have room. In an order that an interrupt between any two lines
        leaves whole: the next call goes on from there.
        """
        for group in self._groups.values():
            for rank, parked in group.parked.items():
                while parked:
                    ticket = parked[0]
                    if ticket not in group.members and len(group.members) >= group.limit:
                        break
                    group.members.add(ticket)
                    if ticket not in queues[rank]:
                        ticket.queued_at = now()
                        queues[rank].append(ticket)
                    parked.popleft()

    def parked(self) -> Iterator[Ticket[E]]:
        for group in tuple(self._groups.values()):
            for parked in group.parked.values():
                yield from tuple(parked)

    def items(self) -> list[tuple[str, Group[E]]]:
        return list(self._groups.items())

    def clear(self) -> Iterator[Ticket[E]]:
        """Take everybody out who waits."""
        for group in self._groups.values():
            for parked in group.parked.values():
                while parked:
                    yield parked.popleft()
