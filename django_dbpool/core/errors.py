"""Why a lease was refused, before Django gives it a name (``django_dbpool.errors``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .ledger import Holder


@dataclass(frozen=True, slots=True)
class Refusal:
    """The numbers at the moment of a refusal, and who holds what."""

    alias: str
    waited: float
    """Seconds the caller waited."""
    in_use: int
    max_size: int
    waiting: int
    """Other callers still queued."""
    limit: str = ""
    """Which limit was met, in words, where it isn't max_size."""
    holders_age: float = 0.0
    """Seconds since the holders were looked at: in an overload they are looked at once a second."""
    holders: tuple[Holder, ...] = field(default=())
    cycle: tuple[str, ...] = field(default=())
    """Who waits for whom, when the ledger sees that the wait could never end."""
    retry_after: float | None = None
    """Seconds after which another attempt makes sense, where that is known."""
    driver: str = ""
    """The first line of what the driver said."""
    reason: str = ""
    """What is wrong, where the general advice would lead astray."""
    told: str = ""
    """The whole text, of an error of another process of which nothing else is known here."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """A time limit that was exceeded, and what became of the statement."""

    setting: str
    """Which limit, by its key in POOL."""
    limit: float | None
    """Its value in seconds, if it was set there."""
    age: float
    """Seconds since the statement began; where the server ended an idle session, since the lease began."""
    maybe_committed: bool
    answered: bool
    """Whether the server said so itself; else the connection was cut."""
    sent: bool = True
    """False: the time was up before it began."""


Moment = Literal["unsent", "read", "write", "transaction", "commit", "aborted", "unwritten"]
"""
When a connection was lost: before a statement was sent on it; during one outside of a transaction that only reads, or
that may write; in a transaction; during COMMIT and it is not known what became of that, or the server was asked and
says that nothing was committed, or there was nothing to commit.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that ended while it was in use, by other hands than ours."""

    moment: Moment

    @property
    def maybe_committed(self) -> bool:
        return self.moment in ("write", "commit")


class LeaseRefused(Exception):
    """No connection could be leased."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.alias)
        self.refusal = refusal


class Exhausted(LeaseRefused):
    """Every connection stayed leased until the caller's deadline."""


class QueueFull(Exhausted):
    """Too many wait already, or they wait too long; refused at once."""


class Unreachable(LeaseRefused):
    """The server refused or did not answer; ``__cause__`` is the driver's error."""


class ServerIsFull(LeaseRefused):
    """The server has no connection left for us; ``__cause__`` is the driver's error."""


class CircuitIsOpen(LeaseRefused):
    """The server did not answer before, and this caller did not try; ``__cause__`` is the last error."""


class ProcessIsStopping(LeaseRefused):
    """The process is being shut down, and this work is new or out of time."""


class GateClosed(Exception):
    """The pool was closed; the caller should look its pool up again."""
