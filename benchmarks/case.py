"""What a case is given and what it hands back: figures by engine and round. Statistics are the report's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.engines import OURS, Engine


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 51
    section_seconds: float = 0.03
    """One engine's timed section in a round of a single-thread case."""
    load_rounds: int = 21
    load_seconds: float = 0.3
    throughput_rounds: int = 7
    throughput_seconds: float = 2.0
    footprint_rounds: int = 7
    batch_rounds: int = 15
    batch_rows: int = 25_000
    batch_rows_for_memory: int = 1_000_000
    page_rounds: int = 7
    page_seconds: float = 5.0

    @classmethod
    def quick(cls) -> Plan:
        """Shows that everything runs; its figures mean nothing."""
        return cls(
            3,
            0.005,
            load_rounds=2,
            load_seconds=0.1,
            throughput_rounds=1,
            throughput_seconds=0.5,
            footprint_rounds=1,
            batch_rows=1000,
            batch_rows_for_memory=20_000,
            batch_rounds=1,
            page_rounds=1,
            page_seconds=1.0,
        )


@dataclass(frozen=True)
class Comparison:
    """All engines against `baseline`; `at_most` or `at_least` is this package's target, if it has one."""

    baseline: Engine
    at_most: float | None = None
    at_least: float | None = None
    subject: Engine = OURS
    """Whose figure the target is about."""

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:.2f}"
        return "" if self.at_least is None else f"≥ {self.at_least:.2f}"

    def met(self, ratio: float) -> bool:
        if self.at_most is not None:
            return ratio <= self.at_most
        return self.at_least is None or ratio >= self.at_least


@dataclass(frozen=True)
class Result:
    name: str
    description: str
    unit: str
    values: dict[Engine, list[float]]
    """One figure per round, in `unit`; element i of every list comes from round i."""
    comparisons: tuple[Comparison, ...]
    engines: tuple[Engine, ...]
    """The engines of the case, installed or not, in the order of the table."""
    extra: dict[str, dict[Engine, str]] = field(default_factory=dict)
    """Further columns: heading -> cell by engine."""
    one_core: bool = False
    how: str = ""
    """Where it was measured, if not by client and server of this process."""


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[[Plan], Result]
    one_core: bool = False
    """Client and server share a core while it runs."""
