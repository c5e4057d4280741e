"""Runs of batches in the lines and tables of a terminal."""

from __future__ import annotations

from ..core.words import one_line
from ..reports import BatchFailureRow, BatchPartRow, BatchRow
from ..reports.culprits import duration

NONE = {
    "open": "No run is open.",
    "trouble": "No run is in trouble.",
    "done": "No run is done.",
    "cancelled": "No run was cancelled.",
    "all": "There is no run.",
}
RUNS = ("run", "state", "progress", "rate", "left", "at work", "heard of", "failed", "database")
PARTS = ("part", "state", "done", "failed", "batches", "last key", "up to", "runner", "heard of", "why it stopped")
FAILED = ("item", "times", "skipped", "error", "where")


def run_cells(row: BatchRow) -> tuple[str, ...]:
    return (
        one_line(row.name, 60),
        row.condition,
        progress(row),
        "-" if row.rate is None else f"{row.rate:.1f}/s",
        "-" if row.seconds_left is None else duration(row.seconds_left),
        f"{row.at_work} of {len(row.parts)}" if len(row.parts) > 1 else "yes" if row.at_work else "no",
        "-" if row.heartbeat_age is None else f"{duration(row.heartbeat_age)} ago",
        str(row.failures),
        row.alias,
    )


def progress(row: BatchRow) -> str:
    done = f"{row.done + row.failed:,}"
    if row.total is None:
        return done
    return f"{done} of {row.total:,}" + ("" if row.percent is None else f" ({int(row.percent)} %)")


def part_cells(row: BatchRow, part: BatchPartRow) -> tuple[str, ...]:
    heard = "in a batch" if part.in_batch else f"{duration(part.heartbeat_age)} ago"
    return (
        str(part.part),
        part.condition,
        str(part.done),
        str(part.failed),
        str(part.batches),
        one_line(part.last_key or "-", 30),
        one_line(part.upper or "-", 30),
        one_line(part.runner or "-", 60),
        heard if part.runner else "-",
        one_line(part.reason or "-", 60),
    )


def failure_cells(row: BatchFailureRow) -> tuple[str, ...]:
    text = f"{row.error_type.removeprefix('builtins.')}: {row.error}" if row.error else row.error_type
    return one_line(row.key, 40), str(row.times), "yes" if row.skipped else "no", one_line(text, 100), row.place


def trouble(row: BatchRow) -> str:
    worst = next(each for each in row.parts if each.condition == row.condition)
    part = f", part {worst.part}" if len(row.parts) > 1 else ""
    if row.condition == "failed":
        what = f"its last runner has ended with an error ({worst.reason.removeprefix('failed: ')})"
    elif row.condition == "given up":
        what = "it was sent again and again, and not one batch was done"
    else:
        what = f"nothing was heard of its runner ({worst.runner}) for {duration(worst.heartbeat_age)}"
    again = "`batches resume` sends its task again." if row.task else "No task does it: start it again."
    return f"{one_line(row.name, 60)}{part}: {what}. {again}"


def counted(number: int) -> str:
    return f"{number} run{'s' * (number != 1)}"
