"""What the records of two runs say about each other, and which differences are allowed."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

MAX_EXPECTED = 6
REASON_PREFIXES = ("asserts the stock pool's internals: ", "knows the stock engine by its name: ")
NOT_RUN = "not run"
BROKEN = frozenset({"fail", "error", "usuccess"})


@dataclasses.dataclass(frozen=True)
class Outcome:
    id: str
    outcome: str
    reason: str = ""
    traceback: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Expected:
    """A test that may fail on our engine although it passes on the stock one."""

    id: str
    django: tuple[str, ...]
    modes: tuple[str, ...]
    reason: str

    def covers(self, series: str, mode: str) -> bool:
        return series in self.django and mode in self.modes


@dataclasses.dataclass(frozen=True)
class Difference:
    id: str
    stock: str
    ours: str
    reason: str
    traceback: str


@dataclasses.dataclass
class Comparison:
    ran: int = 0
    passed: int = 0
    skipped: int = 0
    failed: list[Difference] = dataclasses.field(default_factory=list)
    ours_only: list[Difference] = dataclasses.field(default_factory=list)
    stock_only: list[Difference] = dataclasses.field(default_factory=list)


class BadExpectation(Exception):
    """The list of expected differences breaks its own rules."""


def read_expected(path: Path) -> tuple[Expected, ...]:
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("difference", [])
    expected = tuple(
        Expected(entry["id"], tuple(entry["django"]), tuple(entry["modes"]), entry["reason"]) for entry in entries
    )
    ids = {entry.id for entry in expected}
    if len(ids) > MAX_EXPECTED:
        raise BadExpectation(f"{path.name}: {len(ids)} test ids, at most {MAX_EXPECTED} may differ")
    for entry in expected:
        details = [entry.reason.removeprefix(prefix) for prefix in REASON_PREFIXES if entry.reason.startswith(prefix)]
        if not any(detail.strip() for detail in details):
            raise BadExpectation(f"{path.name}: {entry.id}: a reason starts with {' or '.join(REASON_PREFIXES)}")
    return expected


def compare(stock: dict[str, Outcome], ours: dict[str, Outcome]) -> Comparison:
    """A test that passes on stock has to pass on ours: one that is skipped or never reached there is lost."""
    result = Comparison()
    absent = Outcome("", NOT_RUN, "never reached")
    for test_id in sorted(stock.keys() | ours.keys()):
        theirs, mine = stock.get(test_id, absent), ours.get(test_id, absent)
        broken_here, broken_there = mine.outcome in BROKEN, theirs.outcome in BROKEN
        passed_here, passed_there = mine.outcome == "ok", theirs.outcome == "ok"
        told = mine if broken_here or not broken_there else theirs
        difference = Difference(test_id, theirs.outcome, mine.outcome, told.reason, told.traceback)
        result.ran += passed_here or broken_here
        if passed_here and passed_there:
            result.passed += 1
        elif broken_here and broken_there:
            result.failed.append(difference)
        elif broken_here or passed_there:
            result.ours_only.append(difference)
        elif broken_there or passed_here:
            result.stock_only.append(difference)
        else:
            result.skipped += 1
    return result


def selected(test_id: str, labels: Sequence[str]) -> bool:
    """No labels means the whole suite."""
    return not labels or any(test_id == label or test_id.startswith(label + ".") for label in labels)


def unexpected(
    differences: Iterable[Difference], expected: Iterable[Expected], series: str, mode: str
) -> list[Difference]:
    allowed = {entry.id for entry in expected if entry.covers(series, mode)}
    return [difference for difference in differences if difference.id not in allowed]


def stale(
    expected: Iterable[Expected],
    comparisons: dict[tuple[str, str], Comparison],
    labels: Sequence[str],
) -> tuple[list[str], list[str]]:
    """Errors for entries that no run needed, warnings for entries that only some of their runs needed."""
    errors, warnings = [], []
    for entry in expected:
        runs = [key for key in comparisons if entry.covers(*key)]
        if not runs or not selected(entry.id, labels):
            continue
        idle = [key for key in runs if entry.id not in {d.id for d in comparisons[key].ours_only}]
        where = ", ".join(f"{series} {mode}" for series, mode in idle)
        if len(idle) == len(runs):
            errors.append(f"{entry.id}: listed, but passes or does not exist on {where}")
        elif idle:
            warnings.append(f"{entry.id}: listed, but passes or does not exist on {where} (needed elsewhere)")
    return errors, warnings
