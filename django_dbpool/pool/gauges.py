"""How the leases of a pool stand at one moment, in a few numbers: cheaper than naming every holder."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from .entry import ACTIVE, PoolEntry, count_readable

if TYPE_CHECKING:
    from .managed import ManagedPool


@dataclass(frozen=True, slots=True)
class Gauges:
    """Of the leases that have not ended; times are seconds."""

    in_use: int = 0
    age: float = 0.0
    """Of all of them, added up."""
    executing: int = 0
    """Those that run a statement."""
    ready: int = 0
    """Of them, those whose answer has come: their threads could go on, and wait for the interpreter or a processor."""
    nested: int = 1
    """Most connections that one thread holds."""
    overdue: int = 0
    """Leases older than ``leak_after`` that nothing pins."""
    oldest: float = 0.0
    """Age of the oldest of them."""
    pins: int = 0
    """Connections pinned for longer than ``pin_max``."""
    reasons: tuple[str, ...] = ()
    """For which they are."""


def gauges(pool: ManagedPool) -> Gauges:
    now = pool.clock()
    in_use, age, executing, overdue, oldest = 0, 0.0, 0, 0, 0.0
    answers: list[int] = []
    threads: Counter[int] = Counter()
    reasons = []
    for entry in tuple(pool.entries):
        owner, since, pinned = entry.owner, entry.since, entry.pinned
        if owner is None:
            continue
        in_use += 1
        lasted = max(0.0, now - since)
        age += lasted
        if entry.pgconn.transaction_status == ACTIVE:
            executing += 1
            # Who reads a stream takes what comes when he likes.
            if not entry.streams and (socket := _socket(entry)) is not None:
                answers.append(socket)
        threads[owner.ident] += 1
        if pinned is not None:
            if now - entry.pinned_at >= pool.config.pin_max:
                reasons.append(pinned)
        elif lasted >= pool.config.leak_after:
            overdue += 1
            oldest = max(oldest, lasted)
    return Gauges(
        in_use,
        age,
        executing,
        # All at one moment, as what is counted above is: to ask for one gives up the interpreter.
        count_readable(answers),
        max(threads.values(), default=1),
        overdue,
        oldest,
        len(reasons),
        tuple(sorted(set(reasons))),
    )


def _socket(entry: PoolEntry) -> int | None:
    """None where it is being closed."""
    with suppress(psycopg.Error):
        return entry.pgconn.socket
    return None
