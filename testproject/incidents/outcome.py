"""What the run of an incident has measured: as a table for readers, and as JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What became of one engine."""

    engine: str
    met: bool
    """It failed by the error that was reported, or met its numbers, whichever is expected of it."""
    verdict: str
    figures: dict[str, Any]
    """For programs."""


def judged(engine: str, faults: Iterable[str], story: Callable[[], str], figures: dict[str, Any]) -> Outcome:
    """
    What a run has shown.

    Args:
        faults: why it has not; none if it has.
        story: what it has, in words.
    """
    found = list(faults)
    claim = "Not reproduced" if engine == "stock" else "Not gone"
    verdict = f"{claim}: {'; '.join(found)}." if found else story()
    return Outcome(engine, not found, verdict, figures)


@dataclass(frozen=True)
class Row:
    label: str
    cells: Sequence[object] = ()
    """One for each column; none in a heading."""


@dataclass(frozen=True)
class Report:
    incident: str
    title: str
    setup: dict[str, str]
    columns: list[tuple[str, ...]]
    """Their headings, in as many lines as a tuple has."""
    rows: list[Row]
    outcomes: list[Outcome]

    @property
    def met(self) -> bool:
        return all(outcome.met for outcome in self.outcomes)

    def as_json(self) -> dict[str, Any]:
        return {
            "incident": self.incident,
            "title": self.title,
            "setup": self.setup,
            "met": self.met,
            "engines": {
                outcome.engine: {"met": outcome.met, "verdict": outcome.verdict, **outcome.figures}
                for outcome in self.outcomes
            },
        }

    def story(self) -> Iterator[str]:
        """The lines for a reader."""
        yield f"{self.incident}: {self.title}"
        yield ""
        for name, value in self.setup.items():
            yield f"  {name:<10}{value}"
        yield ""
        yield from self._table()
        yield ""
        for outcome in self.outcomes:
            yield textwrap.fill(f"{outcome.engine}: {outcome.verdict}", width=100)

    def _table(self) -> Iterator[str]:
        width = max(len(row.label) for row in self.rows) + 2
        for line in zip(*self.columns, strict=True):
            yield _line("", line, width)
        for row in self.rows:
            yield _line(row.label, row.cells, width)


def _line(label: str, cells: Sequence[object], width: int) -> str:
    return f"  {label:<{width}}" + "".join(f"{cell:>12}" for cell in map(str, cells)) if cells else f"  {label}"


def error_rows(errors: Sequence[Counter[str]]) -> list[Row]:
    """One for each error that any column has."""
    return [
        Row(f"  failed: {name}", [counter[name] for counter in errors])
        for name in dict.fromkeys(name for counter in errors for name in counter)
    ]
