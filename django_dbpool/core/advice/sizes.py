"""How large a pool should be, and how many connections it should keep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .facts import Confidence, Facts, Measured
from .item import Advice
from .queueing import busy_cores, deadlock_free, needed, unqueued

BANDS = ((16, 10, 1), (64, 20, 2), (None, 50, 5))
"""Up to so many threads of a process: max_size, min_size. What is usual where nothing was measured."""

NAMES = ("small", "medium", "large")

MARGIN = 1.25
"""On the highest load seen: tomorrow's may be higher."""

TARGET = 0.05
"""Seconds that callers may wait at most, where the settings don't say."""

SHORTEST = 0.005
"""Seconds of waiting that nobody notices, however short leases are."""

WAITED = 0.5
"""Callers that waited on average, from which on the present size is not too large."""

LEAST_BUSY = 2
"""Connections of a process, whatever else threads wait for: one long statement should not stop all others."""

LATE = 0.05
"""The share of callers that may wait for longer."""

GROWTH = 1.5
"""Where the averages don't explain who waits."""

MOSTLY = 0.55
"""
The share of moments at which some thread waits for the interpreter, from which on it is what all of them wait for. With
bursts it was up to 0.5 and more connections did no harm; with steady work that they slowed down it was 0.65 or more.
"""

NEAR = 0.15
"""A size that differs by less is as good."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """A size, before it is known what the server has."""

    size: int
    reason: str
    confidence: Confidence
    at_peak: bool = False
    """It was seen while the process had more to do than it could: there can't be more work than then."""


def advise_sizes(facts: Facts) -> list[Advice]:
    wish = _wish(facts)
    if wish is None:
        return []
    found = []
    size, reason = wish.size, wish.reason
    room, why = _most(facts)
    if room is not None and size > room:
        found += _no_room(facts, size, room, why)
        size, reason = room, f"{reason} There is room for {room}: {why}."
    confidence = wish.confidence
    current = facts.settings.max_size
    over = room is not None and current > room
    nested = facts.measured.nested if facts.measured is not None else 1
    if size < nested <= current:
        found.append(Advice(facts.alias, "max_size", "keep", current, current, _too_few(nested, size), confidence))
        size = current
    elif size < current and not over and confidence == "estimated" and not wish.at_peak:
        reason = f"{reason} Too little was measured to take any away: ask again after the busiest hour."
        found.append(Advice(facts.alias, "max_size", "keep", current, current, reason, confidence))
        size = current
    elif size == current or (not over and abs(size - current) <= max(1, NEAR * current) and size < current):
        found.append(Advice(facts.alias, "max_size", "keep", current, current, reason, confidence))
        size = current
    else:
        found.append(Advice(facts.alias, "max_size", "change", current, size, reason, confidence))
    found += _min_size(facts, size)
    return found


def _too_few(nested: int, size: int) -> str:
    return (
        f"Threads hold up to {nested} connections at once, and there is room for {size}: with fewer than {nested} they "
        "would wait for themselves. Have them hold one at a time, or make room, before it is lowered."
    )


def _wish(facts: Facts) -> _Wish | None:
    measured = facts.measured
    if measured is None or measured.confidence == "prior":
        return _prior(facts)
    wish = _from_load(facts, measured)
    nested = measured.nested
    if nested < 2:
        return wish
    threads = facts.threads or measured.most
    least = deadlock_free(threads, nested)
    if wish.size >= least:
        return wish
    return _Wish(
        least,
        f"Threads hold up to {nested} connections at once: with fewer than {threads} x ({nested} - 1) + 1 = {least} "
        "they may all wait for each other.",
        wish.confidence,
    )


def _prior(facts: Facts) -> _Wish | None:
    """Nothing was measured."""
    threads = facts.threads
    if threads is None:
        return None
    number = next(number for number, (most, *_) in enumerate(BANDS) if most is None or threads <= most)
    size = min(threads, BANDS[number][1])
    return _Wish(
        size,
        f"Nothing was measured. For a {NAMES[number]} process ({threads} threads) {size} is usual; a process can't "
        "use more connections than it has threads.",
        "prior",
    )


