"""
Who may use a connection now: exact counts, a fair queue, deadlines.

The gate knows nothing of databases. It hands out *entries* (already open connections) and *permits* (the right
to open one), never more of both together than ``max_size``. Beside these it has a reserve for tickets that are marked
so, counted apart, which nobody else is ever given.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

from .codel import Codel
from .errors import GateClosed
from .groups import Groups
from .ticket import (
    ORDINARY,
    RESERVED,
    DeadlinePassed,
    GroupIsFull,
    QueueIsFull,
    QueueStandsTooLong,
    QueueWasCleared,
    Ticket,
)

__all__ = [
    "CROWD",
    "WAIT_SLICE",
    "DeadlinePassed",
    "Gate",
    "GroupIsFull",
    "QueueIsFull",
    "QueueStandsTooLong",
    "QueueWasCleared",
    "Ticket",
]

E = TypeVar("E")

# A thread that waits in lock.acquire() sees an asynchronous exception (PyThreadState_SetAsyncExc: Celery's thread
# kill, test interrupts) only when the call returns, so a long wait is made of slices.
WAIT_SLICE = 1.0

CROWD = 4
"""Waiters for each connection. A queue that is shorter is no overload, see Codel's ``crowd``."""


class Gate(Generic[E]):
    """
    Counts, queue and free list of one pool.

    ``free`` is a stack: the most recently used connection goes out first, so the surplus grows old and is retired.
    Its pop and append are atomic, which lets the hot path take and give back without the lock. No wake-up is lost
    because both sides write before they read: a giver appends and then looks at ``attention``; a waiter raises
    ``attention`` and then looks at ``free``.

    Args:
        max_size: most connections, without the reserve.
        max_waiting: longest queue; 0: any.
        reserve_size: connections in addition, for reserved tickets that find the others in use.
        codel: refuses ordinary tickets in an overload; None: nobody is refused.
        groups: limits of groups; None: there are none.
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        *,
        max_size: int,
        max_waiting: int = 0,
        reserve_size: int = 0,
        codel: Codel | None = None,
        groups: Groups[E] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.max_size = max_size
        self.ceiling = max_size
        """How many connections the server lets us have, as far as is known; never above max_size."""
        self.suspended = False
        self.max_waiting = max_waiting
        self.free: deque[E] = deque()
        self.size = 0
        """Connections that exist or are being opened, without the reserve. Written under the lock only."""
        self.reserve_size = self.reserve_ceiling = reserve_size
        self.reserve_used = 0
        """The reserve's connections that exist or are being opened. Written under the lock only."""
        self.reserve_free: deque[E] = deque()
        self.permits = 0
        """How many rights to open a connection were ever given; tells whether there were new ones since."""
        self.attention = 0
        """
        Number of queued tickets, one more when closed, suspended or too large, one more when groups have limits. Not
        zero: the hot path must go the slow way.
        """
        self.closed = False
        self._clock = clock
        self.codel = codel
        self.groups = groups
        # Guards size, attention, closed, the queues, groups and codel. Nothing slow and nothing foreign runs under it:
        # no I/O, no logging, no callback. Never taken in a destructor: the collector may run while this thread holds
        # it.
        self._lock = threading.Lock()
        self._queues: tuple[deque[Ticket[E]], ...] = (deque(), deque(), deque())
        """By class: reserved, priority, ordinary."""
        self._note()

    @property
    def waiting(self) -> int:
        """Callers that wait now, also for their group; those that gave up are not among them."""
        return self._queued() + (sum(1 for _ in self.groups.parked()) if self.groups is not None else 0)

    def _queued(self) -> int:
        reserved, priority, ordinary = self._queues
        return len(reserved) + len(priority) + len(ordinary)

    def longest_wait(self) -> float:
        """Seconds for which the first of a queue has waited; 0 when nobody waits. Without the lock: for reports."""
        now, longest = self._clock(), 0.0
        for queue in self._queues:
            with suppress(IndexError):
                longest = max(longest, now - queue[0].queued_at)
        return longest

    def waiters(self) -> tuple[object, ...]:
        """The ``holder`` of every queued ticket, first served first; without those that wait for their group."""
        with self._lock:
            return tuple(ticket.holder for queue in self._queues for ticket in queue)

    def group_waits(self) -> dict[str, tuple[list[object], list[object]]]:
        """By group in which somebody waits: the holders of its members' tickets, and of those that wait."""
        if self.groups is None:
            return {}
        with self._lock:
            return {
                name: (
                    [ticket.holder for ticket in group.members],
                    [ticket.holder for parked in group.parked.values() for ticket in parked],
                )
                for name, group in self.groups.items()
                if group.waiting()
            }

    def group_numbers(self, name: str) -> tuple[int, int, int]:
        """Limit, members and waiting callers of a group."""
        with self._lock:
            group = self.groups.get(name) if self.groups is not None else None
            return (group.limit, len(group.members), group.waiting()) if group is not None else (0, 0, 0)

    def members(self) -> set[Ticket[E]]:
        """The tickets that count against a group's limit."""
        if self.groups is None:
            return set()
        with self._lock:
            return {ticket for _, group in self.groups.items() for ticket in group.members}

    def enter(self, ticket: Ticket[E], deadline: float, while_waiting: Callable[[], None] | None = None) -> E | None:
        """
        Wait for a free entry, or for a permit to open one.

        Args:
            ticket: fresh, the caller's own; on any exception the caller must ``abandon`` it.
            deadline: on the gate's clock.
            while_waiting: called between two slices of the wait, outside the lock.

        Returns:
            A free entry, or None: the caller holds a permit and must open a connection, or ``forfeit`` it.

        Raises:
            QueueIsFull, QueueStandsTooLong, QueueWasCleared, DeadlinePassed, GroupIsFull, GateClosed
        """
        with self._lock:
            if self.closed:
                raise GateClosed
            if self._grant_or_queue(ticket):
                return ticket.entry
            self._note()
            # An entry may have been given back between the look above and the line before this one.
            self._serve()
        return self._wait(ticket, deadline, while_waiting)

    def _grant_or_queue(self, ticket: Ticket[E]) -> bool:
        """Lock held. Whether the ticket was granted at once; else it waits in a queue now."""
        ticket.from_reserve = False
        ticket.refused = None
        group = self.groups.join(ticket) if self.groups is not None and ticket.group is not None else None
        if group is None and not any(self._queues[: ticket.rank + 1]) and self._grant(ticket):
            return True
        ticket.wake.acquire(blocking=False)  # a ticket that comes a second time may have been granted unwoken
        if group is None:
            self._refuse_if_crowded(ticket)
            self._queues[ticket.rank].append(ticket)
        elif self.max_waiting and group.waiting() >= self.max_waiting:
            raise QueueIsFull
        else:
            group.parked[ticket.rank].append(ticket)
        return False

    def _wait(self, ticket: Ticket[E], deadline: float, while_waiting: Callable[[], None] | None) -> E | None:
        while not ticket.wake.acquire(timeout=max(0.0, min(WAIT_SLICE, deadline - self._clock()))):
            late = self._clock() >= deadline
            with self._lock:
                # Somebody who was interrupted may have given something back without waking anybody.
                self._serve()
                if ticket.granted:  # be it in the last moment: take it
                    return ticket.entry
                if ticket.refused is not None:
                    raise ticket.refused
                if self.closed:
                    raise GateClosed
                if late:
                    raise GroupIsFull if self._is_parked(ticket) else DeadlinePassed
            if while_waiting is not None:
                while_waiting()
        if not ticket.granted:
            raise GateClosed if ticket.refused is None else ticket.refused
        return ticket.entry

    def _refuse_if_crowded(self, ticket: Ticket[E]) -> None:
        """Lock held. Reserved tickets are never refused, those with priority only by ``max_waiting``."""
        ticket.queued_at = self._clock()
        if ticket.rank == RESERVED:
            return
        if self.max_waiting and self._queued() >= self.max_waiting:
            raise QueueIsFull
        if ticket.rank == ORDINARY and self.codel is not None and not self.codel.arrive(len(self._queues[ORDINARY])):
            raise QueueStandsTooLong

    def _is_parked(self, ticket: Ticket[E]) -> bool:
        return self.groups is not None and ticket.group is not None and ticket in self.groups.parked()

    def abandon(self, ticket: Ticket[E]) -> E | None:
        """
        Take a ticket back whatever became of it. An entry that was granted is returned to the caller, who decides
        what it is worth; a permit is forfeited here. Harmless when repeated.
        """
        with self._lock:
            if ticket.granted:
                ticket.granted = False
                entry, ticket.entry = ticket.entry, None
                if entry is None:
                    self._uncount(ticket.from_reserve)
                    self._leave(ticket)
                    self._serve()
                else:
                    self._leave(ticket)
                return entry
            queue = self._queues[ticket.rank]
            if ticket in queue:
                queue.remove(ticket)
            self._leave(ticket)
            self._note()
            return None

    def leave(self, ticket: Ticket[E]) -> None:
        """The lease of this ticket ends: somebody else of its group may have one. Harmless when repeated."""
        if self.groups is not None and ticket.group is not None:
            with self._lock:
                self._leave(ticket)

    def _leave(self, ticket: Ticket[E]) -> None:
        """Lock held."""
        if self.groups is not None and ticket.group is not None:
            self.groups.leave(ticket)
            self._serve()

    def give(self, entry: E) -> None:
        """Return an entry to the free stack; the head of the queue gets it at once."""
        self.free.append(entry)
        if self.attention:
            self.serve()

    def give_to_reserve(self, entry: E) -> None:
        """Return an entry of the reserve; a reserved ticket that waits gets it at once."""
        self.reserve_free.append(entry)
        self.serve()

    def serve(self) -> None:
        """Match what is free with who waits. For those that changed ``free`` by themselves."""
        with self._lock:
            self._serve()

    def forfeit(self, from_reserve: bool = False) -> None:
        """A connection is gone, or a permit was not used: somebody else may open one."""
        with self._lock:
            self._uncount(from_reserve)
            self._serve()

    def _uncount(self, from_reserve: bool) -> None:
        """Lock held."""
        if from_reserve:
            self.reserve_used -= 1
        else:
            self.size -= 1

    def grow(self, limit: int) -> bool:
        """Take a permit without queueing if fewer than ``limit`` connections exist and nobody waits."""
        with self._lock:
            if self.closed or self.suspended or self._queued() or self.size >= min(limit, self.ceiling):
                return False
            self.size += 1
            self.permits += 1
            return True

    def counted(self) -> tuple[int, int, int]:
        """``size``, ``reserve_used`` and ``permits``."""
        return self.size, self.reserve_used, self.permits

    def correct(self, counted: tuple[int, int, int], size: int, reserve_used: int) -> bool:
        """Set the counts, unless they are no longer what the caller had read."""
        with self._lock:
            if self.counted() != counted:
                return False
            self.size = size
            self.reserve_used = reserve_used
            self._serve()
            return True

    def resize(self, max_size: int) -> None:
        """Change the limit. Above a lower one nothing is granted until the owner has closed the surplus."""
        with self._lock:
            self.max_size = self.ceiling = max_size
            if self.codel is not None:
                self.codel.keep, self.codel.crowd = max_size, CROWD * max_size
            self._serve()

    @property
    def below_its_size(self) -> bool:
        """The server refused to have as many of us as were wanted."""
        return self.ceiling < self.max_size or self.reserve_ceiling < self.reserve_size

    def lower_ceiling(self, size: int, reserve_used: int = 0) -> None:
        """The server refuses to have more than these of us."""
        with self._lock:
            self.ceiling = max(1, min(self.ceiling, size))
            self.reserve_ceiling = min(self.reserve_ceiling, reserve_used)

    def raise_ceiling(self) -> bool:
        """Try one more; whether there was anything to try."""
        with self._lock:
            if not self.below_its_size:
                return False
            self.ceiling = min(self.ceiling + 1, self.max_size)
            self.reserve_ceiling = self.reserve_size
            self._serve()
            return True

    def suspend(self, suspended: bool) -> None:
        """Send everybody the slow way, where whoever suspended it decides."""
        with self._lock:
            self.suspended = suspended
            self._note()

    def excuse(self) -> None:
        """Those that wait do so because no connection can be made: no reason to refuse them for an overload."""
        if self.codel is not None:
            with self._lock:
                self.codel.excuse()

    def refuse_queued(self) -> None:
        """Send everybody away who waits now."""
        with self._lock:
            for ticket in self._all_waiting():
                ticket.refused = QueueWasCleared
                ticket.wake.release()
            self._note()

    def close(self) -> None:
        """Refuse everybody from now on and wake those that wait. What is free stays for the owner to close."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._note()
            for ticket in self._all_waiting():
                ticket.wake.release()
            self._note()

    def _all_waiting(self) -> Iterator[Ticket[E]]:
        """Lock held. Take them out of their queues, one by one."""
        for queue in self._queues:
            while queue:
                yield queue.popleft()
        if self.groups is not None:
            yield from self.groups.clear()

    def _grant(self, ticket: Ticket[E]) -> bool:
        """Lock held. Give the ticket an entry or a permit, if there is one."""
        if ticket.entry is not None:
            pass  # by somebody who was interrupted before the last line
        elif self.free and self.size <= self.max_size:
            ticket.from_reserve = False  # likewise
            try:
                ticket.entry = self.free.pop()
            except IndexError:  # the hot path took it: it does not hold the lock
                return self._grant(ticket)
        elif self.size < self.ceiling:
            ticket.from_reserve = False
            self.size += 1
            self.permits += 1
        elif ticket.rank != RESERVED or not self._grant_reserve(ticket):
            return False
        ticket.granted = True
        return True

    def _grant_reserve(self, ticket: Ticket[E]) -> bool:
        """Lock held. The same, of the reserve."""
        ticket.from_reserve = True
        try:
            ticket.entry = self.reserve_free.pop()
        except IndexError:
            if self.reserve_used >= self.reserve_ceiling:
                ticket.from_reserve = False
                return False
            self.reserve_used += 1
            self.permits += 1
        return True

    def _serve(self) -> None:
        """Lock held. Serve the queues in order while there is something to give."""
        if self.closed:
            return
        if self.groups is not None:
            self.groups.promote(self._queues, self._clock)
        for queue in self._queues[:ORDINARY]:
            while queue and self._grant(queue[0]):
                queue.popleft().wake.release()
        self._serve_ordinary()
        self._note()

    def _serve_ordinary(self) -> None:
        """Lock held."""
        queue, codel = self._queues[ORDINARY], self.codel
        while queue:
            ticket = queue[0]
            if codel is not None and codel.sheds(self._clock() - ticket.queued_at, len(queue)):
                ticket.refused = QueueStandsTooLong
            elif not self._grant(ticket):
                return
            queue.popleft().wake.release()
            if codel is not None and ticket.granted:
                codel.serve(self._clock() - ticket.queued_at, len(queue))

    def _note(self) -> None:
        """Lock held. Counted anew each time, so that an interrupt between two lines does no lasting harm."""
        exceptional = self.closed or self.suspended or self.size > self.max_size
        self.attention = self._queued() + exceptional + (self.groups is not None)
