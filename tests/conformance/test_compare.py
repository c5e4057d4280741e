"""The comparison itself must be able to fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from .compare import (
    BadExpectation,
    Comparison,
    Difference,
    Expected,
    Outcome,
    compare,
    read_expected,
    stale,
    unexpected,
)
from .runs import read_record

SERIES, MODE = "6.0", "transaction"


def record(**outcomes: str) -> dict[str, Outcome]:
    return {test_id: Outcome(test_id, outcome, f"why {outcome}") for test_id, outcome in outcomes.items()}


def lost(test_id: str) -> Comparison:
    return Comparison(ours_only=[Difference(test_id, "ok", "fail", "", "")])


def listed(test_id: str, *series: str) -> Expected:
    return Expected(test_id, series or (SERIES,), (MODE,), "")


def ids(differences: list[Difference]) -> list[str]:
    return [difference.id for difference in differences]


@pytest.mark.parametrize("ours", ["fail", "error", "skip", "xfail", "usuccess"])
def test_whatever_passes_on_stock_must_pass_here(ours: str) -> None:
    result = compare(record(a="ok", b="ok"), record(a=ours, b="ok"))
    assert ids(result.ours_only) == ["a"]
    assert result.passed == 1


def test_a_test_that_is_never_reached_is_lost() -> None:
    assert ids(compare(record(a="ok", b="ok"), record(b="ok")).ours_only) == ["a"]


@pytest.mark.parametrize("stock", ["skip", "xfail"])
def test_a_failure_of_a_test_that_stock_skips_is_ours(stock: str) -> None:
    assert ids(compare(record(a=stock), record(a="fail")).ours_only) == ["a"]


def test_failures_on_both_and_on_stock_only_are_not_ours() -> None:
    result = compare(record(a="error", b="fail", c="skip"), record(a="fail", b="ok", c="skip"))
    assert (ids(result.ours_only), ids(result.failed), ids(result.stock_only)) == ([], ["a"], ["b"])
    assert result.skipped == 1
    assert result.stock_only[0].reason == "why fail"


def test_an_entry_excuses_its_own_id_version_and_mode_only() -> None:
    differences = lost("a").ours_only
    assert unexpected(differences, [listed("a")], SERIES, MODE) == []
    assert ids(unexpected(differences, [listed("a")], "5.2", MODE)) == ["a"]
    assert ids(unexpected(differences, [listed("a")], SERIES, "session")) == ["a"]
    assert ids(unexpected(differences, [listed("b")], SERIES, MODE)) == ["a"]


def test_an_entry_that_no_run_needs_is_an_error() -> None:
    errors, warnings = stale([listed("app.a")], {(SERIES, MODE): Comparison()}, ["app"])
    assert len(errors) == 1
    assert warnings == []


def test_an_entry_that_one_version_does_not_need_is_a_warning() -> None:
    compared = {(SERIES, MODE): lost("app.a"), ("6.1", MODE): Comparison()}
    errors, warnings = stale([listed("app.a", SERIES, "6.1")], compared, [])
    assert errors == []
    assert len(warnings) == 1


def test_an_entry_is_not_judged_by_runs_that_leave_its_test_out() -> None:
    assert stale([listed("app.a")], {(SERIES, MODE): Comparison()}, ["application"]) == ([], [])
    assert stale([listed("app.a")], {("5.2", MODE): Comparison()}, ["app"]) == ([], [])


def entries(path: Path, *names: str, reason: str = "asserts the stock pool's internals: x") -> Path:
    text = '[[difference]]\nid = "{}"\ndjango = ["6.0"]\nmodes = ["transaction"]\nreason = "{}"\n'
    path.write_text("".join(text.format(name, reason) for name in names))
    return path


def test_the_list_is_short_and_justified(tmp_path: Path) -> None:
    path = tmp_path / "expected.toml"
    assert len(read_expected(entries(path, *"abcdef"))) == 6
    with pytest.raises(BadExpectation, match="7 test ids"):
        read_expected(entries(path, *"abcdefg"))
    for reason in ("fails", "asserts the stock pool's internals: "):
        with pytest.raises(BadExpectation, match="a reason starts with"):
            read_expected(entries(path, "a", reason=reason))


def lines(*entries: Mapping[str, object]) -> list[str]:
    return [json.dumps(entry) for entry in entries]


STARTED = {"started": "a"}
ENDED = {"id": "a", "outcome": "ok", "reason": "", "traceback": "", "seconds": 0.1}
FINISHED = {"finished": True}


@pytest.mark.parametrize(
    ("record_lines", "code", "problem"),
    [
        (lines(STARTED, ENDED, FINISHED), 0, ""),
        (lines(STARTED, ENDED, FINISHED), 1, ""),
        (lines(STARTED, ENDED, FINISHED), -11, "ended with exit code -11"),
        (lines(STARTED, ENDED, FINISHED), None, "it was after the last test"),
        (lines(STARTED, ENDED), 1, "broke off after 1 tests"),
        (lines(STARTED), 1, "broke off in a"),
        (lines(STARTED), None, "it was in a"),
        ([*lines(STARTED), '{"id": "a", "outc'], -9, "broke off in a"),
        ([], 1, "broke off after 0 tests"),
    ],
)
def test_a_run_that_did_not_end_well_is_a_problem(record_lines: list[str], code: int | None, problem: str) -> None:
    outcomes, found = read_record(record_lines, code)
    assert problem in found
    assert bool(problem) == bool(found)
    assert set(outcomes) <= {"a"}


def test_a_failure_is_not_covered_by_a_second_run_of_the_same_test() -> None:
    failed = {**ENDED, "outcome": "fail"}
    for order in ([ENDED, failed], [failed, ENDED]):
        assert read_record(lines(*order, FINISHED), 1)[0]["a"].outcome == "fail"
