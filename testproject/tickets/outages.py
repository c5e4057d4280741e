"""What happens to the database, and what customers have seen of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from testproject.postgres import EmbeddedServer
from testproject.tickets.operations import Operation
from testproject.tickets.shop import Shop

PATIENCE = 60.0
"""Seconds after an outage in which every customer must have been answered."""


@dataclass(frozen=True)
class Killed:
    """Connections that were killed while they were idle, and the calls that came next, one after the other."""

    connections: int
    calls: list[Operation]

    @property
    def errors(self) -> Counter[str]:
        return errors(self.calls)

    @property
    def seconds(self) -> float:
        return self.calls[-1].ended - self.calls[0].began


@dataclass(frozen=True)
class Outage:
    """The server went away while customers were in the shop. Times are those of time.monotonic()."""

    began: float
    accepts: float
    """When the server accepted connections again."""
    recovered: bool
    """Every customer was answered after it."""
    calls: list[Operation]

    @property
    def errors(self) -> Counter[str]:
        return errors(self.calls)

    @property
    def away(self) -> float:
        return self.accepts - self.began

    @property
    def longest(self) -> float:
        """Seconds of the longest call."""
        return max(call.seconds for call in self.calls)

    @property
    def served_after(self) -> float | None:
        """Seconds from the server's return to the first answer."""
        answered = [call.ended for call in self.calls if not call.error and call.ended > self.accepts]
        return min(answered) - self.accepts if answered else None

    def answered(self, kind: str) -> int:
        return sum(call.kind == kind and not call.error for call in self.calls)

    def failed(self, kind: str) -> int:
        return sum(call.kind == kind and call.error is not None for call in self.calls)


@dataclass(frozen=True)
class Circuit:
    """A circuit breaker as those see it whom it refuses."""

    refused: int
    opened_after: float
    """Seconds from the end of the fifth failed call to the first refusal."""
    median: float
    """Seconds that a refusal took."""
    retry_after: tuple[float, float]
    """The least and the most seconds after which callers were told to come back."""
    paid: int
    """Calls that failed otherwise after the server's return: somebody was its trial."""


REFUSAL = "CircuitOpen"


def circuit_of(outage: Outage, failures: int = 5) -> Circuit | None:
    """None if nobody was refused, or before so many calls had failed."""
    failed = sorted((call for call in outage.calls if call.error), key=lambda call: call.ended)
    refused = [call for call in failed if call.error == REFUSAL]
    others = [call for call in failed if call.error != REFUSAL]
    if not refused or len(others) < failures:
        return None
    opened = refused[0].ended
    told = [call.retry_after or 0.0 for call in refused]
    return Circuit(
        refused=len(refused),
        opened_after=max(0.0, opened - others[failures - 1].ended),
        median=median([call.seconds for call in refused if call.began >= opened] or [refused[0].seconds]),
        retry_after=(min(told), max(told)),
        paid=sum(call.ended > outage.accepts for call in others),
    )


def errors(calls: Iterable[Operation]) -> Counter[str]:
    return Counter(call.error for call in calls if call.error)


def kill_idle(shop: Shop, connections: int, calls: int, rounds: int = 3) -> Killed:
    """The fastest of some rounds, since a busy machine is not the engine's fault; the first in which a call fails."""
    shop.read(1)  # what a first call loads is not what is measured
    done: list[Killed] = []
    for _ in range(rounds):
        shop.have_idle(connections)
        done.append(Killed(shop.kill_connections(), shop.read(calls)))
        if done[-1].errors:
            return done[-1]
    return min(done, key=lambda killed: killed.seconds)


def interrupt(
    server: EmbeddedServer, shops: Sequence[Shop], take_away: Callable[[], None], *, after: float, seconds: float
) -> dict[str, Outage]:
    """Take the server away from all shops at the same moment, `after` their opening, for so many seconds."""
    for shop in shops:
        shop.open()
    time.sleep(after)
    began = time.monotonic()
    take_away()
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    server.start()
    accepts = time.monotonic()
    recovered = {shop.engine: shop.wait_served(PATIENCE) for shop in shops}
    return {shop.engine: Outage(began, accepts, recovered[shop.engine], shop.close()) for shop in shops}
