"""
The failures of the pool, by name. Those of connecting are ``django.db.OperationalError``: code that caught that goes
on working.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError

from .core.errors import CircuitIsOpen, Exhausted, Expiry, LeaseRefused, Refusal, ServerIsFull
from .core.ledger import Holder

__all__ = [
    "CircuitOpen",
    "DatabaseUnavailable",
    "LeaseTimedOut",
    "PoolError",
    "PoolExhausted",
    "RawAccessRefused",
    "RawAccessWarning",
    "ServerConnectionsExhausted",
]

raised_in_request: ContextVar[list[BaseException] | None] = ContextVar("dbpool_raised_in_request", default=None)
"""
Set by the middleware, which looks here for an error that somebody has turned into one of another kind: Django's
session store makes every DatabaseError of save() a "session was deleted", answered 400.
"""


def remember(error: DatabaseError) -> None:
    """For the middleware, unless it is an error that no wait would heal."""
    raised = raised_in_request.get()
    if raised is not None and isinstance(error, (OperationalError, InternalError)):
        # A request that tries again and again must not pile up tracebacks. Not only the last few, because
        # Django's technical page, in showing what it finds, evaluates users and querysets by the dozen.
        raised[:] = [*raised[-63:], error]


class PoolError(OperationalError):
    """
    No connection could be leased, or a lease ended before its time.

    Attributes:
        alias: the database's alias in ``DATABASES``.
        waited: seconds the caller waited.
        in_use: leases out at that moment.
        max_size: the pool's limit.
        waiting: other callers still queued.
        retry_after: seconds after which another attempt makes sense.
        holders: each lease's thread, unit of work, age, state and current stack.
    """

    retry_after: float = 1.0
    advice: ClassVar[str] = ""

    def __init__(self, refusal: Refusal) -> None:
        self.alias = refusal.alias
        self.waited = refusal.waited
        self.in_use = refusal.in_use
        self.max_size = refusal.max_size
        self.waiting = refusal.waiting
        self.holders: tuple[Holder, ...] = refusal.holders
        self.cycle = refusal.cycle
        if refusal.retry_after is not None:
            self.retry_after = refusal.retry_after
        self.refusal = refusal
        super().__init__(self.describe())
        remember(self)

    def __reduce__(self) -> tuple[type[PoolError], tuple[Any, ...], dict[str, Any]]:
        # Exceptions are pickled by their args, which here are the finished text: Celery's and multiprocessing's
        # results would fail to load.
        return (type(self), (self.refusal,), self.__dict__)

    def describe(self) -> str:
        return str(self.alias)

    def said(self) -> str:
        """The driver's words, where there are any."""
        return f"The driver says: {self.refusal.driver}. " if self.refusal.driver else ""


class PoolExhausted(PoolError):
    """All connections stayed leased until the deadline, or the queue was full."""

    advice = (
        "Release sooner: no slow call inside atomic(), no pinned connection kept around one; `holders` on this error "
        "has each holder's stack. If the holders are all short, raise POOL['max_size'] (mind the server's "
        "max_connections) or POOL['timeout']."
    )

    def describe(self) -> str:
        lines = [
            (
                f"No connection to database {self.alias!r} after {self.waited:.1f} s: {self.in_use} of "
                f"{self.max_size} in use, {self.waiting} more waiting."
            )
        ]
        lines += [f"  {number}. {holder}" for number, holder in enumerate(self.holders, 1)]
        if self.cycle:
            lines.append("This wait could never end: " + "; ".join(self.cycle) + ".")
        lines.append(self.advice)
        return "\n".join(lines)


class DatabaseUnavailable(PoolError):
    """The server refused the connection or did not answer. The driver's error is ``__cause__``."""

    retry_after = 5.0
    advice = "Is the server up, and do HOST, PORT, NAME and USER of this alias name it?"

    def describe(self) -> str:
        return (
            f"Database {self.alias!r} is unavailable: connecting failed after {self.waited:.1f} s, "
            f"{self.in_use} older connections in use. {self.said()}{self.refusal.reason or self.advice}"
        )


