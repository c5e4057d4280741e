"""
The failures of the pool, by name. All are ``django.db.OperationalError``: code that caught that goes on working.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, ClassVar

from django.db import OperationalError

from .core.errors import Exhausted, LeaseRefused, QueueFull, Refusal
from .core.ledger import Holder

__all__ = ["DatabaseUnavailable", "PoolError", "PoolExhausted"]

raised_in_request: ContextVar[list[BaseException] | None] = ContextVar("dbpool_raised_in_request", default=None)
"""
Set by the middleware, which looks here for an error that somebody has turned into one of another kind: Django's
session store makes every DatabaseError of save() a "session was deleted", answered 400.
"""


class PoolError(OperationalError):
    """
    No connection could be leased.

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
        self.refusal = refusal
        super().__init__(self.describe())
        raised = raised_in_request.get()
        if raised is not None:
            # A request that tries again and again must not pile up tracebacks. Not only the last few, because
            # Django's technical page, in showing what it finds, evaluates users and querysets by the dozen.
            raised[:] = [*raised[-63:], self]

    def __reduce__(self) -> tuple[type[PoolError], tuple[Refusal], dict[str, Any]]:
        # Exceptions are pickled by their args, which here are the finished text: Celery's and multiprocessing's
        # results would fail to load.
        return (type(self), (self.refusal,), self.__dict__)

    def describe(self) -> str:
        return str(self.alias)


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

    advice = (
        "Is the server up, and do HOST, PORT, NAME and USER of this alias name it? The driver's error is the cause."
    )

    def describe(self) -> str:
        return (
            f"Database {self.alias!r} is unavailable: connecting failed after {self.waited:.1f} s, "
            f"{self.in_use} older connections in use. {self.advice}"
        )


def from_refusal(refused: LeaseRefused) -> PoolError:
    """The public error for a refusal of the core, with the same cause."""
    if isinstance(refused, QueueFull):
        error: PoolError = PoolExhausted(refused.refusal)
    elif isinstance(refused, Exhausted):
        error = PoolExhausted(refused.refusal)
    else:
        error = DatabaseUnavailable(refused.refusal)
    error.__cause__ = refused.__cause__
    return error
