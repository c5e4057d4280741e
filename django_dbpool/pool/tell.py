"""What the pool counts and tells of what is rare. Every function is cheap when nobody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import events
from ..core.ledger import label_and_name, running_unit
from ..core.logs import get_logger
from ..core.tally import tally_of

if TYPE_CHECKING:
    from ..core.breaker import Transition
    from ..core.ledger import Holder
    from .entry import PoolEntry

logger = get_logger("django_dbpool.pool")


def unit_and_name() -> tuple[str | None, str | None]:
    """On whose behalf the caller runs, in words."""
    return label_and_name(running_unit())


def opened(alias: str, seconds: float, entry: PoolEntry) -> None:
    tally_of(alias).opened(entry, seconds)
    if events.subscribers:
        events.publish(
            events.ConnectionOpened(
                alias=alias, seconds=seconds, backend_pid=entry.backend_pid, reserved=entry.reserved
            )
        )


def failed(alias: str, seconds: float, code: str | None, error: BaseException) -> None:
    tally_of(alias).event("failed")
    if events.subscribers:
        name = type(error).__name__
        events.publish(events.ConnectionFailed(alias=alias, seconds=seconds, code=code, error=name))


def waited(alias: str, seconds: float) -> None:
    """Only where somebody listens: the lease itself is counted already."""
    unit, name = unit_and_name()
    events.publish(events.Waited(alias=alias, seconds=seconds, unit=unit, name=name))


def refused(alias: str, error: str, seconds: float) -> None:
    tally_of(alias).event(f"refused {error}")
    if events.subscribers:
        unit, name = unit_and_name()
        events.publish(events.Refused(alias=alias, error=error, waited=seconds, unit=unit, name=name))


def retried(alias: str, what: events.Attempted, attempt: int, delay: float, code: str | None) -> None:
    tally_of(alias).event(f"retried {what}")
    if events.subscribers:
        events.publish(events.Retried(alias=alias, what=what, attempt=attempt, delay=delay, code=code))


def lost_idle(alias: str, entry: PoolEntry) -> None:
    """The server has ended a connection that nobody was using."""
    entry.ending = "lost_idle"
    tally_of(alias).event("lost idle")
    if events.subscribers:
        events.publish(events.Lost(alias=alias, moment="idle", expected=True))


def lost(alias: str, moment: str) -> None:
    """A connection has ended while somebody worked with it."""
    tally_of(alias).event("lost in use")
    if events.subscribers:
        unit, name = unit_and_name()
        events.publish(events.Lost(alias=alias, moment=moment, expected=False, unit=unit, name=name))


def circuit_changed(alias: str, transition: Transition) -> None:
    tally_of(alias).event(f"circuit {transition.after.value}")
    if events.subscribers:
        before, after = transition.before.value, transition.after.value
        events.publish(events.CircuitChanged(alias=alias, before=before, after=after, reason=transition.reason))


def overdue(alias: str, holder: Holder, what: events.Kept) -> None:
    tally_of(alias).event(f"overdue {what}")
    leased_at = "".join(f"\n  {call}" for call in holder.leased_at)
    logger.warning(
        "database %r: a %s is held for long: %s%s",
        alias,
        what,
        holder,
        f"\nLeased at, innermost call first:{leased_at}" if leased_at else "",
    )
    if events.subscribers:
        events.publish(events.Overdue(alias=alias, holder=holder, what=what))


def returned(alias: str, entry: PoolEntry, seconds: float) -> None:
    """A lease that was overdue has ended."""
    logger.info("database %r: backend %d, held for long, came back after %.1f s", alias, entry.backend_pid, seconds)
    if events.subscribers:
        events.publish(
            events.Returned(alias=alias, backend_pid=entry.backend_pid, generation=entry.generation, seconds=seconds)
        )
