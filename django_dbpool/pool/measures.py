"""What exporters read: per alias of this process, everything that can be counted, and how things stand now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.tally import Counts, Histogram, tallies
from . import stopping
from .registry import pools
from .reporting import PoolSnapshot

_CLOSED = "closed "
_REFUSED = "refused "
_RETRIED = "retried "


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one alias. No count ever becomes less, also when a pool is closed and made anew."""

    alias: str
    leases: int
    """Connections handed out."""
    statements: int
    use: Histogram
    """How long leases lasted that have ended."""
    wait: Histogram
    """How long each lease was waited for; a free connection is had in no time."""
    connect: Histogram
    """How long it took to open each physical connection."""
    opened: int
    closed: int
    failed: int
    """Attempts to connect."""
    closed_by: Mapping[str, int] = field(default_factory=dict)
    """The closed ones by reason: see ``events.ConnectionClosed``."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Callers who got no connection, by the name of the error."""
    retried: Mapping[str, int] = field(default_factory=dict)
    """By what was tried again: connect, read, block."""
    lost: int = 0
    """Connections that ended while somebody worked with them."""
    lost_expected: int = 0
    """Connections that ended while they were idle."""
    overdue: int = 0
    """Leases and pins that were reported as held for long."""
    slow: int = 0
    """Statements that took longer than DBPOOL["SLOW_STATEMENT"]."""
    repeated: int = 0
    """Units in which one statement was executed more often than DBPOOL["REPEATED_STATEMENTS"]."""
    snapshot: PoolSnapshot | None = None
    """None while there is no pool."""
    circuit: str = "closed"

    @property
    def timeouts(self) -> int:
        """Callers who waited for a connection to the end of their time."""
        return self.refused.get("PoolExhausted", 0)

    def to_json(self) -> dict[str, Any]:
        return {
            name: value.to_json() if hasattr(value, "to_json") else dict(value) if isinstance(value, Mapping) else value
            for name in self.__slots__
            for value in (getattr(self, name),)
        } | {"timeouts": self.timeouts}


def measures() -> tuple[Measures, ...]:
    """Of every alias that this process has used."""
    # Whoever asks for one at the end of the process gets a pool that lends nothing any more.
    over = stopping.announced is not None and stopping.announced.over
    living = {pool.alias: pool for pool in pools() if pool.entries or not over}
    found = []
    for alias, tally in sorted(tallies().items()):
        pool = living.get(alias)
        now = None if pool is None else pool.snapshot()
        circuit = "closed" if pool is None else pool.breaker.state.value
        found.append(_measures(alias, tally.read(), now, circuit))
    return tuple(found)


def _measures(alias: str, counts: Counts, now: PoolSnapshot | None, circuit: str) -> Measures:
    events = counts.events
    return Measures(
        alias=alias,
        leases=counts.leases,
        statements=counts.statements,
        use=counts.use,
        wait=counts.wait,
        connect=counts.connect,
        opened=counts.connect.count,
        closed=sum(_named(events, _CLOSED).values()),
        closed_by=_named(events, _CLOSED),
        failed=events.get("failed", 0),
        refused=_named(events, _REFUSED),
        retried=_named(events, _RETRIED),
        lost=events.get("lost in use", 0),
        lost_expected=events.get("lost idle", 0),
        overdue=events.get("overdue lease", 0) + events.get("overdue pin", 0),
        slow=events.get("slow", 0),
        repeated=events.get("repeated", 0),
        snapshot=now,
        circuit=circuit,
    )


def _named(events: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in events.items() if name.startswith(prefix)}
