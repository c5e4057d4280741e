"""
The failures of the pool, by name. Those of connecting are ``django.db.OperationalError``: code that caught that goes
on working.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError
from django.db.transaction import TransactionManagementError

from .core.errors import (
    CircuitIsOpen,
    Exhausted,
    Expiry,
    LeaseRefused,
    Loss,
    Moment,
    ProcessIsStopping,
    QueueFull,
    Refusal,
    ServerIsFull,
)
from .core.ledger import Holder

__all__ = [
    "CircuitOpen",
    "CommitUnknown",
    "ConnectionLost",
    "DatabaseUnavailable",
    "LeaseTimedOut",
    "PoolError",
    "PoolExhausted",
    "PoolOverloaded",
    "RawAccessRefused",
    "RawAccessWarning",
    "RetryingInsideTransaction",
    "ServerConnectionsExhausted",
    "ShuttingDown",
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


_UNKNOWN_EXPIRY = Expiry("command_timeout", None, 0.0, True, False)
_UNKNOWN_LOSS = Loss("commit")


def _known(refusal: Refusal | str) -> Refusal:
    return Refusal("", 0.0, 0, 0, 0, told=refusal) if isinstance(refusal, str) else refusal


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

    def __init__(self, refusal: Refusal | str) -> None:
        # A text is all that Celery's results keep of an error.
        refusal = _known(refusal)
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
        super().__init__(refusal.told or self.describe())
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
    """
    All connections stayed leased until the deadline, or as many as the caller's group may have.

    Attributes:
        holders_age: seconds since ``holders`` was found out: more than 0 if somebody else was refused just before.
    """

    advice = (
        "Release sooner: no slow call inside atomic(), no pinned connection kept around one; `holders` on this error "
        "has each holder's stack. If the holders are all short, raise POOL[\"max_size\"] (mind the server's "
        'max_connections) or POOL["timeout"].'
    )

    def __init__(self, refusal: Refusal | str) -> None:
        refusal = _known(refusal)
        self.holders_age = refusal.holders_age
        super().__init__(refusal)

    def summary(self) -> str:
        limit = f"; {self.refusal.limit}" if self.refusal.limit else ""
        return (
            f"No connection to database {self.alias!r} after {self.waited:.1f} s: {self.in_use} of "
            f"{self.max_size} in use, {self.waiting} more waiting{limit}."
        )

    def describe(self) -> str:
        lines = [self.summary()]
        if self.holders and self.holders_age > 0:
            lines.append(f"  The holders {self.holders_age:.1f} s ago:")
        lines += [f"  {number}. {holder}" for number, holder in enumerate(self.holders, 1)]
        if self.cycle:
            lines.append("This wait could never end: " + "; ".join(self.cycle) + ".")
        lines += [self.refusal.reason] if self.refusal.reason else []
        lines.append(self.advice)
        return "\n".join(lines)


class PoolOverloaded(PoolExhausted):
    """
    Refused at once instead of after the timeout: callers have been waiting too long for too long, or too many wait.
    """

    advice = (
        "More work arrives than the connections can do. If that lasts: make the holders' statements faster, limit what "
        'may wait (POOL["groups"] for batches and single clients), or raise POOL["max_size"] (mind the server\'s '
        "max_connections). docs/admission.md explains the limits."
    )

    def summary(self) -> str:
        return (
            f"Database {self.alias!r} is overloaded, refused after {self.waited:.2f} s: {self.refusal.limit}; "
            f"{self.in_use} of {self.max_size} connections in use, {self.waiting} callers waiting."
        )


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
        'pg_stat_activity, lower POOL["max_size"] times the number of processes, or put a pooler before the server.'
    )

    def describe(self) -> str:
        return (
            f"The server of database {self.alias!r} has no connection left, after {self.waited:.1f} s. "
            f"{self.said()}{self.advice}"
        )


class ShuttingDown(PoolError):
    """This process is being shut down (``django_dbpool.shutdown()``), and this work is new or out of time."""

    advice = "Send the request again, another process will take it. Work that had begun was given time to finish."

    def describe(self) -> str:
        return (
            f"No connection to database {self.alias!r}: this process is shutting down, {self.in_use} connections are "
            f"still in use. {self.advice}"
        )


class LeaseTimedOut(PoolError):
    """
    A statement or transaction took longer than a time limit, ours or the server's. The driver's error is ``__cause__``.

    Attributes:
        setting: the key of POOL that set the limit, or "deadline" for ``transaction.deadline()``.
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
        "deadline": "Do less in the block, or give it more time.",
    }

    def __init__(self, refusal: Refusal | str, expiry: Expiry = _UNKNOWN_EXPIRY) -> None:
        self.expiry = expiry
        self.setting = expiry.setting
        self.limit = expiry.limit
        self.maybe_committed = expiry.maybe_committed
        super().__init__(refusal)

    def __reduce__(self) -> tuple[type[PoolError], tuple[Any, ...], dict[str, Any]]:
        return (type(self), (self.refusal, self.expiry), self.__dict__)

    def describe(self) -> str:
        expiry = self.expiry
        lines = [
            (
                f"{self._happened()}: {self._exceeded()}; {self.in_use} of {self.max_size} connections in use, "
                f"{self.waiting} callers waiting."
            )
        ]
        if not expiry.answered:
            lines.append("The server did not answer the request to cancel it, so the connection was cut.")
        if self.maybe_committed:
            lines.append("It may have been committed: look before you repeat it.")
        lines.append(self._advice[expiry.setting])
        return "\n".join(lines)

    def _happened(self) -> str:
        expiry = self.expiry
        if not expiry.sent:
            return f"A statement on database {self.alias!r} was not sent"
        if expiry.setting in ("command_timeout", "deadline"):
            return f"A statement on database {self.alias!r} was stopped after {expiry.age:.1f} s"
        what = "A transaction" if expiry.setting == "transaction_timeout" else "An idle session"
        return f"{what} on database {self.alias!r} was ended by the server"

    def _exceeded(self) -> str:
        expiry = self.expiry
        if expiry.limit is None:
            return f"the server's limit for {expiry.setting} was exceeded"
        if expiry.setting == "deadline":
            return f"transaction.deadline({expiry.limit:g}) has passed"
        return f'POOL["{expiry.setting}"] = {expiry.limit:g} s was exceeded'


