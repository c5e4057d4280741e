"""
Making physical connections: what is tried again, what is given up at once, and when nobody tries any more.

A failed attempt is repeated with a random, growing delay while the caller's deadline and the retry policy allow.
Callers whose attempts are used up count as failures of the circuit breaker; once it is open everybody is refused
without an attempt, and one thread probes until the server answers.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import Connection

from ..core import sqlstate
from ..core.blocks import seconds_left
from ..core.breaker import CircuitBreaker, Rejected, State, Transition
from ..core.logs import get_logger
from ..core.retry import Retrier
from . import stopping, tell
from .credentials import NoPassword, password_was_refused
from .turns import Turns

if TYPE_CHECKING:
    from .managed import ManagedPool

logger = get_logger("django_dbpool.pool")


INVALID_PASSWORD = "28P01"  # noqa: S105  # an SQLSTATE

SHORTEST_ATTEMPT = 2
"""Seconds; libpq and psycopg take no fewer: https://www.postgresql.org/docs/current/libpq-connect.html"""

GRACE = 0.5
"""Seconds for an attempt that is begun just before its deadline: a server that answers at once is not called away."""

HASTY = 1.0
"""Seconds; whoever gives a server less of its ``transaction.deadline()`` learns nothing of it by getting no answer."""

PROBE_TIMEOUT = float(SHORTEST_ATTEMPT)


# Libpq's own words for a connection that ended, not the server's; they are not translated in psycopg's binary packages.
_LOST = (
    "server closed the connection",
    "SSL error",
    "SSL SYSCALL error",
    "SSL connection has been closed",
    "could not ",
)


# What libpq says before a server has said anything, and what no later attempt changes. Not translated either.
_MISCONFIGURED = (
    "server does not support SSL",
    "certificate verify failed",
    "root certificate file",
    "certificate file",
    "private key file",
    "does not match host name",
)


class ServerFull(Exception):
    """The server refused one more connection, and the pool has some: it can serve from those."""


def code_of(error: BaseException | None) -> str | None:
    """SQLSTATE of a failed connect; None when no server has spoken."""
    if not isinstance(error, psycopg.Error):
        return None
    code = error.sqlstate or sqlstate.of_refused_connection(str(error))
    if code is None and (isinstance(error, NoPassword) or _ended_at_the_password(error)):
        return INVALID_PASSWORD
    return code


def _ended_at_the_password(error: psycopg.Error) -> bool:
    """In whatever language the server says no: to repeat it could lock the account."""
    return password_was_refused(error) and not any(words in str(error) for words in _LOST)


