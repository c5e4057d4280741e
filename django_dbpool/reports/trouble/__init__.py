"""
What is wrong now, and what to do about it: for a person who is woken by it and has not read the manual.

One thing that is wrong in many processes is one problem, which names some of them.
"""

from __future__ import annotations

from ..limits import Limits
from ..reading import Fleet, is_current
from .holders import of_holders
from .pools import of_pools
from .problem import Problem, Severity
from .processes import is_told, of_alerts, of_processes, of_reading, of_statements
from .servers import of_servers

__all__ = ["CODES", "Problem", "Severity", "problems"]

CODES = (
    "circuit-open",
    "circuit-isolated",
    "server-full",
    "waiting",
    "reserve-full",
    "timeouts",
    "connect-failures",
    "stale",
    "fleet-unreachable",
    "circuit-half-open",
    "pool-full",
    "held-idle",
    "held-long",
    "pinned-long",
    "blocked",
    "slow-running",
    "server-crowded",
    "strangers",
    "not-publishing",
)
"""In the order in which they are told within a severity. Alerts of other rules follow with the rule's name."""


def problems(fleet: Fleet) -> tuple[Problem, ...]:
    """
    Everything that is wrong now: errors first, then by how much it matters.

    Args:
        fleet: as ``read()``, ``remembered()`` or ``own()`` gives it. What only servers know is told if they were asked.
    """
    living = [process for process in fleet.processes if process.state != "ended"]
    current = [process for process in living if is_current(process)]
    limits = Limits()
    found = [
        *of_reading(fleet),
        *of_pools(current, fleet.at),
        *of_holders(fleet, current, limits),
        *of_statements(current),
        *of_processes(fleet, living),
        *of_servers(fleet, limits),
    ]
    known = {(problem.code, problem.alias) for problem in found}
    found += [problem for problem in of_alerts(current) if not is_told(problem, known)]
    order = {code: place for place, code in enumerate(CODES)}
    found.sort(key=lambda each: (each.severity != "error", order.get(each.code, len(order)), each.alias or ""))
    return tuple(found)
