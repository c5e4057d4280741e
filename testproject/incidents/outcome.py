"""What the run of an incident has measured, as a story and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from testproject.harness.load import Figures


@dataclass(frozen=True)
class PageRun:
    """One page under the load, on a site that was started for it."""

    page: str
    figures: Figures
    peak: int
    """Most connections of the site at once, as pg_stat_activity showed them."""
    opened: int
    """Connections that the server has accepted from the site."""
    refused: int
    """Connections that the server's log says it refused with SQLSTATE 53300."""

    def as_json(self) -> dict[str, Any]:
        figures = self.figures
        return {
            "page": self.page,
            "requests": figures.requests,
            "ok": figures.ok,
            "failed": figures.failed,
            "errors": figures.errors,
            "peak_connections": self.peak,
            "connections_opened": self.opened,
            "connections_refused": self.refused,
            "seconds": round(figures.seconds, 3),
            "p50": figures.p50 and round(figures.p50, 4),
        }


@dataclass(frozen=True)
class Outcome:
    incident: str
    title: str
    engine: str
    setup: dict[str, str]
    runs: list[PageRun]
    limits: dict[str, int]
    met: bool
    verdict: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "runs": [run.as_json() for run in self.runs]}

    def story(self) -> Iterator[str]:
        """The lines for a reader."""
        yield f"{self.incident}: {self.title}"
        yield ""
        for name, value in self.setup.items():
            yield f"  {name:<10}{value}"
        yield ""
        yield from _table(self.runs)
        yield ""
        yield self.verdict


def _table(runs: list[PageRun]) -> Iterator[str]:
    errors = dict.fromkeys(error for run in runs for error in run.figures.errors)
    rows: list[tuple[str, list[Any]]] = [
        ("", [f"{run.page} page" for run in runs]),
        ("requests", [run.figures.requests for run in runs]),
        ("  answered", [run.figures.ok for run in runs]),
        *((f"  failed: {error}", [run.figures.errors.get(error, 0) for run in runs]) for error in errors),
        ("connections at once", [run.peak for run in runs]),
        ("connections opened", [run.opened for run in runs]),
        ("connections refused", [run.refused for run in runs]),
        ("time", [f"{run.figures.seconds:.1f} s" for run in runs]),
    ]
    width = max(len(name) for name, _ in rows) + 2
    for name, values in rows:
        yield f"  {name:<{width}}" + "".join(f"{value:>12}" for value in values)
