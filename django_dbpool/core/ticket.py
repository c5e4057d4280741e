"""One caller's request for a connection, and why it may be refused."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

E = TypeVar("E")

RESERVED, PRIORITY, ORDINARY = 0, 1, 2
"""
Classes of callers, first served first: work that was promised a connection, work that others wait for (commit hooks)
or that is marked so, all else.
"""


class QueueIsFull(Exception):
    """``max_waiting`` tickets are queued already."""


class QueueStandsTooLong(Exception):
    """The pool is overloaded, and this ticket is one of those for whom there is no time."""


class QueueWasCleared(Exception):
    """Everybody who waited was sent away."""


class DeadlinePassed(Exception):
    """Nothing was granted before the deadline."""


class GroupIsFull(DeadlinePassed):
    """The same, because the ticket's group had as many connections as it may have."""


class Ticket(Generic[E]):
    """
    It outlives the call, so that whatever was granted can be given back by ``Gate.abandon`` even when an exception
    struck between the grant and the caller's next line.
    """

    __slots__ = (
        "entry",
        "from_reserve",
        "granted",
        "group",
        "holder",
        "queued_at",
        "rank",
        "refused",
        "wake",
    )

    def __init__(
        self, holder: object = None, priority: bool = False, *, reserved: bool = False, group: str | None = None
    ) -> None:
        self.holder = holder
        self.rank = RESERVED if reserved else PRIORITY if priority else ORDINARY
        self.group = group
        """Whose limit it counts against; None: nobody's."""
        self.granted = False
        self.from_reserve = False
        """What was granted is the reserve's."""
        self.refused: type[Exception] | None = None
        """Why it was taken out of the queue."""
        self.queued_at = 0.0
        self.entry: E | None = None
        self.wake = threading.Lock()
        self.wake.acquire()
