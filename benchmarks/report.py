"""The Markdown report: a verdict per target, a table per case, and the machine that produced them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psycopg
from django.db import connections

from benchmarks.case import Comparison, Result
from benchmarks.engines import OURS, Engine
from benchmarks.measure import Ratio, paired_ratio

DISTRIBUTIONS = ("Django", "psycopg", "psycopg-pool", "django-pg-real-pool", "django-db-connection-pool")


INTRODUCTION = """\
# Benchmarks

Written by `make bench`. Each round measures every engine once, in one process and in shuffled order, so a
busy machine slows them alike. A ratio is the median of the ratios by round; beside it stands its 95 %
percentile bootstrap interval. A target is met or missed by the median. "Stock, persistent, again" is the
stock engine a second time: its distance from 1 is the noise.

Where client and server share one core, a round trip always takes the same short time; on any core it takes
that or three times as much, as the scheduler likes. One core is the stricter: the same cost is compared with
a smaller whole.
"""


def render(results: list[Result], load_before: tuple[float, float, float]) -> str:
    lines = [
        INTRODUCTION,
        *table(["", ""], machine(load_before)),
        "",
        "## Targets",
        "",
        *table(["case", "against", "target", "measured", "95 %", "verdict"], verdicts(results)),
    ]
    for result in results:
        lines += ["", f"## {result.name}", "", result.description, "", *case_table(result)]
    return "\n".join(lines) + "\n"


def table(headings: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def verdicts(results: list[Result]) -> Iterator[list[str]]:
    for result in results:
        for comparison in result.comparisons:
            if comparison.target:
                ratio = ratio_of(result, comparison.subject, comparison)
                measured = ["-", "-", "not measured"] if ratio is None else [*cells(ratio), verdict(ratio, comparison)]
                yield [result.name, comparison.baseline.label, comparison.target, *measured]


def missed(results: list[Result]) -> bool:
    """Whether any target was not reached, or could not be measured."""
    return any(row[-1].startswith("not ") for row in verdicts(results))


def verdict(ratio: Ratio, comparison: Comparison) -> str:
    met = comparison.met(ratio.median)
    # The interval reaches over the target: another run may say the opposite.
    close = comparison.met(ratio.low) != comparison.met(ratio.high)
    return ("met" if met else "not met") + (", within the noise" if close else "")


def case_table(result: Result) -> Iterator[str]:
    headings = ["engine", result.unit, *result.extra]
    for comparison in result.comparisons:
        headings += [f"against {comparison.baseline.label}", "95 %"]
    rounds = len(next(iter(result.values.values())))
    yield from table(headings, (row(result, engine) for engine in result.engines))
    yield ""
    where = "one core" if result.one_core else "any core"
    yield f"{rounds} rounds, {result.how or f'client and server on {where}'}."


def row(result: Result, engine: Engine) -> list[str]:
    if engine not in result.values:
        return [engine.label, "not installed", *[""] * (len(result.extra) + 2 * len(result.comparisons))]
    name = f"**{engine.label}**" if engine is OURS else engine.label
    found = [name, f"{statistics.median(result.values[engine]):,.1f}"]
    found += [column[engine] for column in result.extra.values()]
    for comparison in result.comparisons:
        ratio = ratio_of(result, engine, comparison)
        found += ["1.00", ""] if engine is comparison.baseline or ratio is None else cells(ratio)
    return found


def ratio_of(result: Result, engine: Engine, comparison: Comparison) -> Ratio | None:
    if engine not in result.values or comparison.baseline not in result.values:
        return None
    return paired_ratio(result.values[engine], result.values[comparison.baseline])


def cells(ratio: Ratio) -> list[str]:
    return [f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]


def machine(load_before: tuple[float, float, float]) -> Iterator[list[str]]:
    yield ["date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")]
    yield ["machine", f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"]
    load_after = os.getloadavg()
    yield ["load average", f"{load_before[0]:.2f} before, {load_after[0]:.2f} after"]
    yield ["Python", f"{platform.python_implementation()} {platform.python_version()}"]
    for name in DISTRIBUTIONS:
        yield [name, installed_version(name)]
    yield [
        "libpq",
        f"{psycopg.pq.version_pretty(psycopg.pq.version())}, psycopg's {psycopg.pq.__impl__} implementation",
    ]
    yield ["server", server()]


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def server() -> str:
    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW server_version")
        number = str(cursor.fetchone()[0])
    return f"PostgreSQL {number} on the same machine, over loopback TCP"
