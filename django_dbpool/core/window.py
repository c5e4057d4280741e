"""Counting results over the last seconds, in buckets, so that memory doesn't grow with traffic."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

BUCKETS = 10
"""As Polly's; a result is forgotten between 9/10 of the duration and all of it after it came."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Results in a window."""

    successes: int = 0
    failures: int = 0

    @property
    def throughput(self) -> int:
        return self.successes + self.failures

    @property
    def failure_ratio(self) -> float:
        """0 when there were none."""
        return self.failures / self.throughput if self.throughput else 0.0


class SlidingWindow:
    """
    Not thread-safe: its owner has a lock.

    Args:
        duration: seconds.
    """

    __slots__ = ("_buckets", "_failures", "_successes", "_width")

    def __init__(self, duration: float) -> None:
        self._width = duration / BUCKETS
        self._buckets: deque[list[int]] = deque()
        """Number on the clock, successes, failures; oldest first."""
        self._successes = 0
        self._failures = 0

    def add(self, now: float, *, success: bool) -> None:
        number = self._forget(now)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append([number, 0, 0])
        self._buckets[-1][1 if success else 2] += 1
        if success:
            self._successes += 1
        else:
            self._failures += 1

    def counts(self, now: float) -> Counts:
        self._forget(now)
        return Counts(self._successes, self._failures)

    def clear(self) -> None:
        self._buckets.clear()
        self._successes = self._failures = 0

    def _forget(self, now: float) -> int:
        """Drop what is too old. Returns the number of the bucket for now."""
        number = int(now // self._width)
        while self._buckets and self._buckets[0][0] <= number - BUCKETS:
            _, successes, failures = self._buckets.popleft()
            self._successes -= successes
            self._failures -= failures
        return number
