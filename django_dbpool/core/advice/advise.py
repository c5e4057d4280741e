"""All advice for one alias, and what it doesn't know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .facts import LITTLE, SHORT, Facts
from .habits import advise_habits
from .item import Advice
from .sizes import advise_sizes


@dataclass(frozen=True, slots=True)
class Report:
    """What follows for one alias."""

    alias: str
    advice: tuple[Advice, ...]
    unknown: tuple[str, ...]
    """What was not known, and how to make it known."""

    @property
    def changes(self) -> dict[str, Any]:
        """Keys of ``POOL`` to be written."""
        return {item.setting: item.proposed for item in self.advice if item.kind == "change"}

    def to_json(self) -> dict[str, Any]:
        return {
            "alias": self.alias,
            "advice": [item.to_json() for item in self.advice],
            "unknown": list(self.unknown),
        }


def advise(facts: Facts) -> Report:
    """What the facts say about the settings of one alias."""
    sizes = advise_sizes(facts)
    max_size = next((item.proposed for item in sizes if item.setting == "max_size"), facts.settings.max_size)
    return Report(facts.alias, (*sizes, *advise_habits(facts, max_size)), tuple(_unknown(facts)))


def _unknown(facts: Facts) -> Iterator[str]:
    measured = facts.measured
    if measured is None:
        yield "Nothing was measured here: ask where the project serves its users, at its busiest hour."
    elif measured.confidence == "prior":
        yield (
            f"Only {measured.leases} leases in {measured.seconds:.0f} s were measured; from {LITTLE} in {SHORT:.0f} s "
            "on something follows from them."
        )
    if facts.threads is None:
        yield 'How many threads a process has: set DBPOOL["THREADS"], or say --threads.'
    if facts.processes is None:
        yield 'How many processes there are: set DBPOOL["PROCESSES"], or say --processes; one is assumed.'
    if facts.settings.pooler is None and facts.room.connections is None:
        yield "How many connections the server has: it could not be asked."
    if facts.room.cpus is None:
        yield "How many processors the server has: say --cpus; then no more is proposed than they can work on."
