"""
Latency-based admission: when the queue has stood too long, newcomers are refused at once instead of after their
timeout, so that those who are served are served in time.

The idea is CoDel's (https://queue.acm.org/appendices/codel.html) as Ecto's DBConnection applies it to a pool: a queue
whose shortest wait of a whole interval is above the target is no burst but an overload, and from then on whoever has
waited for twice the target is dropped. Added to that: who would have to wait that long is refused on arrival, because
its answer is known; a connection never idles for lack of waiters; and one short wait does not end the overload as
long as many are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

REFUSED_IN_OVERLOAD = 0.1
"""While more than this part of the arrivals is refused the overload is not over, however short the queue it left."""


class Codel:
    """
    Decides; the queue is the caller's, and so is the lock that every method needs.

    Args:
        target: seconds of waiting that are acceptable for long.
        interval: seconds after which waiting beyond the target counts as overload.
        keep: so many waiters are never shed, nor is a queue shorter than that closed to newcomers; the number of
            connections, so that a whole round of them finds work.
        crowd: a shorter queue is not taken for an overload, however long it stands: the callers of a process with
            few threads wait for each other, and nobody gains by refusing some.
        clock: seconds; injected by tests.
    """

    __slots__ = (
        "_arrived",
        "_clock",
        "_good",
        "_limit",
        "_refused",
        "_served",
        "_shortest",
        "crowd",
        "interval",
        "keep",
        "slow",
        "target",
    )

    def __init__(
        self, *, target: float, interval: float, keep: int, clock: Callable[[], float], crowd: int = 0
    ) -> None:
        self.target = target
        self.interval = interval
        self.keep = keep
        self.crowd = crowd
        self.slow = False
        """Overloaded: newcomers beyond the limit are refused, old waiters shed."""
        self._clock = clock
        self._good = clock()
        """While not slow: when the queue was last short or somebody served within the target. While slow: when the
        current interval began. Everything below is counted since then."""
        self._limit = keep
        self._begin_interval(self._good)

    def arrive(self, waiting: int) -> bool:
        """
        Somebody has to queue behind so many others.

        Returns:
            False: refuse at once.
        """
        now = self._clock()
        if not waiting:
            self._shortest = 0.0
            if not self.slow or now - self._good >= 2 * self.interval:  # or it ended long ago, unseen
                self.slow = False
                self._begin_interval(now)
        self._look(now, waiting)
        self._arrived += 1
        if self.slow and waiting >= self._limit:
            self._refused += 1
            return False
        return True

    def serve(self, waited: float, waiting: int | None = None) -> None:
        """A waiter got its connection after so many seconds; so many are left."""
        now = self._clock()
        self._served += 1
        self._shortest = min(self._shortest, waited)
        if waited <= self.target and not self.slow:
            self._begin_interval(now)
        self._look(now, self.crowd if waiting is None else waiting)

    def sheds(self, waited: float, waiting: int) -> bool:
        """
        Whether the oldest of so many waiters, who has waited so long, is to be refused now.

        Ask before serving, and now and then while nobody is served; again after each that was shed.
        """
        self._look(self._clock(), waiting)
        if not self.slow or waited <= 2 * self.target or waiting <= self.keep:
            return False
        self._refused += 1
        return True

    def excuse(self) -> None:
        """Waiting has another reason than too much work: begin anew."""
        self.slow = False
        self._begin_interval(self._clock())

    def _look(self, now: float, waiting: int) -> None:
        """At the end of an interval: is, or stays, the queue too slow?"""
        if waiting < self.crowd and not self.slow:
            self._begin_interval(now)
            return
        elapsed = now - self._good
        if elapsed < self.interval:
            return
        if self.slow and self._shortest <= self.target and self._refused <= REFUSED_IN_OVERLOAD * self._arrived:
            self.slow = False
        else:
            self.slow = True
            # All of these were served from the queue, which was never empty: this is what the connections can do.
            rate = self._served / elapsed
            self._limit = max(self.keep, int(rate * 2 * self.target))
        self._begin_interval(now)

    def _begin_interval(self, now: float) -> None:
        self._good = now
        self._shortest = math.inf
        self._arrived = self._refused = self._served = 0
