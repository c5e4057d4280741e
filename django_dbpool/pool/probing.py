"""
Does the server answer this process? Asked on a connection of its own, one per alias, outside of pool and reserve: the
question is answered while every other connection is taken, and takes none from anybody.

A daemon thread per alias connects and asks, because neither can be given less than two seconds (see
``SHORTEST_ATTEMPT``), and name resolution has no limit at all. Callers wait for it as long as they like. Several at
once wait for the same answer, so a server that hangs costs one thread, however many ask. The thread ends, and the
connection is closed, when nobody has asked for a while: a database that scales to zero may sleep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from .question import Answer, Connect, Question

FRESH = 1.0
"""Seconds for which an answer is good for everybody who asks."""

PATIENT = 0.5
"""
Seconds that a caller has to have for its giving up to be everybody's answer. One that is in a hurry says nothing of the
server: others, such as readiness, wait for the same question for as long as they like.
"""

LINGER = 60.0
"""Seconds for which the connection is kept though nobody asks: load balancers ask every 5 to 30."""

REFUSED_PAUSE = 60.0
"""Seconds between two attempts with refused credentials, unless somebody was let in: repeating them locks accounts."""

APPLICATION = "django_dbpool-health"
"""
How the session's ``application_name`` ends. Processes that have no other work publish nothing, so the fleet would take
their probes for strangers.
"""


class Probe:
    """
    One alias in one process.

    Args:
        alias: for the reports.
        connect: called in the probe's thread.
        let_in: changes when the server lets somebody of this process in, as the pool's count of connections made does.
        clock: seconds; injected by tests.
        linger: seconds, see ``LINGER``.
        patient: seconds, see ``PATIENT``.
    """

    def __init__(
        self,
        alias: str,
        connect: Connect,
        *,
        let_in: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        linger: float = LINGER,
        patient: float = PATIENT,
    ) -> None:
        self.alias = alias
        self._let_in = let_in
        self._clock = clock
        self._linger = linger
        self._patient = patient
        # Guards what follows. Held for a few lines: no call of others, no input or output, no logging under it.
        self._changed = threading.Condition(threading.Lock())
        self._last: Answer | None = None
        self._refused_at: object = None
        """What ``let_in`` said when credentials were refused."""
        self._flight: Future[Answer] | None = None
        """The question that is under way."""
        self._taken = False
        """Whether the thread has seen it."""
        self._thread: threading.Thread | None = None
        self._closed = False
        # Only the thread's; others may look how often it was asked.
        self.question = Question(alias, connect, is_over=lambda: self._closed, clock=clock)

    # -- callers ------------------------------------------------------------------------------------------------

    def answer(self, *, fresh: bool = False) -> Answer | Future[Answer]:
        """
        The answer if it is known, else the question that is under way, perhaps by this call.

        Args:
            fresh: not one that was given before.
        """
        let_in = self._let_in()
        with self._changed:
            last = self._last
            if last is not None and self._is_good(last, let_in) and not fresh:
                return last
            flight = self._flight
            if flight is not None and not self._is_dead():
                return flight
            if self._closed:
                return Answer("closed", self._clock())
            abandoned, self._flight = flight, Future()
            flight, self._taken = self._flight, False
            if starting := self._is_dead():
                self._thread = threading.Thread(target=self._run, name=f"dbpool-health-{self.alias}", daemon=True)
            thread = self._thread
            self._changed.notify_all()
        if abandoned is not None:
            self._land(abandoned, Answer("no_thread", self._clock()))
        if starting:
            assert thread is not None
            self._start(thread, flight)
        return flight

    def wait(self, patience: float, *, fresh: bool = False) -> Answer:
        """
        The answer, within so many seconds.

        Args:
            patience: seconds. When they are over the answer is ``timeout``, also for those who ask next, unless they
                were less than ``PATIENT``.
        """
        found = self.answer(fresh=fresh)
        if isinstance(found, Answer):
            return found
        try:
            return found.result(patience)
        except TimeoutError:
            return self.give_up(found, patience)

    def give_up(self, flight: Future[Answer], patience: float) -> Answer:
        """It took too long for a caller. Whatever it turns out to be later is told to those who ask then."""
        if flight.done():
            return flight.result()
        late = Answer("timeout", self._clock(), patience)
        with self._changed:
            if self._flight is flight and patience >= self._patient:
                self._last = late
        return late

    def age(self, answer: Answer) -> float:
        """Seconds since an answer of this probe was given."""
        return max(0.0, self._clock() - answer.at)

    def _is_good(self, answer: Answer, let_in: object) -> bool:
        """Lock held."""
        age = self._clock() - answer.at
        refused = answer.code == "refused" and let_in == self._refused_at
        return age < (REFUSED_PAUSE if refused else FRESH)

    def _is_dead(self) -> bool:
        """Lock held. There is no thread, and none that is about to be started."""
        thread = self._thread
        return thread is None or (thread.ident is not None and not thread.is_alive())

    def _start(self, thread: threading.Thread, flight: Future[Answer]) -> None:
        try:
            thread.start()
        except RuntimeError:  # no more threads: the system's limit, or the interpreter ends
            self._forget_thread(thread)
            self._land(flight, Answer("no_thread", self._clock()))
        except BaseException:
            if thread.ident is None:
                self._forget_thread(thread)
                self._land(flight, Answer("no_thread", self._clock()))
            raise

    def _forget_thread(self, thread: threading.Thread) -> None:
        with self._changed:
            if self._thread is thread:
                self._thread = None

    def _land(self, flight: Future[Answer], answer: Answer) -> None:
        let_in = self._let_in()
        with self._changed:
            if self._flight is flight:
                self._flight = None
                self._last = answer
                if answer.code == "refused":
                    self._refused_at = let_in
        with suppress(InvalidStateError):  # somebody took the thread for dead meanwhile
            flight.set_result(answer)

    def close(self, timeout: float) -> None:
        """Close the connection and answer nothing any more; wait for that, at most so many seconds."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread() and thread.ident is not None:
            thread.join(timeout)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._changed:
            if self._thread is not threading.current_thread():
                return  # it was given up while it started, and another has the connection by now
        flight = None
        try:
            while True:
                if (flight := self._next()) is not None:
                    self._land(flight, self.question.ask())
                    continue
                self.question.drop()  # before anybody else can start a thread, whose connection it would be
                if self._may_end():
                    return
        finally:
            # However it ends; what is under way has to be said to be over.
            self.question.drop()
            self._forget_thread(threading.current_thread())
            if flight is not None:
                self._land(flight, Answer("closed" if self._closed else "unreachable", self._clock()))

    def _next(self) -> Future[Answer] | None:
        """The next question; None when there is none, and none for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_asked(), self._linger)
            if not self._is_asked():
                return None
            self._taken = True
            return self._flight

    def _may_end(self) -> bool:
        with self._changed:
            if self._is_asked():
                return False
            self._thread = None  # whoever asks from here on starts another
            return True

    def _is_asked(self) -> bool:
        return self._flight is not None and not self._taken


_probes: dict[str, Probe] = {}


def probe_of(alias: str, make: Callable[[], Probe]) -> Probe:
    """The one of this process for an alias, made on first use."""
    probe = _probes.get(alias)
    # setdefault is atomic: of several that ask at once all get the same one. A probe that isn't used has no thread.
    return probe if probe is not None else _probes.setdefault(alias, make())


def close(alias: str | None = None, timeout: float = 1.0) -> None:
    """Close the probes of an alias, or all. The next question makes a new one."""
    chosen = [_probes.pop(name) for name in tuple(_probes) if alias is None or name == alias]
    deadline = time.monotonic() + timeout
    for probe in chosen:
        probe.close(max(0.0, deadline - time.monotonic()))


def forget() -> None:
    """In a forked child: threads and sockets are the parent's."""
    _graveyard.append(dict(_probes))
    _probes.clear()


_graveyard: list[object] = []
"""Inherited probes, kept so that no destructor touches the parent's sockets."""