class RetryingInsideTransaction(TransactionManagementError):
    """``transaction.retrying()`` was begun inside a transaction, of which it could repeat only a part."""


class ConnectionLost(PoolError):
    """
    A connection ended while it was in use: the server ended it or itself, or the network did. The driver's error is
    ``__cause__``.

    Attributes:
        maybe_committed: it was lost during COMMIT, or during a statement outside of a transaction that may write, so
            whether that took effect is unknown. False: nothing was committed, the work may be repeated.
    """

    _ENDS: ClassVar[dict[Moment, tuple[str, str]]] = {
        "unsent": (
            "before a statement was sent",
            "That did not run, and what the connection held is gone with it: an open transaction is rolled back.",
        ),
        "read": ("during a statement that only reads", "Nothing was changed."),
        "write": ("during a statement outside of a transaction", "It may have been committed."),
        "transaction": ("in a transaction", "The server rolls that back: nothing of it was committed."),
        "commit": ("during COMMIT", "The transaction may have been committed."),
        "aborted": ("during COMMIT", "The server was asked and says that the transaction was not committed."),
        "unwritten": ("during COMMIT", "The transaction had changed nothing that could be committed."),
    }
    _REPEAT: ClassVar[str] = (
        "Repeat the whole block or statement; another connection is taken. Why the server ended this one is in its log."
    )
    _LOOK: ClassVar[str] = (
        "Look before you repeat it, or write it so that repeating does no harm (docs/lost-connections.md). Why the "
        "server ended the connection is in its log."
    )

    def __init__(self, refusal: Refusal | str, loss: Loss = _UNKNOWN_LOSS) -> None:
        self.loss = loss
        self.maybe_committed = loss.maybe_committed
        super().__init__(refusal)

    def __reduce__(self) -> tuple[type[PoolError], tuple[Any, ...], dict[str, Any]]:
        return (type(self), (self.refusal, self.loss), self.__dict__)

    def describe(self) -> str:
        when, outcome = self._ENDS[self.loss.moment]
        return (
            f"The connection to database {self.alias!r} was lost {when}. {self.said()}"
            f"{outcome} {self._LOOK if self.maybe_committed else self._REPEAT}"
        )


class CommitUnknown(ConnectionLost):
    """
    The connection was lost during COMMIT: ``maybe_committed`` is true. With ``POOL["commit_status"]`` the server was
    asked, and could not tell.
    """

    _LOOK: ClassVar[str] = (
        'With POOL["commit_status"] = True the server is asked what became of it; if that is set, it could not tell. '
        f"{ConnectionLost._LOOK}"
    )


class RawAccessRefused(InterfaceError):
    """The raw connection was used while ``DBPOOL["RAW_ACCESS"]`` is "error". The text names the caller."""


class RawAccessWarning(RuntimeWarning):
    """The same for "warn", once for each line of code."""


def withdraw(error: BaseException) -> None:
    """It was dealt with where it was raised: the middleware need not hear of it."""
    raised = raised_in_request.get()
    if raised:
        raised[:] = [other for other in raised if other is not error.__context__ and not _came_of(other, error)]


def _came_of(error: BaseException | None, origin: BaseException) -> bool:
    """Whether it is that, or was raised while that was handled, as by the ROLLBACK on a lost connection."""
    while error is not None and error is not origin:
        error = error.__context__
    return error is origin


def from_refusal(refused: LeaseRefused) -> PoolError:
    """The public error for a refusal of the core, with the same cause."""
    kind: type[PoolError] = DatabaseUnavailable
    if isinstance(refused, Exhausted):
        kind = PoolOverloaded if isinstance(refused, QueueFull) else PoolExhausted
    elif isinstance(refused, ServerIsFull):
        kind = ServerConnectionsExhausted
    elif isinstance(refused, CircuitIsOpen):
        kind = CircuitOpen
    elif isinstance(refused, ProcessIsStopping):
        kind = ShuttingDown
    error = kind(refused.refusal)
    error.__cause__ = refused.__cause__
    return error
