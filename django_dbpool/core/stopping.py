"""
The end of a process, announced: whose work may still be finished, and when it is over.

A *unit* is a request or a task that is registered in ``ledger.thread_units``. It may lease many times, so it is units
that are waited for, not leases. Code outside of every unit (a script, a thread of its own) ends with its lease.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from .ledger import Holder, current_unit, thread_units
from .operations import Running, root_of


@dataclass(frozen=True, slots=True)
class ShutdownResult:
    """What became of a shutdown."""

    seconds: float
    """From the first call to the end of the wait."""
    held: tuple[Holder, ...] = ()
    """Leases that were still out, oldest first; each connection is closed when its lease ends."""
    unfinished: tuple[str, ...] = ()
    """Requests and tasks that still ran."""

    @property
    def clean(self) -> bool:
        """Whether everything that had begun could be finished."""
        return not (self.held or self.unfinished)


class Stopping(Exception):
    """The process is being shut down, and this work is new or out of time."""


class Shutdown:
    """
    The shutdown of this process, from its announcement on.

    No lock anywhere: it is announced and waited for in signal handlers, whatever the interrupted code holds.

    Args:
        deadline: on the clock; a later call may move it forward, never back.
        leasing: idents of the threads that hold a lease now.
    """

    def __init__(
        self, deadline: float, leasing: Callable[[], set[int]], clock: Callable[[], float] = monotonic
    ) -> None:
        self.clock = clock
        self.began = clock()
        self.deadline = deadline
        self.over = False
        """Nothing is let through any more."""
        self._leasing = leasing
        self._units = list(thread_units.copy().items())

    def hurry(self, deadline: float) -> None:
        self.deadline = min(self.deadline, deadline)

    def running(self) -> dict[int, object]:
        """The units, by thread, that had begun before and have not ended."""
        return {ident: unit for ident, unit in self._units if thread_units.get(ident) is unit}

    def adopt(self, running: Running, starter: object) -> None:
        """The calling thread has begun an operation. If it was for a unit that may finish, it may as well."""
        if starter is not None and self._has_begun(starter):
            self._units.append((get_ident(), running))

    def _has_begun(self, unit: object) -> bool:
        """Whether it had before the announcement. One that registered in that very moment may not be in the list."""
        return any(unit is begun for _, begun in self._units) or (
            isinstance(unit, Running) and unit.began <= self.began
        )

    def admits(self, *, finishing: bool) -> bool:
        """
        Whether the calling thread may lease.

        Args:
            finishing: it finishes something that others wait for: a commit hook.
        """
        if self.over or self.clock() >= self.deadline:
            return False
        if finishing:
            return True
        ident = get_ident()
        unit = root_of(current_unit.get())
        if unit is None:
            unit = root_of(thread_units.get(ident))
        if unit is not None:
            return self._has_begun(unit)
        # Of no unit. Whoever holds one lease may need another to finish. And while units run it may be their helper.
        return ident in self._leasing() or bool(self.running())
