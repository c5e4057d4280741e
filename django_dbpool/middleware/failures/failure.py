"""Which exceptions are answered 503, and what each means: to a visitor, to a program, to the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from django.db import DatabaseError, OperationalError
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from ...core import sqlstate
from ...errors import LeaseTimedOut, PoolError


@dataclass(frozen=True, slots=True)
class Kind:
    """What happened, as seen from outside. Tells nothing of hosts, databases, tables or people."""

    slug: str
    """Last part of the problem's type."""
    title: str | Promise
    detail: str | Promise
    retry_after: float
    """Seconds, for errors that don't say it themselves."""
    level: int = logging.WARNING
    traceback: bool = True
    """Whether the log needs to know where it was raised."""


BUSY = Kind(
    "busy",
    _("Very busy just now"),
    _("More is being asked of this site at the moment than it can answer at once."),
    retry_after=1,
    traceback=False,
)
UNAVAILABLE = Kind(
    "unavailable",
    _("Temporarily unavailable"),
    _("This site can't reach its data at the moment."),
    retry_after=5,
    level=logging.ERROR,
    traceback=False,
)
# The outage has been logged as such by those who met it; this one only wasn't let through.
CIRCUIT_OPEN = replace(UNAVAILABLE, level=logging.WARNING)
INTERRUPTED = Kind(
    "interrupted",
    _("The connection was interrupted"),
    _("The connection to this site's data broke while it was working on your request."),
    retry_after=1,
    level=logging.ERROR,
)
OUTCOME_UNKNOWN = Kind(
    "outcome-unknown",
    _("Please check your last change"),
    _(
        "The connection broke at a moment when your change may or may not have been saved. "
        "Please look before you send it again."
    ),
    retry_after=1,
    level=logging.ERROR,
)
TIMEOUT = Kind(
    "timeout",
    _("That took too long"),
    _("Your request took longer than is allowed and was given up."),
    retry_after=5,
)
CONFLICT = Kind(
    "conflict",
    _("Somebody else was faster"),
    _("The same data was being changed by somebody else at the same moment."),
    retry_after=1,
)
READ_ONLY = Kind(
    "read-only",
    _("Nothing can be changed just now"),
    _("This site can be read at the moment, but changes can't be saved."),
    retry_after=10,
    level=logging.ERROR,
)
RESTARTING = Kind(
    "restarting",
    _("Back in a moment"),
    _("This site is just being restarted."),
    retry_after=1,
    traceback=False,
)

# By name, the most derived class first: the names of psycopg_pool's own errors, too, which Django's pool raises.
_BY_CLASS = {
    "PoolOverloaded": BUSY,
    "PoolExhausted": BUSY,
    "ServerConnectionsExhausted": BUSY,
    "DatabaseUnavailable": UNAVAILABLE,
    "CircuitOpen": CIRCUIT_OPEN,
    "ShuttingDown": RESTARTING,
    "CommitUnknown": OUTCOME_UNKNOWN,
    "ConnectionLost": INTERRUPTED,
    "LeaseTimedOut": TIMEOUT,
    "PoolError": UNAVAILABLE,
    "PoolTimeout": BUSY,
    "TooManyRequests": BUSY,
}


# Words of libpq's and psycopg's about a connection that existed; they are not translated in psycopg's binary packages.
_LOST = (
    "server closed the connection",
    "consuming input failed",
    "sending query",
    "the connection is lost",
    "the connection is closed",
    "terminating connection",
)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that is nobody's mistake and that time may heal."""

    error: BaseException
    kind: Kind
    name: str
    """The error's name for the log: of its class or of the driver's."""
    sqlstate: str | None

    @property
    def retry_after(self) -> float:
        """Seconds."""
        own: float | None = getattr(self.error, "retry_after", None)
        return self.kind.retry_after if own is None else own

    @property
    def maybe_committed(self) -> bool:
        return bool(getattr(self.error, "maybe_committed", self.kind is OUTCOME_UNKNOWN))

    @property
    def is_expected(self) -> bool:
        """The server ended the connection on purpose, or we did; a change that may be lost is never expected."""
        if self.kind is OUTCOME_UNKNOWN:
            return False
        return self.kind is RESTARTING or sqlstate.is_expected_termination(self.sqlstate)

    @property
    def connection_terminated(self) -> bool:
        """A connection that existed is gone; told apart from one that could not be made."""
        if self.kind in (INTERRUPTED, OUTCOME_UNKNOWN) or sqlstate.is_server_timeout(self.sqlstate):
            return True
        # A statement whose time was up and that the server did not answer for.
        return isinstance(self.error, LeaseTimedOut) and not self.error.expiry.answered


def failure_of(error: BaseException) -> Failure | None:
    """None for everything that Django should answer as it always does."""
    if isinstance(error, PoolError):
        return _of_pool_error(error)
    if isinstance(error, DatabaseError):
        return _of_driver_error(error)
    if isinstance(error, BaseExceptionGroup):  # of an asyncio.TaskGroup in a view
        failures = [failure_of(each) for each in error.exceptions]
        return failures[0] if all(failures) else None
    return None


def _of_pool_error(error: PoolError) -> Failure:
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or (cause and sqlstate.of_refused_connection(str(cause))) or None
    kind = _kind_of_class(type(error)) or UNAVAILABLE
    if getattr(error, "maybe_committed", False):
        kind = OUTCOME_UNKNOWN
    return Failure(error, kind, type(error).__name__, code)


def _of_driver_error(error: DatabaseError) -> Failure | None:
    """Django's own errors, with psycopg's as the cause; those of other drivers have no ``sqlstate`` and are left."""
    cause: Any = error.__cause__
    if not hasattr(cause, "sqlstate"):
        return None
    code = cause.sqlstate
    if code is not None:
        kind = _kind_of_code(code)
    elif isinstance(error, OperationalError):
        code = sqlstate.of_refused_connection(str(cause))
        kind = _kind_of_class(type(cause)) or _kind_without_code(str(cause), code)
    else:
        kind = None
    return None if kind is None else Failure(error, kind, type(cause).__name__, code)


def _kind_of_class(kind: type[BaseException]) -> Kind | None:
    return next((_BY_CLASS[base.__name__] for base in kind.__mro__ if base.__name__ in _BY_CLASS), None)


def _kind_without_code(text: str, refused: str | None) -> Kind:
    """Of what libpq and psycopg say by themselves: no server, no answer, connection refused or lost."""
    if sqlstate.is_server_full(refused):
        return BUSY
    return INTERRUPTED if any(words in text for words in _LOST) else UNAVAILABLE


def _kind_of_code(code: str) -> Kind | None:
    if not sqlstate.is_unavailable_answer(code):
        return None
    if sqlstate.is_serialization(code):
        return CONFLICT
    if sqlstate.is_read_only(code):
        return READ_ONLY
    if sqlstate.is_server_full(code):
        return BUSY
    if sqlstate.is_server_timeout(code) or code in sqlstate.QUERY_CANCELED | sqlstate.LOCK_NOT_AVAILABLE:
        return TIMEOUT
    if sqlstate.is_unreachable(code) and code != "57P03":
        return INTERRUPTED
    return UNAVAILABLE
