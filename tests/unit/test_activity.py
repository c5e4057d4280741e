"""Averages of who holds and who waits: right to the number, bounded, and fading while nobody looks."""

from __future__ import annotations

import json
import math

import pytest

from django_dbpool.core.activity import FIFTEEN_MINUTES, OTHERS, Activity, ActivityMeter

ROUTE = ("default", "reports/<int:pk>/")
TASK = ("default", "shop.tasks.send")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> ActivityMeter:
    return ActivityMeter(clock)


def looks(meter: ActivityMeter, clock: Clock, seconds: int, held: dict, waiting: dict | None = None) -> None:
    for _ in range(seconds):
        meter.look(held, waiting or {})
        clock.now += 1


def row(meter: ActivityMeter, name: str | None) -> Activity:
    return next(row for row in meter.read() if row.name == name)


def test_nothing_was_seen(meter: ActivityMeter) -> None:
    assert meter.read() == ()
    meter.look({ROUTE: 3}, {})
    assert row(meter, ROUTE[1]).held.minute == 0.0  # no time has passed


def test_a_constant_level_is_the_average_from_the_first_second(meter: ActivityMeter, clock: Clock) -> None:
    for seconds in (1, 30, 3600):
        looks(meter, clock, seconds, {ROUTE: 3}, {TASK: 2})
        held = row(meter, ROUTE[1])
        assert (held.held.minute, held.held.five_minutes, held.held.fifteen_minutes) == pytest.approx((3, 3, 3))
        assert held.baseline == pytest.approx(3)
        assert held.waiting.minute == 0
        assert row(meter, TASK[1]).waiting.fifteen_minutes == pytest.approx(2)


def test_a_level_of_every_other_second_counts_half(meter: ActivityMeter, clock: Clock) -> None:
    for _ in range(300):
        looks(meter, clock, 1, {ROUTE: 4})
        looks(meter, clock, 1, {})
    assert row(meter, ROUTE[1]).held.five_minutes == pytest.approx(2, rel=0.02)


def test_a_burst_shows_in_a_minute_and_hardly_in_the_baseline(meter: ActivityMeter, clock: Clock) -> None:
    looks(meter, clock, 6 * 3600, {ROUTE: 1})
    looks(meter, clock, 120, {ROUTE: 6})
    busy = row(meter, ROUTE[1])
    assert busy.held.minute == pytest.approx(6 - 5 * math.exp(-2), rel=1e-3)
    assert busy.baseline < 1.05
    assert busy.held.minute / busy.baseline > 5
    assert busy.observed == pytest.approx(6 * 3600 + 120)


def test_idle_hours_need_no_look(meter: ActivityMeter, clock: Clock) -> None:
    """The last look of a process that goes to sleep sees nothing; that holds until it wakes up."""
    looks(meter, clock, 60, {ROUTE: 2})
    meter.look({}, {})
    clock.now += 60
    assert row(meter, ROUTE[1]).held.minute == pytest.approx(2 * (1 - math.exp(-1)) * math.exp(-1) / (1 - math.exp(-2)))
    clock.now += 7200
    meter.look({ROUTE: 1}, {})
    assert row(meter, ROUTE[1]).held.fifteen_minutes < 0.001


def test_a_name_that_comes_later_has_not_been_there_before(meter: ActivityMeter, clock: Clock) -> None:
    looks(meter, clock, 900, {ROUTE: 1})
    looks(meter, clock, 60, {TASK: 1})
    assert row(meter, TASK[1]).held.fifteen_minutes == pytest.approx(
        (1 - math.exp(-60 / 900)) / (1 - math.exp(-960 / 900)), rel=1e-6
    )


def test_names_are_bounded(clock: Clock) -> None:
    """Of a visitor's inventions the first few are kept, the rest is one row of each database."""
    meter = ActivityMeter(clock, most_names=10)
    for number in range(100_000):
        meter.look({("default", f"made/up/{number}"): 1, ("other", f"{number}"): 1}, {})
        clock.now += 0.01
    rows = meter.read()
    assert len(rows) <= 12
    assert {(row.alias, row.name) for row in rows} >= {("default", OTHERS), ("other", OTHERS)}
    assert sum(row.held.fifteen_minutes for row in rows if row.alias == "default") == pytest.approx(1, rel=0.01)


def test_a_name_not_seen_for_long_makes_room(clock: Clock) -> None:
    meter = ActivityMeter(clock, most_names=2)
    looks(meter, clock, 1, {ROUTE: 1, TASK: 1})
    looks(meter, clock, int(FIFTEEN_MINUTES), {TASK: 1})
    looks(meter, clock, 2, {("default", "new/"): 1})
    assert {row.name for row in meter.read()} == {TASK[1], "new/"}


def test_the_busiest_is_first_and_json_has_plain_values(meter: ActivityMeter, clock: Clock) -> None:
    looks(meter, clock, 10, {TASK: 1, ROUTE: 2, ("other", None): 3})
    rows = meter.read()
    assert [row.name for row in rows] == [None, ROUTE[1], TASK[1]]
    plain = rows[1].to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["held"] == pytest.approx({"minute": 2, "five_minutes": 2, "fifteen_minutes": 2})
    meter.forget()
    assert meter.read() == ()
