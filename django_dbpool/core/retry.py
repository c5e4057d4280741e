"""
Repeating what failed for a moment: exponential backoff with full jitter, a number of attempts and a total time.

Full jitter (a random delay between zero and the cap) lets many clients that failed together come back spread out:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import math
import random as _random
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
Sleep = Callable[[float], None]
Uniform = Callable[[], float]
"""A random number from 0 to 1."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and for how long. Durations are seconds."""

    enabled: bool = True
    attempts: int = 16
    """
    Calls altogether; 1 means that nothing is repeated. Eight would end after 1.8 s on average, with these delays, and a
    server needs two seconds and more for a restart.
    """
    max_delay: float = 1.0
    """Cap of a single delay."""
    total: float = 4.0
    """From the first attempt's begin; no attempt begins after it."""
    base_delay: float = 0.05
    """Cap of the first delay; it doubles from one delay to the next."""

    def cap(self, failures: int) -> float:
        """The longest delay after so many failures, the first being 1."""
        # The exponent is limited because a float's is: 2.0**1024 raises OverflowError.
        return min(self.max_delay, self.base_delay * 2.0 ** min(failures - 1, 64))


class Retrier:
    """
    One operation's attempts: counts them, and says how long to wait or that it is over.

    The caller owns the loop, so that it can look at the error, hold nothing while it waits and await where it must:

        retrier = Retrier(policy, deadline=deadline)
        while True:
            try:
                return connect(timeout=retrier.remaining())
            except OperationalError as error:
                if not (is_transient(error) and retrier.wait()):
                    raise

    Args:
        policy: attempts and times.
        deadline: the caller's, on the same clock; waiting never passes it.
        clock, sleep, random: injected by tests.
    """

    __slots__ = ("_begin", "_clock", "_end", "_policy", "_random", "_sleep", "attempts", "delay", "waited")

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        deadline: float = math.inf,
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
        random: Uniform = _random.random,
    ) -> None:
        self.attempts = 1
        """The number of the attempt that runs now."""
        self.delay = 0.0
        """Seconds slept before it."""
        self.waited = 0.0
        """Seconds slept so far."""
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._begin = clock()
        self._end = min(deadline, self._begin + policy.total) if policy.enabled else self._begin

    def remaining(self) -> float:
        """Seconds left for the attempt and all that follow it; never negative."""
        return max(0.0, self._end - self._clock())

    def elapsed(self) -> float:
        """Seconds since the first attempt's begin."""
        return self._clock() - self._begin

    def next_delay(self) -> float | None:
        """
        Count the running attempt as failed.

        Returns:
            Seconds to wait before the next attempt, or None: this was the last one. Towards the end of the time the
            delays become shorter: the attempt just before it is the likeliest to succeed.
        """
        policy = self._policy
        remaining = self._end - self._clock()
        if not policy.enabled or self.attempts >= policy.attempts or remaining <= 0:
            return None
        # Not all that remains: the attempt needs time too.
        delay = self._random() * min(policy.cap(self.attempts), 0.9 * remaining)
        self.attempts += 1
        return delay

    def wait(self) -> bool:
        """
        Sleep until the next attempt; False, at once, if the last one was the last.

        Whatever interrupts the sleep (KeyboardInterrupt, GreenletExit, a soft time limit) passes through.
        """
        delay = self.next_delay()
        if delay is None:
            return False
        self.delay = delay
        if delay > 0:
            self._sleep(delay)
        self.waited += delay
        return True
