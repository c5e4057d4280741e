"""
The question whether a server answers: on which connection it is asked, and what becomes of it. Whoever asks it, and how
often, is not known here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import Connection
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGconn

from ..core import sqlstate
from ..core.logs import get_logger
from . import dedicated
from .connecting import code_of
from .credentials import NoPassword
from .entry import PoolEntry
from .readable import readable

logger = get_logger("django_dbpool.health")

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

LIFETIME = 300.0
"""Seconds after which the connection is made anew: another server may have the name by now."""

GIVE_UP = 2.0
"""
Seconds after which a question without answer is dropped with its connection. Longer than callers wait, so that a slow
server isn't asked to start a session each second on top of its trouble.
"""

COMPLAIN = 60.0
"""Seconds between two log records about code that fails: an engine's that derives, a provider's of credentials."""

LOOK = 0.1
"""Seconds between two looks, while the server is waited for, whether the answer is still wanted."""

QUESTION = b"SELECT 1"


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


class Question:
    """
    Of one thread, on a connection that is kept for the next time.

    Args:
        alias: for the reports.
        connect: called by ``ask``.
        is_over: true once nobody wants an answer any more.
        clock: seconds.
    """

    def __init__(
        self, alias: str, connect: Connect, *, is_over: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        self._alias = alias
        self._connect = connect
        self._is_over = is_over
        self._clock = clock
        self._entry: PoolEntry | None = None
        self._complained = -COMPLAIN
        self.asked = 0
        """How often, so far."""

    def ask(self) -> Answer:
        """It takes a few seconds at most; what goes wrong is an answer, too."""
        began = self._clock()
        self.asked += 1
        code: Code
        state: str | None = None
        try:
            code, state = self._find()
        except NoPassword as error:
            # The server was not asked: it can be tried again soon.
            code = "no_password"
            self._complain(error)
        except psycopg.Error as error:
            self.drop()
            state = code_of(error)
            code = "timeout" if isinstance(error, psycopg.errors.ConnectionTimeout) else _code_for(state)
        except Exception as error:  # noqa: BLE001  # of an engine that derives from ours, or a provider of credentials
            self.drop()
            code = "misconfigured"
            self._complain(error)
        now = self._clock()
        return Answer(code, now, max(0.0, now - began), state)

    def drop(self) -> None:
        """
        Close the connection. Not cancelled before: that would be another one, to a server that doesn't answer this.
        """
        entry, self._entry = self._entry, None
        if entry is not None and entry.pid == os.getpid():
            dedicated.leave(entry)
            with suppress(psycopg.Error, OSError):
                entry.close()

    def _find(self) -> tuple[Code, str | None]:
        entry = self._entry
        if self._is_over():
            return "closed", None
        if entry is not None and (self._clock() - entry.created_at >= LIFETIME or entry.suspicious()):
            self.drop()
        elif entry is not None:
            # A connection that turns out to have died meanwhile says nothing of the server; a new one does.
            with suppress(psycopg.Error):
                code, state = self._ask_on(entry)
                if code in ("ok", "timeout", "closed"):
                    return code, state
            self.drop()
        self._entry = entry = dedicated.keep(self._alias, self._connect(), self._clock())
        return self._ask_on(entry)

    def _ask_on(self, entry: PoolEntry) -> tuple[Code, str | None]:
        pgconn = entry.conn.pgconn
        pgconn.send_query(QUESTION)
        deadline = time.monotonic() + GIVE_UP
        while pgconn.is_busy():
            left = deadline - time.monotonic()
            if self._is_over() or left <= 0:
                self.drop()
                return "closed" if self._is_over() else "timeout", None
            if readable(pgconn.socket, min(left, LOOK)):
                pgconn.consume_input()
        code, state = _read(pgconn)
        if code != "ok":
            self.drop()
        return code, state

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained >= COMPLAIN:
            self._complained = time.monotonic()
            logger.error("database %r: the health probe can't connect", self._alias, exc_info=error)


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
