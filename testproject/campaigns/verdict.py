"""What is expected of each engine, held against what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from testproject.campaigns.counting import Letters, Recordings
from testproject.campaigns.watching import STILL, Seen
from testproject.harness.load import Figures
from testproject.incidents.outcome import Outcome, Row, error_rows, judged

# The errors by which the stock engine has to fail.
FULL = "TooManyConnections (53300)"
LOCKED = "LockNotAvailable (55P03)"


@dataclass(frozen=True)
class Tasks:
    failures: list[str | None]
    """Of each task; None if it succeeded."""
    seconds: float
    """From the first that was sent to the end of the last."""

    @property
    def errors(self) -> Counter[str]:
        return Counter(name for name in self.failures if name is not None)


@dataclass(frozen=True)
class Measured:
    """All that one engine has gone through."""

    quiet: Figures
    """Page traffic alone."""
    busy: Figures
    """Beside the background work."""
    site: Seen
    worker: Seen
    """Their sessions."""
    refused_connections: int
    """By the server, with SQLSTATE 53300."""
    tasks: Tasks
    lost: int
    """Recordings whose file was gone while they were still known, when a process had just been killed."""
    letters: Letters
    recordings: Recordings


def judge(engine: str, measured: Measured) -> Outcome:
    if engine == "stock":
        return judged(engine, _faults_of_stock(measured), partial(_story_of_stock, measured), figures(measured))
    return judged(engine, _faults_of_ours(measured), partial(_story_of_ours, measured), figures(measured))


def most_p95(measured: Measured) -> float:
    """Seconds; on a machine that does both the background work and the pages."""
    return 2 * (measured.quiet.p95 or 0) + 0.5


def _faults_of_stock(measured: Measured) -> Iterator[str]:
    for name in (FULL, LOCKED):
        if not measured.busy.errors.get(name):
            yield f"no page failed with {name}"
    if measured.quiet.failed:
        yield f"{measured.quiet.failed} pages failed before the background work began"
    if not measured.refused_connections:
        yield "the server refused no connection"
    if len(measured.worker.standing) < len(measured.tasks.failures):
        yield f"only {len(measured.worker.standing)} sessions of the worker were idle in a transaction"
    if not measured.letters.twice:
        yield "nobody got a letter twice"
    if not measured.lost:
        yield "no recording lost its file"


def _faults_of_ours(measured: Measured) -> Iterator[str]:
    letters, recordings = measured.letters, measured.recordings
    for name, load in (("alone", measured.quiet), ("beside the background work", measured.busy)):
        if load.failed or not load.ok:
            yield f"{load.failed} of {load.requests} pages failed {name} ({_counted(load.errors)})"
    if measured.busy.p95 is None or measured.busy.p95 > most_p95(measured):
        most = _milliseconds(most_p95(measured))
        yield f"95 % of the pages took up to {_milliseconds(measured.busy.p95)}, not {most}"
    if measured.refused_connections:
        yield f"the server refused {measured.refused_connections} connections"
    if measured.worker.standing:
        yield (
            f"{len(measured.worker.standing)} sessions of the worker were idle in a transaction for over {STILL:g} s, "
            f"one of them for {measured.worker.longest:.1f} s"
        )
    if failed := measured.tasks.errors.total():
        yield f"{failed} tasks failed ({_counted(measured.tasks.errors)})"
    if letters.once != letters.recipients or letters.miscounted:
        yield (
            f"{letters.twice} recipients got a letter twice, {letters.missing} got none, and of {letters.miscounted} "
            "the database says something else"
        )
    if measured.lost or recordings.lost or recordings.expired or recordings.forgotten:
        yield (
            f"{measured.lost} recordings had lost their file when the process was killed; at the end {recordings.lost} "
            f"have no file, {recordings.forgotten} files no recording, {recordings.expired} are left"
        )


def _story_of_stock(measured: Measured) -> str:
    errors, worker = measured.busy.errors, measured.worker
    return (
        f"Reproduced: {len(worker.standing)} sessions of the worker stood idle in a transaction, one of them for "
        f"{worker.longest:.1f} s; {errors[FULL]} pages failed with {FULL} and {errors[LOCKED]} with {LOCKED}. After "
        f"the kill {measured.letters.twice} recipients got a letter twice, and {measured.lost} recordings had no file."
    )


def _story_of_ours(measured: Measured) -> str:
    letters = measured.letters
    return (
        f"Gone: {measured.busy.failed} of {measured.busy.requests} pages failed beside the background work, 95 % of "
        f"them took up to {_milliseconds(measured.busy.p95)} ({_milliseconds(measured.quiet.p95)} without it); no "
        f"session stood idle in a transaction. Two processes were killed: each of {letters.recipients} recipients has "
        f"one letter ({letters.handed_in} were handed in), no recording is without its file."
    )


# -- figures --------------------------------------------------------------------------------------------------------


def rows(measured: list[Measured]) -> list[Row]:
    return [
        Row("pages alone"),
        Row("  answered", [one.quiet.ok for one in measured]),
        Row("  failed", [one.quiet.failed for one in measured]),
        Row("  p95", [_milliseconds(one.quiet.p95) for one in measured]),
        Row("pages beside the background work"),
        Row("  answered", [one.busy.ok for one in measured]),
        *error_rows([Counter(one.busy.errors) for one in measured]),
        Row("  p95", [_milliseconds(one.busy.p95) for one in measured]),
        Row("sessions, counted on the server"),
        Row("  most of the worker", [one.worker.peak for one in measured]),
        Row("  most of the site", [one.site.peak for one in measured]),
        Row("  refused by the server (53300)", [one.refused_connections for one in measured]),
        Row("the worker's transactions"),
        Row(f"  sessions idle in one for over {STILL:g} s", [len(one.worker.standing) for one in measured]),
        Row("  idle for the longest", [f"{one.worker.longest:.2f} s" for one in measured]),
        Row("  all together", [f"{one.worker.in_transaction:.1f} s" for one in measured]),
        Row("background work, two processes killed"),
        Row("  tasks", [len(one.tasks.failures) for one in measured]),
        *error_rows([one.tasks.errors for one in measured]),
        Row("  time", [f"{one.tasks.seconds:.1f} s" for one in measured]),
        Row("letters"),
        Row("  handed in", [one.letters.handed_in for one in measured]),
        Row("  recipients with one", [one.letters.once for one in measured]),
        Row("  recipients with more than one", [one.letters.twice for one in measured]),
        Row("  recipients with none", [one.letters.missing for one in measured]),
        Row("  recipients of whom the database is wrong", [one.letters.miscounted for one in measured]),
        Row("recordings"),
        Row("  without their file after the kill", [one.lost for one in measured]),
        Row("  without their file at the end", [one.recordings.lost for one in measured]),
        Row("  left", [one.recordings.expired for one in measured]),
        Row("  files without a recording", [one.recordings.forgotten for one in measured]),
    ]


def figures(measured: Measured) -> dict[str, Any]:
    """For programs."""
    return {
        "pages": {"alone": _load(measured.quiet), "beside": _load(measured.busy)},
        "sessions": {
            "worker": measured.worker.peak,
            "site": measured.site.peak,
            "refused": measured.refused_connections,
        },
        "transactions": {
            "idle_sessions": len(measured.worker.standing),
            "longest_idle": round(measured.worker.longest, 3),
            "seconds": round(measured.worker.in_transaction, 3),
        },
        "tasks": {
            "count": len(measured.tasks.failures),
            "errors": dict(measured.tasks.errors),
            "seconds": round(measured.tasks.seconds, 3),
        },
        "letters": asdict(measured.letters),
        "recordings": {**asdict(measured.recordings), "lost_by_kill": measured.lost},
    }


def _load(load: Figures) -> dict[str, Any]:
    return {"ok": load.ok, "failed": load.failed, "errors": load.errors, "p95": load.p95 and round(load.p95, 4)}


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _counted(counter: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.items())
