"""
Who may use a connection now: exact counts, a fair queue, deadlines.

The gate knows nothing of databases. It hands out *entries* (already open connections) and *permits* (the right
to open one), never more of both together than ``max_size``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from .errors import GateClosed

E = TypeVar("E")

# A thread that waits in lock.acquire() sees an asynchronous exception (PyThreadState_SetAsyncExc: Celery's thread
# kill, test interrupts) only when the call returns, so a long wait is made of slices.
WAIT_SLICE = 1.0


class QueueIsFull(Exception):
    """``max_waiting`` tickets are queued already."""


class QueueWasCleared(Exception):
    """Everybody who waited was sent away."""


class DeadlinePassed(Exception):
    """Nothing was granted before the deadline."""


class Ticket(Generic[E]):
    """
    One caller's request. It outlives the call, so that whatever was granted can be given back by ``abandon``
    even when an exception struck between the grant and the caller's next line.
    """

    __slots__ = ("entry", "granted", "holder", "priority", "sent_away", "wake")

    def __init__(self, holder: object = None, priority: bool = False) -> None:
        self.holder = holder
        self.priority = priority
        self.granted = False
        self.sent_away = False
        self.entry: E | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class Gate(Generic[E]):
    """
    Counts, queue and free list of one pool.

    ``free`` is a stack: the most recently used connection goes out first, so the surplus grows old and is retired.
    Its pop and append are atomic, which lets the hot path take and give back without the lock. No wake-up is lost
    because both sides write before they read: a giver appends and then looks at ``attention``; a waiter raises
    ``attention`` and then looks at ``free``.
    """

    def __init__(self, *, max_size: int, max_waiting: int = 0, clock: Callable[[], float] = monotonic) -> None:
        self.max_size = max_size
        self.ceiling = max_size
        """How many connections the server lets us have, as far as is known; never above max_size."""
        self.suspended = False
        self.max_waiting = max_waiting
        self.free: deque[E] = deque()
        self.size = 0
        """Connections that exist or are being opened. Written under the lock only."""
        self.permits = 0
        """How many rights to open a connection were ever given; tells whether there were new ones since."""
        self.attention = 0
        """
        Number of queued tickets, one more when closed, suspended or too large. Not zero: the hot path must go the slow
        way.
        """
        self.closed = False
        self._clock = clock
        # Guards size, attention, closed and both queues. Nothing slow and nothing foreign runs under it: no I/O, no
        # logging, no callback. Never taken in a destructor: the collector may run while this thread holds it.
        self._lock = threading.Lock()
        self._queue: deque[Ticket[E]] = deque()
        self._priority_queue: deque[Ticket[E]] = deque()

    @property
    def waiting(self) -> int:
        """Callers queued now; those that gave up are not among them."""
        return len(self._queue) + len(self._priority_queue)

    def waiters(self) -> tuple[object, ...]:
        """The ``holder`` of every queued ticket, first served first."""
        with self._lock:
            return tuple(ticket.holder for ticket in (*self._priority_queue, *self._queue))

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
            QueueIsFull, QueueWasCleared, DeadlinePassed, GateClosed
        """
        with self._lock:
            if self.closed:
                raise GateClosed
            if not (self._priority_queue or (self._queue and not ticket.priority)) and self._grant(ticket):
                return ticket.entry
            if self.max_waiting and self.waiting >= self.max_waiting:
                raise QueueIsFull
            ticket.wake.acquire(blocking=False)  # a ticket that comes a second time may have been granted unwoken
            (self._priority_queue if ticket.priority else self._queue).append(ticket)
            self._note()
            # An entry may have been given back between the look above and the line before this one.
            self._serve()
        while not ticket.wake.acquire(timeout=max(0.0, min(WAIT_SLICE, deadline - self._clock()))):
            late = self._clock() >= deadline
            with self._lock:
                # Somebody who was interrupted may have given something back without waking anybody.
                self._serve()
                if ticket.granted:  # be it in the last moment: take it
                    return ticket.entry
                if self.closed:
                    raise GateClosed
            if late:
                raise DeadlinePassed
            if while_waiting is not None:
                while_waiting()
        if not ticket.granted:
            raise QueueWasCleared if ticket.sent_away else GateClosed
        return ticket.entry

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
                    self.size -= 1
                    self._serve()
                return entry
            queue = self._priority_queue if ticket.priority else self._queue
            if ticket in queue:
                queue.remove(ticket)
            self._note()
            return None

    def give(self, entry: E) -> None:
        """Return an entry to the free stack; the head of the queue gets it at once."""
        self.free.append(entry)
        if self.attention:
            self.serve()

    def serve(self) -> None:
        """Match what is free with who waits. For those that changed ``free`` by themselves."""
        with self._lock:
            self._serve()

    def forfeit(self) -> None:
        """A connection is gone, or a permit was not used: somebody else may open one."""
        with self._lock:
            self.size -= 1
            self._serve()

    def grow(self, limit: int) -> bool:
        """Take a permit without queueing if fewer than ``limit`` connections exist and nobody waits."""
        with self._lock:
            if self.closed or self.attention or self.size >= min(limit, self.ceiling):
                return False
            self.size += 1
            self.permits += 1
            return True

    def correct(self, size: int, permits: int, actual: int) -> bool:
        """Make ``size`` ``actual``, unless ``size`` or ``permits`` are no longer what the caller had read."""
        with self._lock:
            if (self.size, self.permits) != (size, permits):
                return False
            self.size = actual
            self._serve()
            return True

    def resize(self, max_size: int) -> None:
        """Change the limit. Above a lower one nothing is granted until the owner has closed the surplus."""
        with self._lock:
            self.max_size = self.ceiling = max_size
            self._serve()

    def lower_ceiling(self, size: int) -> None:
        """The server refuses to have more than this many of us."""
        with self._lock:
            self.ceiling = max(1, min(self.ceiling, size))

    def raise_ceiling(self) -> bool:
        """Try one more; whether there was anything to try."""
        with self._lock:
            if self.ceiling >= self.max_size:
                return False
            self.ceiling += 1
            self._serve()
            return True

    def suspend(self, suspended: bool) -> None:
        """Send everybody the slow way, where whoever suspended it decides."""
        with self._lock:
            self.suspended = suspended
            self._note()

    def refuse_queued(self) -> None:
        """Send everybody away who waits now."""
        with self._lock:
            for queue in (self._priority_queue, self._queue):
                while queue:
                    ticket = queue.popleft()
                    ticket.sent_away = True
                    ticket.wake.release()
            self._note()

    def close(self) -> None:
        """Refuse everybody from now on and wake those that wait. What is free stays for the owner to close."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._note()
            for queue in (self._priority_queue, self._queue):
                while queue:
                    queue.popleft().wake.release()
            self._note()

    def _grant(self, ticket: Ticket[E]) -> bool:
        """Lock held. Give the ticket an entry or a permit, if there is one."""
        if self.size > self.max_size:
            return False
        if self.free:
            try:
                ticket.entry = self.free.pop()
            except IndexError:  # the hot path took it: it does not hold the lock
                return self._grant(ticket)
        elif self.size < self.ceiling:
            self.size += 1
            self.permits += 1
        else:
            return False
        ticket.granted = True
        return True

    def _serve(self) -> None:
        """Lock held. Serve the queues in order while there is something to give."""
        if self.closed:
            return
        for queue in (self._priority_queue, self._queue):
            while queue and self._grant(queue[0]):
                queue.popleft().wake.release()
        self._note()

    def _note(self) -> None:
        """Lock held. Counted anew each time, so that an interrupt between two lines does no lasting harm."""
        self.attention = self.waiting + (self.closed or self.suspended or self.size > self.max_size)
