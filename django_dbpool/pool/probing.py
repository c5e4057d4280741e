"""
Does the server answer this process? Asked on a connection of its own, one per alias, outside of pool and reserve: the
question is answered while every other connection is taken, and takes none from anybody.

A daemon thread per alias connects and asks, because neither can be given less than two seconds (see
``SHORTEST_ATTEMPT``), and name resolution has no limit at all. Callers wait for it as long as they like. Several at
once wait for the same answer, so a server that hangs costs one thread, however many ask. The thread ends, and the
connection is closed, when nobody has asked for a while: a database that scales to zero may sleep.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import Connection
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn

from ..core import sqlstate
from . import dedicated
from .connecting import code_of
from .credentials import NoPassword
from .entry import PoolEntry
from .readable import readable

logger = logging.getLogger("django_dbpool.health")

Code = Literal[
    "ok",
    "timeout",
    "unreachable",
    "starting",
    "full",
    "refused",
    "no_password",
    "misconfigured",
    "no_thread",
    "closed",
]

FRESH = 1.0
"""Seconds for which an answer is good for everybody who asks."""

PATIENT = 0.5
"""
Seconds that a caller has to have for its giving up to be everybody's answer. One that is in a hurry says nothing of the
server: others, such as readiness, wait for the same question for as long as they like.
"""

LINGER = 60.0
"""Seconds for which the connection is kept though nobody asks: load balancers ask every 5 to 30."""

LIFETIME = 300.0
"""Seconds after which it is made anew: another server may have the name by now."""

GIVE_UP = 2.0
"""
Seconds after which a question without answer is dropped with its connection. Longer than callers wait, so that a slow
server isn't asked to start a session each second on top of its trouble.
"""

REFUSED_PAUSE = 60.0
"""Seconds between two attempts with refused credentials, unless somebody was let in: repeating them locks accounts."""

COMPLAIN = 60.0
"""Seconds between two log records about code that fails: an engine's that derives, a provider's of credentials."""

LOOK = 0.1
"""Seconds between two looks, while the server is waited for, whether the answer is still wanted."""

QUESTION = b"SELECT 1"

APPLICATION = "django_dbpool-health"
"""
How the session's ``application_name`` ends. Processes that have no other work publish nothing, so the fleet would take
their probes for strangers.
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question."""

    code: Code
    """
    ``ok``; ``timeout``: nothing came back in time; ``unreachable``: no server there, or it hung up; ``starting``: up,
    down or in recovery; ``full``: no connection left for us; ``refused``: credentials, role or database;
    ``no_password``: the function behind PASSWORD gave none; ``misconfigured``: settings; ``no_thread``: the system
    gives this process no more threads; ``closed``: the probe was closed meanwhile.
    """
    at: float
    """When, on the probe's clock."""
    seconds: float = 0.0
    """How long it took."""
    sqlstate: str | None = None

    @property
    def ok(self) -> bool:
        return self.code == "ok"


Connect = Callable[[], Connection[Any]]
"""Makes a connection; takes a few seconds at most, and raises psycopg's errors."""


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
        self._connect = connect
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
        # Only the thread's:
        self._entry: PoolEntry | None = None
        self._complained = -COMPLAIN
        self.asked = 0
        """Questions so far."""

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
                    self._land(flight, self._look())
                    continue
                self._drop()  # before anybody else can start a thread, whose connection it would be
                if self._may_end():
                    return
        finally:
            # However it ends; what is under way has to be said to be over.
            self._drop()
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

    def _look(self) -> Answer:
        began = self._clock()
        self.asked += 1
        code: Code
        state: str | None = None
        try:
            code, state = self._ask()
        except NoPassword as error:
            # The server was not asked: it can be tried again soon.
            code = "no_password"
            self._complain(error)
        except psycopg.Error as error:
            self._drop()
            state = code_of(error)
            code = "timeout" if isinstance(error, psycopg.errors.ConnectionTimeout) else _code_for(state)
        except Exception as error:  # noqa: BLE001  # of an engine that derives from ours, or a provider of credentials
            self._drop()
            code = "misconfigured"
            self._complain(error)
        now = self._clock()
        return Answer(code, now, max(0.0, now - began), state)

    def _ask(self) -> tuple[Code, str | None]:
        entry = self._entry
        if self._closed:
            return "closed", None
        if entry is not None and (self._clock() - entry.created_at >= LIFETIME or entry.suspicious()):
            self._drop()
        elif entry is not None:
            # A connection that turns out to have died meanwhile says nothing of the server; a new one does.
            with suppress(psycopg.Error):
                code, state = self._ask_on(entry)
                if code in ("ok", "timeout", "closed"):
                    return code, state
            self._drop()
        self._entry = entry = dedicated.keep(self.alias, self._connect(), self._clock())
        return self._ask_on(entry)

    def _ask_on(self, entry: PoolEntry) -> tuple[Code, str | None]:
        pgconn = entry.conn.pgconn
        pgconn.send_query(QUESTION)
        deadline = time.monotonic() + GIVE_UP
        while pgconn.is_busy():
            left = deadline - time.monotonic()
            if self._closed or left <= 0:
                self._drop()
                return "closed" if self._closed else "timeout", None
            if readable(pgconn.socket, min(left, LOOK)):
                pgconn.consume_input()
        code, state = _read(pgconn)
        if code != "ok":
            self._drop()
        return code, state

    def _drop(self) -> None:
        """Close it. Not cancelled before: that would be another connection to a server that doesn't answer this one."""
        entry, self._entry = self._entry, None
        if entry is not None and entry.pid == os.getpid():
            dedicated.leave(entry)
            with suppress(psycopg.Error, OSError):
                entry.close()

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained >= COMPLAIN:
            self._complained = time.monotonic()
            with suppress(Exception):  # of a filter of the project's log
                logger.error("database %r: the health probe can't connect", self.alias, exc_info=error)


def _read(pgconn: PGconn) -> tuple[Code, str | None]:
    """The result, and all that belongs to it; the connection is ready for another question."""
    state: str | None = None
    good = False
    while (result := pgconn.get_result()) is not None:
        good = result.status == ExecStatus.TUPLES_OK
        field = result.error_field(DiagnosticField.SQLSTATE)
        state = field.decode("ascii", "replace") if field else None
    return ("ok" if good else _code_for(state)), state


def _code_for(state: str | None) -> Code:
    if sqlstate.is_server_full(state):
        return "full"
    if sqlstate.is_credentials(state):
        return "refused"
    return "starting" if state == "57P03" else "unreachable"


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
