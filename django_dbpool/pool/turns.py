"""Not everybody at once: connecting while a server recovers from an outage."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE = 3
"""
Attempts to connect that one pool makes at the same time while its server recovers. PostgreSQL starts a process for
each, and those of a whole fleet come together. So many fill a pool of 20 in a second even if each takes 150 ms.
"""

RECOVERY = 5.0
"""Seconds since the last failed attempt for which the server counts as recovering. Else nobody waits for a turn."""

SLICE = 0.05


class Turns:
    """
    Who may connect now.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._trouble = -math.inf
        self._busy: set[object] = set()
        self._changed = threading.Condition()

    def trouble(self) -> None:
        """An attempt has failed."""
        self._trouble = self.clock()

    @contextmanager
    def one(self, deadline: float, give_up: Callable[[], bool]) -> Iterator[None]:
        """
        Around an attempt: wait for a turn if the server recovers.

        Args:
            deadline: until when to wait; the attempt is made then all the same, and fails for its own reasons.
            give_up: whether waiting has lost its sense.
        """
        token = object()
        try:
            self._take(token, deadline, give_up)
            yield
        finally:
            # Harmless if it wasn't taken: an interrupt may have come anywhere.
            self._busy.discard(token)
            with self._changed:
                self._changed.notify()

    def _take(self, token: object, deadline: float, give_up: Callable[[], bool]) -> None:
        with self._changed:
            while (
                len(self._busy) >= AT_ONCE
                and (now := self.clock()) < min(deadline, self._trouble + RECOVERY)
                and not give_up()
            ):
                # In slices: who was interrupted may have told nobody.
                self._changed.wait(min(SLICE, deadline - now))
            self._busy.add(token)