class Connector:
    """
    The only place of a pool that connects.

    Args:
        on_refused: called with the error of a failed attempt; True asks for another one at once.
    """

    def __init__(self, pool: ManagedPool, on_refused: Callable[[BaseException], bool] | None) -> None:
        self.pool = pool
        self.breaker = CircuitBreaker(pool.config.breaker, on_change=(self._circuit_changed,), clock=pool.clock)
        self.last_error: BaseException | None = None
        self.successes = 0
        """Callers' connections made; not exact, it only tells whether there were any since."""
        self.seconds: WeakKeyDictionary[Connection[Any], float] = WeakKeyDictionary()
        """How long it took to make each connection that is not an entry of the pool yet."""
        self.turns = Turns(pool.clock)
        self._on_refused = on_refused
        self._known = threading.Event()
        """Set, and replaced, when it is known how things stand: who waits for the next attempt need wait no longer."""

    def open(self, deadline: float) -> Connection[Any]:
        """
        A new connection for a caller who has a permit of the gate.

        Raises:
            Rejected: the circuit is open.
            ServerFull: the server has no connection left for us, but the pool has some.
            psycopg.Error: of the last attempt.
        """
        given = deadline - self.pool.clock()
        with self.breaker.allow() as permit:
            try:
                conn = self._attempts(deadline)
            except psycopg.Error as error:
                code = code_of(error)
                # The server that refuses a password or is full is there. One that did not answer before the caller's
                # own deadline may have had no time to.
                hasty = given < HASTY and isinstance(error, psycopg.errors.ConnectionTimeout) and seconds_left() <= 0
                if not (sqlstate.is_credentials(code) or sqlstate.is_server_full(code) or hasty):
                    permit.failure(error)
                raise
            permit.success()
        return conn

    @property
    def fails(self) -> bool:
        """The last attempt did, and not because the server has enough connections."""
        return self.last_error is not None and not sqlstate.is_server_full(code_of(self.last_error))

    def refuse_if_open(self) -> None:
        """
        Before a caller queues.

        Raises:
            Rejected: the circuit is open, and nothing is free that has outlived the trouble.
        """
        breaker = self.breaker
        if breaker.state is State.CLOSED or (self.pool.gate.free and breaker.state is not State.ISOLATED):
            return
        now = breaker.snapshot()
        if now.retry_after > 0:
            raise Rejected(now.state, now.retry_after, now.error)

    def _attempts(self, deadline: float) -> Connection[Any]:
        pool = self.pool
        answered = self._known

        def sleep(delay: float) -> None:
            answered.wait(delay)

        retrier = Retrier(pool.config.retry, deadline=deadline, clock=pool.clock, sleep=sleep)
        while True:
            try:
                with self.turns.one(deadline, self._is_open):
                    self._refuse_if_opened()
                    conn = self.attempt(deadline)
            except psycopg.Error as error:
                self.last_error = error
                pool.housekeeping.connecting_failed(error)
                if retrier.attempts == 1:
                    pool.check()  # a server that is away has taken the idle connections with it
                if not (self._may_try_again(error) and retrier.wait() and self.breaker.state is State.CLOSED):
                    raise
                tell.retried(pool.alias, "connect", retrier.attempts - 1, retrier.delay, code_of(error))
                answered = self._known
            else:
                self._server_answers()
                return conn

    def _is_open(self) -> bool:
        return self.breaker.state in (State.OPEN, State.ISOLATED)

    def _refuse_if_opened(self) -> None:
        """After the wait for a turn: others may have found out meanwhile that there is nobody to connect to."""
        if self._is_open():
            now = self.breaker.snapshot()
            raise Rejected(now.state, now.retry_after, now.error)

    def _may_try_again(self, error: psycopg.Error) -> bool:
        code = code_of(error)
        # The reserve's are lent to nobody else: who waited for one of them would be given the next permit instead, for
        # ever, and knock again.
        if sqlstate.is_server_full(code) and any(not entry.reserved for entry in tuple(self.pool.entries)):
            raise ServerFull from error
        if code is not None and not sqlstate.is_transient(code):
            return False
        if code is None and any(words in str(error) for words in _MISCONFIGURED):
            return False
        return not self.pool.gate.closed

    def attempt(self, deadline: float) -> Connection[Any]:
        """One attempt, or two if the first told how to make the second."""
        began = self.pool.clock()
        try:
            long_enough = round(self._timeout(deadline)) >= SHORTEST_ATTEMPT
            conn = self._connect(deadline) if long_enough else self._hurry(deadline)
            self.pool.prepare(conn, max(self._timeout(deadline), GRACE))
        except psycopg.Error as error:
            tell.failed(self.pool.alias, self.pool.clock() - began, code_of(error), error)
            raise
        self.seconds[conn] = self.pool.clock() - began
        return conn

    def _timeout(self, deadline: float) -> float:
        pool = self.pool
        return min(pool.config.connect_timeout, max(0.001, deadline - pool.clock()))

    def _connect(self, deadline: float) -> Connection[Any]:
        try:
            return self.pool._connect(timeout=self._timeout(deadline))
        except psycopg.Error as error:
            if self._on_refused is not None and self._on_refused(error):
                return self._connect(deadline)
            raise

    def _hurry(self, deadline: float) -> Connection[Any]:
        """
        An attempt takes two seconds if nobody answers, however few it is given. A caller who has less leaves it to a
        thread; what comes of it later is kept for the next.
        """
        found: Future[Connection[Any]] = Future()
        name = f"dbpool-connect-{self.pool.alias}"
        try:
            threading.Thread(target=self._connect_later, args=(found, deadline), name=name, daemon=True).start()
        except RuntimeError:  # no more threads: the interpreter ends, or the system's limit is reached
            return self._connect(deadline)
        try:
            return found.result(max(self._timeout(deadline), GRACE))
        except TimeoutError:
            if found.cancel():
                raise psycopg.errors.ConnectionTimeout("connection timeout expired") from None
            return found.result()  # it came in this moment
        except BaseException:
            if not found.cancel() and found.exception() is None:
                self._keep(found.result())
            raise

    def _connect_later(self, found: Future[Connection[Any]], deadline: float) -> None:
        began = self.pool.clock()
        try:
            conn = self._connect(deadline)
            self.seconds[conn] = self.pool.clock() - began
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
            if found.set_running_or_notify_cancel():
                found.set_exception(error)
        else:
            if found.set_running_or_notify_cancel():
                found.set_result(conn)
            else:
                self._keep(conn)

    def _keep(self, conn: Connection[Any]) -> None:
        """A connection that nobody waits for any more."""
        try:
            self.pool.prepare(conn, self.pool.config.connect_timeout)
            self.pool.adopt(conn)
        except Exception:
            logger.exception("database %r: a connection that came too late is of no use", self.pool.alias)

    def _server_answers(self) -> None:
        self.successes += 1
        if self.fails:
            self.pool.gate.excuse()
        self.last_error = None
        self._wake()
        self.pool.housekeeping.server_answers()

    def _wake(self) -> None:
        before, self._known = self._known, threading.Event()
        before.set()

    # -- the circuit --------------------------------------------------------------------------------------------

    def _circuit_changed(self, transition: Transition) -> None:
        level = logging.INFO if transition.after is State.HALF_OPEN else logging.WARNING
        logger.log(level, "database %r: circuit %s: %s", self.pool.alias, transition.after.value, transition.reason)
        tell.circuit_changed(self.pool.alias, transition)
        self.pool.gate.suspend(transition.after is State.ISOLATED or stopping.announced is not None)
        if transition.after in (State.OPEN, State.ISOLATED):
            self.pool.gate.refuse_queued()
            self._wake()
        if transition.after is State.OPEN and self.pool.config.breaker.probe_interval is not None:
            name = f"dbpool-probe-{self.pool.alias}"
            threading.Thread(target=self._probe, args=(os.getpid(),), name=name, daemon=True).start()
        elif transition.after is State.CLOSED:
            self._server_answers()

    def _probe(self, pid: int) -> None:
        """Until the server answers, or the circuit or the pool is closed by somebody else."""
        interval = self.pool.config.breaker.probe_interval
        assert interval is not None
        pause = threading.Event()
        while True:
            # Jitter, so that the processes of a fleet don't knock together.
            pause.wait(interval * random.uniform(0.8, 1.2))  # noqa: S311
            if os.getpid() != pid or self.pool.gate.closed or self.breaker.state is not State.OPEN:
                return
            if self._probe_once():
                self.breaker.probe_succeeded()
                return

    def _probe_once(self) -> bool:
        pool = self.pool
        try:
            conn = self.attempt(pool.clock() + PROBE_TIMEOUT)
        except psycopg.Error as error:
            code = code_of(error)
            if sqlstate.is_credentials(code) or sqlstate.is_server_full(code):
                return True
            self.breaker.probe_failed(error)
            return False
        except Exception:
            # Code of an engine that derives from ours, or of a provider of credentials.
            logger.exception("database %r: the probe failed", pool.alias)
            return False
        try:
            pool.adopt(conn)
        except Exception:
            logger.exception("database %r: the connection of a probe is of no use", pool.alias)
        return True