def _from_load(facts: Facts, measured: Measured) -> _Wish:
    # Whoever waits for longer than leases last is slowed down by the pool more than by its own work.
    target = min(facts.settings.queue_target or TARGET, max(measured.hold, SHORTEST))
    demand = unqueued(measured.peak_load, measured.peak_queue, facts.threads)
    load = demand * MARGIN
    size = needed(load, measured.hold, target=target, spread=measured.spread)
    rate = measured.leases / measured.seconds if measured.seconds else 0.0
    parts = [
        f"{rate:.1f} leases a second of {_time(measured.hold)} keep {measured.load:.1f} connections in use on average, "
        f"{measured.peak_load:.1f} at the busiest"
        + (f", while {measured.peak_queue:.1f} callers wait" if measured.peak_queue >= 0.05 else "")
        + "."
    ]
    parts.append(
        f"With a margin of {MARGIN - 1:.0%}, {size} keep the wait of 95 % of the callers below {_time(target)}."
    )
    current = facts.settings.max_size
    if size < current and measured.peak_queue >= WAITED:
        size = current
        parts.append(f"But callers have waited with the present {current}, so fewer would not do.")
    late = measured.late / measured.leases
    if late > LATE and size <= current:
        size = math.ceil(current * GROWTH)
        parts.append(
            f"But {late:.0%} of the callers have waited longer than that: they come in bursts, which averages hide. "
            "Half as many again is the next step."
        )
    if facts.threads is not None and size > facts.threads * measured.nested:
        size = facts.threads * measured.nested
        parts.append(f"No more than {size} can be used by {facts.threads} threads.")
    if facts.room.cpus is not None and measured.executing is not None:
        size = _no_more_than_cores(facts, measured, size, parts)
    enough = _no_more_than_turns(measured)
    if enough is None or size <= enough:
        return _Wish(size, " ".join(parts), measured.confidence)
    reason = (
        f"{parts[0]} At {measured.ready:.0%} of the moments at the busiest a thread had its answer and no turn to take "
        "it: threads wait for Python's interpreter lock or for a processor, and with more connections only more of "
        f"them would. {measured.working:.1f} connections did something else meanwhile, for which {enough} are enough. "
        "More processes with fewer threads each may do more."
    )
    return _Wish(enough, reason, measured.confidence, at_peak=True)


def _no_more_than_turns(measured: Measured) -> int | None:
    """
    Threads that have their answers wait for their turn, of the interpreter (its lock) or of a processor. Leases are
    long because of that, and callers wait because leases are: neither tells how many connections are needed. What
    connections do otherwise tells it. With those a half of the callers would find one at once, and the other half is
    as well off at the gate as in the interpreter's queue, which each of them makes longer for all.
    """
    if measured.ready is None or measured.ready < MOSTLY:
        return None
    return max(LEAST_BUSY, needed(measured.working, measured.hold, target=0.0, share=0.5))


def _no_more_than_cores(facts: Facts, measured: Measured, size: int, parts: list[str]) -> int:
    """More statements at once than the server's processors and disks can work on only take turns."""
    cpus = facts.room.cpus or 1
    useful = busy_cores(cpus)
    share = max(0.05, min(1.0, measured.executing or 0.0))
    busy = max(1, math.ceil(useful / share / (facts.processes or 1)))
    # It limits growth only: other processes may be idle while this one needs what it has.
    cap = max(min(size, facts.settings.max_size), busy)
    if size <= cap:
        return size
    whom = "this process" if (facts.processes or 1) == 1 else f"each of {facts.processes} processes"
    parts.append(
        f"The server's {cpus} processors work on {useful} statements at once (2 x processors + 1); a statement runs in "
        f"{measured.executing:.0%} of the time in use, so {busy} for {whom} keep them busy, and more would only "
        f"wait inside the server{f': no more than the present {cap}' if cap > busy else ''}. Where statements wait "
        "for disks or locks, try more."
    )
    return cap


def _most(facts: Facts) -> tuple[int | None, str]:
    """What a process may take of the server, and who says so."""
    processes = facts.processes or 1
    found: list[tuple[int, str]] = []
    if facts.settings.pooler is None and facts.room.connections is not None:
        free = max(0, facts.room.connections - facts.room.others)
        taken = f", {facts.room.others} taken by others" if facts.room.others else ""
        found.append((free, f"the server has {facts.room.connections} connections for applications{taken}"))
    if facts.budget is not None:
        found.append((facts.budget, f'DBPOOL["BUDGET"] is {facts.budget}'))
    if not found:
        return None, ""
    connections, who = min(found)
    each = connections // (processes * facts.aliases) - facts.settings.reserve_size
    shares = ("1 process" if processes == 1 else f"{processes} processes") + (
        f" with {facts.aliases} databases on it" if facts.aliases > 1 else ""
    )
    return max(1, each), f"{who}, for {shares} with a reserve of {facts.settings.reserve_size} each"


def _no_room(facts: Facts, size: int, room: int, why: str) -> list[Advice]:
    text = (
        f"{size} connections for each process would be needed, there is room for {room}: {why}. Shorten the longest "
        "leases, run fewer processes, raise max_connections, or put PgBouncer in front and set POOL['pooler']."
    )
    confidence = facts.measured.confidence if facts.measured is not None else "prior"
    return [Advice(facts.alias, "pooler", "look", facts.settings.pooler, None, text, confidence)]


def _min_size(facts: Facts, max_size: int) -> list[Advice]:
    measured, current = facts.measured, facts.settings.min_size
    if measured is None or measured.confidence == "prior":
        if current <= max_size:
            return []
        return [_change(facts, "min_size", current, max_size, "It can't be above max_size.", "prior")]
    size = min(max_size, max(int(facts.web), math.ceil(measured.usual_load)))
    reason = (
        f"Half of the time {measured.usual_load:.1f} connections or more are in use: so many are kept, the others are "
        "closed when they are idle."
    )
    if current <= max_size and abs(size - current) <= max(1, NEAR * current):
        return [Advice(facts.alias, "min_size", "keep", current, current, reason, measured.confidence)]
    return [_change(facts, "min_size", current, size, reason, measured.confidence)]


def _change(facts: Facts, setting: str, current: Any, proposed: Any, reason: str, confidence: Confidence) -> Advice:
    return Advice(facts.alias, setting, "change", current, proposed, reason, confidence)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
