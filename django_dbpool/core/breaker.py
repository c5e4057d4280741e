"""
A circuit breaker: after enough failures the way to the server is closed, so that callers learn it at once.

Names, defaults' meaning and transitions are Polly's (https://www.pollydocs.org/strategies/circuit-breaker.html), with
four differences: a result counts only in the state in which its call began; a trial that never reports is replaced;
a probe by somebody else may close the circuit; callbacks see transitions in their order and can't fail a call.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .logs import get_logger
from .window import Counts, SlidingWindow

logger = get_logger("django_dbpool.breaker")

TIMELINE = 32
"""Transitions that are remembered."""

AGE_TO_WAIT = 1 / 6
SHORTEST_WAIT = 1.0
LONGEST_WAIT = 10.0
"""
What callers are told to wait, in seconds, while a probe will close the circuit: a share of the outage's age so far,
within limits. Nobody knows how long it will last; the best guess from its age alone is that it lasts as long again.
So whoever keeps to it comes back at most a sixth of the outage too late, and not everybody asks each second.
"""


class State(enum.Enum):
    CLOSED = "closed"
    """Calls are allowed and counted."""
    OPEN = "open"
    """Calls are refused until the break is over or a probe has succeeded."""
    HALF_OPEN = "half-open"
    """One call, the trial, is allowed; its result decides."""
    ISOLATED = "isolated"
    """Held open by hand until ``reset()``."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and when to try again. Durations are seconds."""

    enabled: bool = True
    """False: nothing opens by itself; ``isolate()`` still works."""
    failure_ratio: float = 0.5
    """Failures among the results of the sampling duration from which on the circuit opens."""
    minimum_throughput: int = 5
    """With fewer results in the sampling duration it stays closed."""
    sampling_duration: float = 30.0
    break_duration: float = 60.0
    probe_interval: float | None = 0.25
    """Between two probes of whoever runs them; None: nobody does."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, as callbacks and the timeline see it."""

    at: float
    """On the breaker's clock."""
    before: State
    after: State
    reason: str
    counts: Counts
    """Results in the window at that moment."""
    error: BaseException | None = None
    """The failure that caused it."""


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """The breaker at one moment."""

    at: float
    """On the breaker's clock, as are the times of the timeline."""
    state: State
    since: float
    """When this state began."""
    retry_after: float
    """Seconds; 0 when a call would be allowed. While somebody probes a guess, see ``AGE_TO_WAIT``."""
    counts: Counts
    rejected: int
    """Calls refused since the start."""
    late: int
    """Results that came in another state than that in which their call began, and didn't count."""
    error: BaseException | None
    timeline: tuple[Transition, ...]
    """The last transitions, oldest first."""


class Rejected(Exception):
    """
    The circuit is not closed and this call is not the trial.

    Attributes:
        state: of the circuit.
        retry_after: seconds after which another call makes sense.
        error: the last failure; None after ``isolate()``.
    """

    def __init__(self, state: State, retry_after: float, error: BaseException | None) -> None:
        super().__init__(f"circuit {state.value}, retry after {retry_after:.1f} s")
        self.state = state
        self.retry_after = retry_after
        self.error = error