class CircuitOpen(PoolError):
    """Nobody tried: connecting had failed too often. The last error is ``__cause__``."""

    advice = "It closes by itself as soon as the server answers."

    def describe(self) -> str:
        return (
            f"The circuit of database {self.alias!r} is open, no connection was tried; try again in "
            f"{self.retry_after:.0f} s. {self.said()}{self.advice}"
        )


class ServerConnectionsExhausted(PoolError):
    """The server has no connection left for us (SQLSTATE 53300). The driver's error is ``__cause__``."""

    advice = (
        "Something else uses the server's max_connections, or the limit of the role or the database: look at "
        "pg_stat_activity, lower POOL['max_size'] times the number of processes, or put a pooler before the server."
    )

    def describe(self) -> str:
        return (
            f"The server of database {self.alias!r} has no connection left, after {self.waited:.1f} s. "
            f"{self.said()}{self.advice}"
        )


class LeaseTimedOut(PoolError):
    """
    A statement or transaction took longer than a time limit, ours or the server's. The driver's error is ``__cause__``.

    Attributes:
        setting: the key of POOL that set the limit.
        limit: seconds; None if it was set on the server.
        maybe_committed: the connection was cut during COMMIT or a statement outside of a transaction that may write,
            so whether that took effect is unknown. False: it did not.
    """

    retry_after = 5.0

    _advice: ClassVar[dict[str, str]] = {
        "command_timeout": "Make the statement faster, or raise the limit. If even SELECT 1 takes as long, the server "
        "hangs or the network drops packets.",
        "idle_in_transaction_timeout": "Move slow work out of atomic(), or into on_commit().",
        "transaction_timeout": "Do less in one transaction: in batches, or slow work outside of atomic().",
        "idle_session_timeout": "A lease was held without a statement: a pin or session mode. Use it or end it sooner.",
    }

    def __init__(self, refusal: Refusal, expiry: Expiry) -> None:
        self.expiry = expiry
        self.setting = expiry.setting
        self.limit = expiry.limit
        self.maybe_committed = expiry.maybe_committed
        super().__init__(refusal)

    def __reduce__(self) -> tuple[type[PoolError], tuple[Any, ...], dict[str, Any]]:
        return (type(self), (self.refusal, self.expiry), self.__dict__)

    def describe(self) -> str:
        expiry = self.expiry
        limit = f"POOL[{expiry.setting!r}]" if expiry.limit is not None else f"the server's limit for {expiry.setting}"
        seconds = "" if expiry.limit is None else f" = {expiry.limit:g} s"
        what = {
            "command_timeout": f"A statement on database {self.alias!r} was stopped after {expiry.age:.1f} s",
            "transaction_timeout": f"A transaction on database {self.alias!r} was ended by the server",
        }.get(expiry.setting, f"An idle session on database {self.alias!r} was ended by the server")
        lines = [
            (
                f"{what}: {limit}{seconds} was exceeded; {self.in_use} of {self.max_size} connections in use, "
                f"{self.waiting} callers waiting."
            )
        ]
        if not expiry.answered:
            lines.append("The server did not answer the request to cancel it, so the connection was cut.")
        if self.maybe_committed:
            lines.append("It may have been committed: look before you repeat it.")
        lines.append(self._advice[expiry.setting])
        return "\n".join(lines)


class RawAccessRefused(InterfaceError):
    """The raw connection was used while ``DBPOOL["RAW_ACCESS"]`` is "error". The text names the caller."""


class RawAccessWarning(RuntimeWarning):
    """The same for "warn", once for each line of code."""


def from_refusal(refused: LeaseRefused) -> PoolError:
    """The public error for a refusal of the core, with the same cause."""
    kind: type[PoolError] = DatabaseUnavailable
    if isinstance(refused, Exhausted):
        kind = PoolExhausted
    elif isinstance(refused, ServerIsFull):
        kind = ServerConnectionsExhausted
    elif isinstance(refused, CircuitIsOpen):
        kind = CircuitOpen
    error = kind(refused.refusal)
    error.__cause__ = refused.__cause__
    return error
