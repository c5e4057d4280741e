"""What processes know of their servers."""

from __future__ import annotations

from collections.abc import Mapping

from ..server_counts import INTERVAL
from .measuring import number, section
from .reading import Fleet

FRESH = 3 * INTERVAL
"""Seconds for which the last answer of a server is worth telling."""


def server_counts(fleet: Fleet) -> dict[str, tuple[int, int]]:
    """
    By alias, the connections that the server has, everybody's, and its limit, as one of the processes has asked it in
    the last minutes.
    """
    found: dict[str, tuple[float, int, int]] = {}
    for process in fleet.processes:
        told = section(process.document, "server") if process.age <= FRESH else None
        for alias, values in told.items() if isinstance(told, Mapping) else ():
            if isinstance(values, Mapping) and (alias not in found or process.age < found[alias][0]):
                taken, most = number(values, "all_roles"), number(values, "max_connections")
                if most:
                    found[alias] = process.age, taken, most
    return {alias: (taken, most) for alias, (_, taken, most) in found.items()}
