"""
What happened, as frozen objects, for whoever wants to know: metrics, traces, logs, alerts.

Events are of what is rare: connections opened and lost, waits, refusals, changes of the circuit. What every lease does
is counted (``tally``), not told. Whoever publishes is never kept waiting and never sees an observer's error: each
observer has a bounded queue, and a thread that starts with its first event.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Literal

from .ledger import Holder
from .logs import get_logger

logger = get_logger("django_dbpool.events")

LIMIT = 10_000
"""Events that wait for an observer before the oldest are dropped."""

COMPLAIN = 60.0
"""Seconds between two log records of the same observer's failures."""


Attempted = Literal["connect", "read", "block"]
Kept = Literal["lease", "pin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Times are seconds."""

    alias: str
    at: float = field(default_factory=time.time)
    """Unix time, at the end of what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOpened(Event):
    seconds: float
    backend_pid: int
    reserved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailed(Event):
    """One attempt to connect."""

    seconds: float
    code: str | None
    """SQLSTATE; None when no server has spoken."""
    error: str
    """The driver's class of error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed(Event):
    reason: str
    """expired, idle, lost, lost_idle, pinned, shrunk, drained, closed (with its pool), discarded (in doubt)."""
    age: float
    backend_pid: int

    @property
    def expected(self) -> bool:
        """Nobody's work was disturbed by it."""
        return self.reason not in ("lost", "discarded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Event):
    """A lease that had to queue or to connect, and got its connection."""

    seconds: float
    unit: str | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A caller got no connection."""

    error: str
    """Name in ``django_dbpool.errors``."""
    waited: float
    unit: str | None
    name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried(Event):
    """Something that failed is about to be tried again."""

    what: Attempted
    attempt: int
    """The one that failed; the first is 1."""
    delay: float
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitChanged(Event):
    before: str
    after: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue(Event):
    """A lease is held for longer than ``leak_after``, or a pin for longer than ``pin_max``."""

    holder: Holder
    what: Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned(Event):
    """A lease that was overdue has ended after all."""

    backend_pid: int
    generation: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Event):
    """A connection has ended by the server's doing or on the way to it."""

    moment: str
    """idle, or what was going on: see ``errors.ConnectionLost``."""
    expected: bool
    """It was idle: nobody had begun anything on it."""
    unit: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementSlow(Event):
    seconds: float
    sql: str
    """With placeholders for its values."""
    unit: str | None
    name: str | None
    backend_pid: int
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementRepeated(Event):
    """The same statement again and again in one unit of work."""

    count: int
    sql: str
    unit: str | None
    name: str | None
    where: str
    """file:line in function: outside of Django, psycopg and this package."""


Handler = Callable[[Event], object]


class Subscription:
    """
    One observer.

    Attributes:
        failures: events that the handler has raised for.
        dropped: events that were given up for newer ones.
        context: of the code that published the event which is being handled, if that was asked for.
    """

    def __init__(self, name: str, handler: Handler, *, limit: int = LIMIT, context: bool = False) -> None:
        self.name = name
        self.limit = limit
        self.failures = 0
        self.dropped = 0
        self.context: Context | None = None
        self._handler = handler
        self._with_context = context
        self._complained = -COMPLAIN
        self._reset()

    def _reset(self) -> None:
        # A SimpleQueue because its put() may be called from destructors, whatever lock this thread holds.
        self._queue: queue.SimpleQueue[tuple[Event, Context | None] | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._starting = threading.Lock()
        self._counting = threading.Lock()

    def put(self, event: Event) -> None:
        waiting = self._queue
        if waiting.qsize() >= self.limit:
            try:
                oldest = waiting.get_nowait()
            except queue.Empty:
                pass
            else:
                if not isinstance(oldest, tuple):
                    waiting.put(oldest)  # somebody waits for it
                else:
                    with self._counting:
                        self.dropped += 1
        waiting.put((event, copy_context() if self._with_context else None))
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        if not self._starting.acquire(blocking=False):
            return  # another thread is at it
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"dbpool-{self.name}", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:
            pass  # no more threads: the interpreter ends, or the system's limit is reached
        finally:
            self._starting.release()

    def _run(self) -> None:
        pid, waiting = os.getpid(), self._queue
        while os.getpid() == pid:
            item = waiting.get()
            if item is None:
                self._end(waiting)
                return
            if isinstance(item, threading.Event):
                item.set()
                continue
            event, self.context = item
            try:
                self._handler(event)
            except BaseException as error:  # noqa: BLE001  # also SystemExit: it would end this thread for good
                self._failed(event, error)
            finally:
                self.context = None

    def _failed(self, event: Event, error: BaseException) -> None:
        self.failures += 1
        now = time.monotonic()
        if now - self._complained >= COMPLAIN:
            self._complained = now
            logger.error("observer %r failed with %s", self.name, type(event).__name__, exc_info=error)

    def _end(self, waiting: queue.SimpleQueue[tuple[Event, Context | None] | threading.Event | None]) -> None:
        """Let those go who wait for this thread; whoever comes later sees that it has ended."""
        self._ended = True
        while not waiting.empty():
            item = waiting.get()
            if isinstance(item, threading.Event):
                item.set()

    def flush(self, timeout: float) -> bool:
        """Wait until everything published so far is handled; whether it is."""
        if self._thread is None or self._thread is threading.current_thread():
            return self._thread is None
        done = threading.Event()
        self._queue.put(done)
        return self._ended or done.wait(timeout)

    def close(self, timeout: float = 1.0) -> None:
        """No more events; those published so far are handled if that takes no longer than the timeout, in seconds."""
        unsubscribe(self)
        self.flush(timeout)
        self._queue.put(None)


subscribers: tuple[Subscription, ...] = ()
"""Looked at before an event is made: without observers nothing is."""

_changing = threading.Lock()
_all: weakref.WeakSet[Subscription] = weakref.WeakSet()


def subscribe(name: str, handler: Handler, *, limit: int = LIMIT, context: bool = False) -> Subscription:
    """
    Have every event handled, one after the other, in a daemon thread of the observer's own.

    Args:
        name: of the observer and, with ``dbpool-`` before it, of its thread. Another of the same name is replaced.
        handler: called with each event; what it raises is logged at most once a minute.
        limit: events that may wait for it; then the oldest are dropped.
        context: have ``Subscription.context`` say in which context an event was published.
    """
    global subscribers
    subscription = Subscription(name, handler, limit=limit, context=context)
    with _changing:
        replaced = [each for each in subscribers if each.name == name]
        subscribers = (*(each for each in subscribers if each.name != name), subscription)
        _all.add(subscription)
    for each in replaced:
        each.close(0.0)
    return subscription


def unsubscribe(subscription: Subscription) -> None:
    global subscribers
    with _changing:
        subscribers = tuple(each for each in subscribers if each is not subscription)


def publish(event: Event) -> None:
    """Never waits and never raises. Ask ``subscribers`` before making the event."""
    for subscription in subscribers:
        try:
            subscription.put(event)
        except Exception:
            logger.exception("publishing %s failed", type(event).__name__)


def flush(timeout: float) -> bool:
    """Wait, all together no longer than this many seconds, until the observers have handled what was published."""
    deadline = time.monotonic() + timeout
    done = [each.flush(max(0.0, deadline - time.monotonic())) for each in subscribers]
    return all(done)


def reset_after_fork() -> None:
    """The observers' threads did not survive, and what waits for them is the parent's to tell."""
    global _changing
    _changing = threading.Lock()
    for subscription in tuple(_all):
        subscription._reset()
