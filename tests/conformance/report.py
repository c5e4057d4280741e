"""What the comparison prints, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from .compare import NOT_RUN, Comparison, Difference, Expected, compare, unexpected
from .runs import Run

HEADINGS = (
    "Django",
    "engine",
    "ran",
    "pass both",
    "skipped",
    "fail both",
    "ours only",
    "listed",
    "stock only",
    "s",
)
FOLDED = 20
TRACEBACK_ENDS = 60


@dataclasses.dataclass
class Judged:
    """One engine compared with the stock one on the same version of Django."""

    stock: Run
    ours: Run
    comparison: Comparison
    surprises: list[Difference]

    @property
    def name(self) -> str:
        return str(self.ours.plan)


@dataclasses.dataclass
class Verdict:
    judged: list[Judged]
    problems: list[str]
    warnings: list[str]
    rechecks: list[str]
    seconds: float

    @property
    def failures(self) -> int:
        return len(self.problems) + sum(len(each.surprises) for each in self.judged)

    @property
    def passed(self) -> int:
        return sum(each.comparison.passed for each in self.judged)


def row(judged: Judged) -> tuple[str, ...]:
    result, plan = judged.comparison, judged.ours.plan
    listed = len(result.ours_only) - len(judged.surprises)
    numbers = (result.ran, result.passed, result.skipped, len(result.failed), len(result.ours_only), listed)
    shown = (*map(str, numbers), str(len(result.stock_only)), f"{judged.ours.seconds:.0f}")
    return (plan.environment.django, plan.mode, *shown)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def describe(title: str, differences: Sequence[Difference], tracebacks: bool) -> list[str]:
    if not differences:
        return []
    lines = ["", title]
    unreached = [difference for difference in differences if NOT_RUN in (difference.stock, difference.ours)]
    if len(unreached) > FOLDED:
        lines.append(f"  {len(unreached)} tests ran on one engine only, {unreached[0].id} and others")
        differences = [difference for difference in differences if difference not in unreached]
    for difference in differences:
        states = f"stock: {difference.stock}, here: {difference.ours}"
        lines += [f"  {difference.id}  [{states}]", f"      {difference.reason}"]
        if tracebacks and difference.traceback:
            lines += [f"      | {line}" for line in shortened(difference.traceback.rstrip().splitlines())]
    return lines


def shortened(lines: list[str]) -> list[str]:
    """Endless recursion has thousands of lines; the ends tell the story."""
    if len(lines) <= 2 * TRACEBACK_ENDS:
        return lines
    left_out = len(lines) - 2 * TRACEBACK_ENDS
    return [*lines[:TRACEBACK_ENDS], f"... {left_out} lines ...", *lines[-TRACEBACK_ENDS:]]


def render(verdict: Verdict, expected: Sequence[Expected], verbose: bool) -> str:
    lines = ["", *table(row(judged) for judged in verdict.judged)]
    for judged in verdict.judged:
        plan = judged.ours.plan
        result = judged.comparison
        surprising = {difference.id for difference in judged.surprises}
        listed = [difference for difference in result.ours_only if difference.id not in surprising]
        reasons = {entry.id: entry.reason for entry in expected}
        lines += describe(f"{plan}: fails here only", judged.surprises, verbose)
        if listed:
            lines += ["", f"{plan}: fails here only, as listed"]
            lines += [f"  {difference.id}\n      {reasons[difference.id]}" for difference in listed]
        lines += describe(f"{plan}: fails on both engines", result.failed, False)
        lines += describe(f"{plan}: fails on the stock engine only", result.stock_only, False)
    for title, notes in (
        ("Run again", verdict.rechecks),
        ("Warnings", verdict.warnings),
        ("Problems", verdict.problems),
    ):
        if notes:
            lines += ["", title, *(f"  {note}" for note in notes)]
    cached = "" if all(not judged.stock.cached for judged in verdict.judged) else ", stock results from the cache"
    lines += ["", f"total time {verdict.seconds:.0f} s{cached}"]
    lines += [f"conformance: {verdict.passed} passed, {verdict.failures} failed"]
    return "\n".join(lines)


def as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "runs": [
            {
                "django": judged.ours.plan.environment.django,
                "engine": judged.ours.plan.mode,
                "versions": judged.ours.plan.environment.versions,
                "labels": judged.ours.plan.labels,
                "seconds": round(judged.ours.seconds, 1),
                "stock_seconds": round(judged.stock.seconds, 1),
                "stock_cached": judged.stock.cached,
                **dataclasses.asdict(judged.comparison),
                "surprises": [difference.id for difference in judged.surprises],
            }
            for judged in verdict.judged
        ],
        "problems": verdict.problems,
        "warnings": verdict.warnings,
        "rechecks": verdict.rechecks,
        "seconds": round(verdict.seconds, 1),
        "passed": verdict.passed,
        "failed": verdict.failures,
    }


def judge(stock: Run, ours: Run, expected: Sequence[Expected]) -> Judged:
    comparison = compare(stock.outcomes, ours.outcomes)
    plan = ours.plan
    surprises = unexpected(comparison.ours_only, expected, plan.environment.series, plan.mode)
    return Judged(stock, ours, comparison, surprises)