class Permit:
    """
    The right to make one call, to be reported on once: later reports and reports of an earlier state don't count.

    As a context manager it reports ``ignore()`` if its block has reported nothing, whatever left the block, so that a
    trial is never lost to an interrupt.
    """

    __slots__ = ("_breaker", "_generation", "_reported", "is_trial")

    def __init__(self, breaker: CircuitBreaker, generation: int, is_trial: bool) -> None:
        self._breaker = breaker
        self._generation = generation
        self._reported = False
        self.is_trial = is_trial

    def success(self) -> None:
        self._report(self._breaker._on_success, None)

    def failure(self, error: BaseException | None = None) -> None:
        """The call failed in a way that says something about the server."""
        self._report(self._breaker._on_failure, error)

    def ignore(self) -> None:
        """The call says nothing about the server: it was interrupted, or failed for a reason of its own."""
        self._report(self._breaker._on_ignored, None)

    def _report(self, to: Callable[[int, bool, BaseException | None], None], error: BaseException | None) -> None:
        if not self._reported:
            self._reported = True
            to(self._generation, self.is_trial, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ignore()


class CircuitBreaker:
    """
    State, counts and the timeline of one circuit. Thread-safe; it never calls anything while it holds its lock.

    Example:
        with breaker.allow() as permit:  # raises Rejected
            try:
                connection = connect()
            except OperationalError as error:
                permit.failure(error)
                raise
            permit.success()

    Args:
        policy: when to open and when to try again.
        trial_timeout: seconds after which a trial that has not reported is given up; ``break_duration`` if None.
        on_change: called with each Transition, in order, outside the lock, by one thread at a time: the one that
            caused it or one that is already calling. What it raises is logged.
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        trial_timeout: float | None = None,
        on_change: tuple[Callable[[Transition], None], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._trial_timeout = policy.break_duration if trial_timeout is None else trial_timeout
        self._callbacks = list(on_change)
        self._clock = clock
        self._start()

    def _start(self) -> None:
        # Guards everything below. Held for a few lines of bookkeeping; no call, no callback, no logging under it.
        self._lock = threading.Lock()
        self._window = SlidingWindow(self.policy.sampling_duration)
        self._state = State.CLOSED
        self._since = self._clock()
        self._broken_since = self._since
        """When it was closed for the last time."""
        self._generation = 0
        """Counts states and trials; a permit is valid in its own."""
        self._blocked_until = 0.0
        """While open: when a caller may become the trial. While a trial runs: when it is given up."""
        self._trial_runs = False
        self._error: BaseException | None = None
        self._rejected = 0
        self._late = 0
        self._timeline: deque[Transition] = deque(maxlen=TIMELINE)
        self._undelivered: deque[Transition] = deque()
        self._delivering = False

    @property
    def state(self) -> State:
        """Without the lock: good for a look that the caller acts on only by asking ``allow()``."""
        return self._state

    def on_change(self, callback: Callable[[Transition], None]) -> None:
        """Add a callback."""
        self._callbacks.append(callback)

    # -- calls --------------------------------------------------------------------------------------------------

    def allow(self) -> Permit:
        """
        Ask before a call; the permit must be reported on.

        Raises:
            Rejected: at once, with the seconds to wait.
        """
        with self._lock:
            if self._state is State.CLOSED:
                return Permit(self, self._generation, False)
            now = self._clock()
            if self._may_try(now):
                self._trial_runs = True
                self._blocked_until = now + self._trial_timeout
                if self._state is State.OPEN:
                    self._change(State.HALF_OPEN, now, "the break is over")
                else:
                    self._generation += 1  # a trial that was given up must not decide any more
                permit: Permit | None = Permit(self, self._generation, True)
            else:
                permit = None
                self._rejected += 1
                rejected = Rejected(self._state, self._retry_after(now), self._error)
        self._deliver()
        if permit is None:
            raise rejected
        return permit

    def _may_try(self, now: float) -> bool:
        """Lock held."""
        if self._state is State.OPEN:
            return now >= self._blocked_until
        return self._state is State.HALF_OPEN and (not self._trial_runs or now >= self._blocked_until)

    def _on_success(self, generation: int, is_trial: bool, error: BaseException | None) -> None:
        with self._lock:
            if generation != self._generation:
                self._late += 1
            elif self._state is State.CLOSED:
                self._window.add(self._clock(), success=True)
            elif is_trial:
                self._change(State.CLOSED, self._clock(), "the trial succeeded")
        self._deliver()

    def _on_failure(self, generation: int, is_trial: bool, error: BaseException | None) -> None:
        with self._lock:
            now = self._clock()
            if generation != self._generation:
                self._late += 1
            elif is_trial:
                self._error = error
                self._open(now, "the trial failed")
            elif self._state is State.CLOSED:
                self._error = error
                self._window.add(now, success=False)
                if self.policy.enabled and self._is_broken(now):
                    self._open(now, "too many failures")
        self._deliver()

    def _on_ignored(self, generation: int, is_trial: bool, error: BaseException | None) -> None:
        with self._lock:
            if is_trial and generation == self._generation:
                self._trial_runs = False  # the next caller is the trial

    def _is_broken(self, now: float) -> bool:
        """Lock held."""
        counts = self._window.counts(now)
        return counts.throughput >= self.policy.minimum_throughput and counts.failure_ratio >= self.policy.failure_ratio

    # -- probes -------------------------------------------------------------------------------------------------

    def probe_succeeded(self) -> None:
        """The server answers: closed at once, unless it is isolated."""
        with self._lock:
            if self._state in (State.OPEN, State.HALF_OPEN):
                self._change(State.CLOSED, self._clock(), "a probe succeeded")
        self._deliver()

    def probe_failed(self, error: BaseException | None = None) -> None:
        """
        The server doesn't answer. While somebody probes no caller becomes the trial; should the probes stop, one does
        after ``break_duration``.
        """
        with self._lock:
            if self._state is State.OPEN:
                self._blocked_until = self._clock() + self.policy.break_duration
                self._error = error or self._error

    # -- by hand ------------------------------------------------------------------------------------------------

    def trip(self, error: BaseException | None = None, reason: str = "tripped") -> None:
        """Open at once, for somebody who knows more than the counts do. No effect while isolated or not enabled."""
        with self._lock:
            if self.policy.enabled and self._state in (State.CLOSED, State.HALF_OPEN):
                self._error = error or self._error
                self._open(self._clock(), reason)
        self._deliver()

    def isolate(self, reason: str = "isolated by hand") -> None:
        """Refuse every call until ``reset()``."""
        with self._lock:
            if self._state is not State.ISOLATED:
                self._error = None
                self._change(State.ISOLATED, self._clock(), reason)
        self._deliver()

    def reset(self, reason: str = "reset by hand") -> None:
        """Close, and forget the results so far."""
        with self._lock:
            if self._state is State.CLOSED:
                self._window.clear()
            else:
                self._change(State.CLOSED, self._clock(), reason)
        self._deliver()

    def forget(self) -> None:
        """In a forked child: begin anew. The lock may have been held by a thread that doesn't exist here."""
        self._start()

    # -- reports ------------------------------------------------------------------------------------------------

    def snapshot(self) -> BreakerSnapshot:
        with self._lock:
            now = self._clock()
            return BreakerSnapshot(
                at=now,
                state=self._state,
                since=self._since,
                retry_after=self._retry_after(now),
                counts=self._window.counts(now),
                rejected=self._rejected,
                late=self._late,
                error=self._error,
                timeline=tuple(self._timeline),
            )

    def _retry_after(self, now: float) -> float:
        """Lock held. Seconds after which another call makes sense."""
        policy = self.policy
        if self._state is State.CLOSED or self._may_try(now):
            return 0.0
        if self._state is State.ISOLATED:
            return policy.break_duration
        if self._state is State.HALF_OPEN:
            return min(1.0, self._blocked_until - now)  # the trial will tell, most likely sooner
        if policy.probe_interval is None:
            return self._blocked_until - now
        age = (now - self._broken_since) * AGE_TO_WAIT
        return min(max(SHORTEST_WAIT, age), LONGEST_WAIT, policy.break_duration)

    # -- transitions --------------------------------------------------------------------------------------------

    def _open(self, now: float, reason: str) -> None:
        """Lock held."""
        self._blocked_until = now + self.policy.break_duration
        self._change(State.OPEN, now, reason)

    def _change(self, state: State, now: float, reason: str) -> None:
        """Lock held."""
        transition = Transition(now, self._state, state, reason, self._window.counts(now), self._error)
        if self._state is State.CLOSED:
            self._broken_since = now
        self._timeline.append(transition)
        self._undelivered.append(transition)
        self._state = state
        self._since = now
        self._generation += 1
        if state is not State.HALF_OPEN:
            self._trial_runs = False
        if state is State.CLOSED:
            self._window.clear()
            self._error = None

    def _deliver(self) -> None:
        """Call back, without the lock, in the order of the transitions."""
        while self._undelivered:
            mine = False
            try:
                with self._lock:
                    # Another thread's or, if a callback has called us, this thread's own loop will come to it.
                    if self._delivering or not self._undelivered:
                        return
                    # In this order, so that an interrupt can't leave it set for ever.
                    mine = True
                    self._delivering = True
                    transition = self._undelivered.popleft()
                self._call_back(transition)
            finally:
                if mine:
                    self._delivering = False

    def _call_back(self, transition: Transition) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(transition)
            except Exception:
                logger.exception("a callback failed on the transition to %s", transition.after.value)
