"""What is kept of slow and repeated statements: right numbers, bounded memory, a log that says each thing once."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from django_dbpool.core import statements
from django_dbpool.core.sqltext import without_literals
from django_dbpool.core.statements import (
    LOG_INTERVAL,
    MOST_LINES,
    Occasion,
    RepeatedStatements,
    SlowStatements,
    Throttle,
)
from django_dbpool.core.words import one_line


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def occasion(sql: str = "SELECT ?", unit: str = "GET /reports/7/", name: str = "reports/") -> Occasion:
    return Occasion(alias="default", sql=sql, unit=unit, name=name, backend_pid=4711)


# -- what may be said -------------------------------------------------------------------------------------------------


def test_the_same_is_said_once_in_its_time(clock: Clock) -> None:
    throttle = Throttle(clock=clock)
    assert [throttle.admit("a") for _ in range(5)] == [0, None, None, None, None]
    assert throttle.admit("b") == 0
    clock.now += LOG_INTERVAL
    assert throttle.admit("a") == 4
    assert throttle.admit("a") is None
    clock.now += LOG_INTERVAL
    assert throttle.admit("a") == 1
    assert throttle.admit("b") == 0


def test_different_things_are_limited_together(clock: Clock) -> None:
    throttle = Throttle(clock=clock)
    said = [throttle.admit(number) for number in range(MOST_LINES + 50)]
    assert said == [0] * MOST_LINES + [None] * 50
    clock.now += LOG_INTERVAL
    assert throttle.admit(MOST_LINES + 7) == 1


def test_what_is_remembered_is_bounded(clock: Clock) -> None:
    throttle = Throttle(clock=clock, keys=10)
    for number in range(10_000):
        throttle.admit(number)
    assert len(throttle._said) == 10


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("GET /größe/", "GET /größe/"),
        ("GET /a\n2026-01-01 CRITICAL forged", "GET /a\\n2026-01-01 CRITICAL forged"),
        ("a\x1b[2J\x00\x9b\u2028\u202eb", "a\\x1b[2J\\x00\\x9b\\u2028\\u202eb"),
        ("\udc80", "\\udc80"),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
    assert one_line(text).isprintable()


# -- slow -------------------------------------------------------------------------------------------------------------


def test_slow_statements_are_added_up_by_text(clock: Clock) -> None:
    slow = SlowStatements(clock=clock, now=lambda: 5000.0)
    assert slow.note(occasion(), 4.0, failed=False) == 0
    assert slow.note(occasion(unit="GET /reports/8/"), 10.0, failed=True) is None
    slow.note(occasion("SELECT a"), 5.0, failed=False)
    first, second = slow.read()
    assert (first.sql, first.count, first.failed, first.total, first.longest, first.mean) == (
        "SELECT ?",
        2,
        1,
        14,
        10,
        7,
    )
    assert (first.unit, first.name, first.backend_pid, first.at) == ("GET /reports/8/", "reports/", 4711, 5000.0)
    assert second.sql == "SELECT a"
    plain = first.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["mean"] == 7


def test_a_running_statement_is_not_counted_twice(clock: Clock) -> None:
    slow = SlowStatements(clock=clock)
    assert slow.note_running(occasion(), 3.5) == 0
    slow.set_running({("default", "SELECT ?"): 1})
    (row,) = slow.read()
    assert (row.count, row.running, row.longest, row.mean, row.total) == (0, 1, 3.5, 3.5, 0)
    assert slow.note(occasion(), 9.0, failed=False) == 0  # how long it took in the end is said too
    slow.set_running({})
    (row,) = slow.read()
    assert (row.count, row.running, row.longest, row.mean) == (1, 0, 9.0, 9.0)


def test_the_row_that_was_not_noted_for_the_longest_time_goes(clock: Clock) -> None:
    slow = SlowStatements(most=2, clock=clock)
    for sql in ("a", "b", "a", "c"):
        slow.note(occasion(sql), 4.0, failed=False)
    assert {row.sql for row in slow.read()} == {"a", "c"}


# -- repeated ---------------------------------------------------------------------------------------------------------


def test_repeated_statements_are_added_up_by_route_and_line(clock: Clock) -> None:
    repeated = RepeatedStatements(clock=clock, now=lambda: 5000.0)
    assert repeated.note(occasion(), "views.py:7 in report", 50) == 0
    repeated.note_end(occasion(), "views.py:7 in report", 430)
    assert repeated.note(occasion(unit="GET /reports/8/"), "views.py:7 in report", 50) is None
    assert repeated.note(occasion(), "views.py:9 in report", 50) == 0
    assert repeated.note(occasion(name="sales/"), "views.py:7 in report", 50) == 0
    first = repeated.read()[0]
    assert (first.where, first.name, first.units, first.count, first.most) == (
        "views.py:7 in report",
        "reports/",
        2,
        50,
        430,
    )
    assert first.unit == "GET /reports/8/"
    plain = first.to_json()
    assert json.loads(json.dumps(plain)) == plain
    clock.now += RepeatedStatements.INTERVAL
    assert repeated.note(occasion(), "views.py:7 in report", 50) == 1


def test_an_end_without_a_row_is_nothing(clock: Clock) -> None:
    repeated = RepeatedStatements(most=1, clock=clock)
    repeated.note(occasion(), "a.py:1 in f", 50)
    repeated.note(occasion(), "b.py:1 in f", 50)
    repeated.note_end(occasion(), "a.py:1 in f", 500)
    assert [row.where for row in repeated.read()] == ["b.py:1 in f"]


def test_literals_and_inventions_do_not_grow_the_memory() -> None:
    """200,000 statements with their values written into them, a third of them with made-up names of tables."""
    slow, repeated = SlowStatements(), RepeatedStatements()

    def note(number: int) -> None:
        table = f"t{number}" if number % 3 == 0 else "visitors"
        what = occasion(f"SELECT * FROM {table} WHERE id = ?", unit=f"GET /{number}/", name=f"{number}/")
        slow.note(what, 4.0, failed=False)
        slow.note_running(what, 4.0)
        repeated.note(what, f"views.py:{number} in f", 50)

    for number in range(20_000):
        note(number)
    tracemalloc.start()
    try:
        for number in range(20_000, 40_000):
            note(number)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(40_000, 60_000):
            note(number)
        assert tracemalloc.get_traced_memory()[0] < before + 20_000
    finally:
        tracemalloc.stop()
    assert len(slow.read()) <= statements.MOST_TEXTS
    assert len(repeated.read()) <= statements.MOST_TEXTS
    texts = {without_literals(f"SELECT * FROM visitors WHERE id = {number}") for number in range(2000)}
    assert texts == {"SELECT * FROM visitors WHERE id = ?"}
