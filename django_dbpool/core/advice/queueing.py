"""How many connections a load needs: Little's law, Erlang's formula, and what a queue hides."""

from __future__ import annotations

import math

MOST = 10_000
"""No pool is larger."""


def wait_probability(servers: int, load: float) -> float:
    """
    Erlang's C formula: how probable it is that a caller finds all connections in use, where callers come at random.

    Args:
        servers: connections.
        load: arrivals per second times seconds per lease (Little's law): connections in use, on average.
    """
    if load <= 0:
        return 0.0
    if servers <= load:
        return 1.0
    blocked = 1.0  # Erlang's B formula by its recursion, which neither overflows nor cancels
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def late(servers: int, load: float, hold: float, target: float, spread: float = 1.0) -> float:
    """
    The share of callers that wait for longer than ``target``.

    Args:
        hold: mean seconds of a lease.
        target: seconds.
        spread: squared coefficient of variation of the durations. Queues are longer by half of (1 + spread) than with
            durations as random as the formula takes them for (Allen and Cunneen's approximation).
    """
    if servers <= load:
        return 1.0
    if hold <= 0:
        return 0.0
    stretched = hold * (1 + spread) / 2
    return wait_probability(servers, load) * math.exp(-(servers - load) * target / stretched)


def needed(load: float, hold: float, *, target: float, spread: float = 1.0, share: float = 0.05) -> int:
    """The fewest connections with which no more than ``share`` of the callers wait for longer than ``target``."""
    servers = max(1, math.floor(load) + 1)
    while servers < MOST and late(servers, load, hold, target, spread) > share:
        servers += 1
    return servers


def unqueued(load: float, queue: float, threads: int | None) -> float:
    """
    The load that there would be without a queue. While threads wait they ask for nothing else, so that a full pool
    hides a part of what is wanted.

    Args:
        load: connections in use, on average.
        queue: callers that waited, on average.
        threads: how many callers there can be at most; None where that isn't known, then all that waited count.
    """
    if queue <= 0 or load <= 0:
        return load
    if threads is None or threads <= load + queue:
        return load + queue
    # Of n threads in a cycle of work elsewhere, waiting and holding, the part that holds once nobody waits.
    return load * threads / (threads - queue)


def deadlock_free(threads: int, nested: int) -> int:
    """
    With this many no thread waits for ever for a further connection while others do the same:
    https://github.com/brettwooldridge/HikariCP/wiki/About-Pool-Sizing

    Args:
        nested: connections that one thread holds at once.
    """
    return threads * (nested - 1) + 1


def busy_cores(cpus: int) -> int:
    """Connections that keep a server's processors and one disk busy; more of them only take turns. (Same page.)"""
    return cpus * 2 + 1
