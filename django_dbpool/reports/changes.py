"""Changes of circuits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..fleet import Process
from .measuring import listed, section
from .told import Told

RECENT = 900.0
"""Seconds for which they are told."""

MOST = 100


@dataclass(frozen=True, slots=True)
class CircuitStep:
    """A change of a circuit."""

    process: str
    ago: float
    """Seconds."""
    before: str
    after: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def circuit_changes(process: Process, alias: str) -> list[CircuitStep]:
    """Those of one process in the last 15 minutes, the oldest first."""
    circuits = section(process.document, "circuits")
    found = []
    for given in listed(circuits.get(alias) if isinstance(circuits, Mapping) else None)[-MOST:]:
        if isinstance(given, Mapping):
            step = Told(given)
            ago = max(0.0, step.number("ago")) + process.age
            if ago <= RECENT:
                found.append(CircuitStep(process.name, ago, *map(step.text, ("before", "after", "reason"))))
    return found
