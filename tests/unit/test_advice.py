"""Advice: the arithmetic of queues, what follows from which facts, and that what is to be pasted is accepted."""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import random
from fractions import Fraction
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.db import connections
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.conf import pool_config
from django_dbpool.core.advice import Advice, Facts, Measured, Report, Room, Settings, advise, paste, spread
from django_dbpool.core.advice.measuring import measured
from django_dbpool.core.advice.queueing import deadlock_free, late, needed, unqueued, wait_probability
from django_dbpool.core.alerts.trend import Reading
from django_dbpool.core.tally import Histogram

BUSY = Measured(seconds=900, leases=90_000, hold=0.05, load=5.0, usual_load=5.0, peak_load=8.0, most=10, executing=0.9)


def item(report: Report, setting: str) -> Advice:
    (found,) = [each for each in report.advice if each.setting == setting]
    return found


# -- queues ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (2, 1.0), (10, 8.0), (60, 59.5), (5, 0.001)])
def test_erlang_c(servers: int, load: float) -> None:
    """As the books write it, in exact fractions."""
    load_ = Fraction(load)
    all_busy = load_**servers / math.factorial(servers) * servers / (servers - load_)
    some_free = sum(load_**number / math.factorial(number) for number in range(servers))
    assert wait_probability(servers, load) == pytest.approx(float(all_busy / (all_busy + some_free)))


def test_erlang_c_at_its_ends() -> None:
    assert wait_probability(3, 0.0) == 0.0
    assert wait_probability(5, 5.0) == 1.0
    assert 0 < wait_probability(2000, 1900.0) < 1


def simulated(servers: int, load: float, hold: float, target: float) -> float:
    """The share of callers that waited for longer than the target, of many who came at random."""
    chance = random.Random(7)
    free = [0.0] * servers
    now, waited, callers = 0.0, 0, 60_000
    for _ in range(callers):
        now += chance.expovariate(load / hold)
        begin = max(now, heapq.heappop(free))
        waited += begin - now > target
        heapq.heappush(free, begin + chance.expovariate(1 / hold))
    return waited / callers


@pytest.mark.parametrize(("load", "hold"), [(0.4, 0.1), (7.0, 0.05), (30.0, 0.2)])
def test_what_is_needed_is_enough_and_one_less_is_not(load: float, hold: float) -> None:
    servers = needed(load, hold, target=0.05)
    assert simulated(servers, load, hold, 0.05) <= 0.06
    assert servers - 1 <= load or simulated(servers - 1, load, hold, 0.05) > 0.045


@given(st.floats(0, 200), st.floats(0.0001, 5), st.floats(0, 10))
def test_what_is_needed_is_above_the_load(load: float, hold: float, spread: float) -> None:
    servers = needed(load, hold, target=0.05, spread=spread)
    assert servers > load
    assert late(servers, load, hold, 0.05, spread) <= 0.05
    assert servers <= needed(load * 1.5 + 1, hold, target=0.05, spread=spread)


def test_leases_that_vary_more_need_more() -> None:
    assert needed(7.0, 0.05, target=0.02, spread=0.0) < needed(7.0, 0.05, target=0.02, spread=20.0)


def test_a_queue_hides_demand() -> None:
    """8 threads that hold as long as they work elsewhere want 4; a pool of 2 shows 2 in use and others waiting."""
    assert unqueued(4.0, 0.0, 8) == 4.0
    assert unqueued(2.0, 4.0, 8) == 4.0
    assert unqueued(2.0, 4.0, None) == 6.0


def test_hikaricp_s_example() -> None:
    assert deadlock_free(8, 3) == 17


def test_spread_of_a_histogram() -> None:
    assert spread([0, 10, 0], [0.001, 0.003], 0.02) == pytest.approx(0)
    assert spread([], [], 0.0) == 1.0
    mixed = spread([900, 0, 100], [0.01, 1.0], 900 * 0.005 + 100 * 2.0)
    assert mixed == pytest.approx(1000 * (900 * 0.005**2 + 100 * 4) / 204.5**2 - 1)


# -- sizes ----------------------------------------------------------------------------------------------------------


def test_the_size_comes_from_the_load() -> None:
    report = advise(Facts("default", Settings(max_size=30), BUSY, threads=40, processes=2))
    size = item(report, "max_size")
    assert (size.kind, size.current, size.confidence) == ("change", 30, "measured")
    assert size.proposed == needed(8.0 * 1.25, 0.05, target=0.05)
    assert "100.0 leases a second of 50 ms keep 5.0 connections" in size.reason


def test_who_waits_counts_as_demand() -> None:
    full = dataclasses.replace(BUSY, load=4.0, usual_load=4.0, peak_load=4.0, peak_queue=8.0, most=12)
    report = advise(Facts("default", Settings(max_size=4), full, threads=16))
    assert item(report, "max_size").proposed == needed(8.0 * 1.25, 0.05, target=0.05)
    assert "while 8.0 callers wait" in item(report, "max_size").reason


def test_no_more_than_the_threads_can_use() -> None:
    full = dataclasses.replace(BUSY, peak_load=10.0, peak_queue=2.0, most=12)
    assert item(advise(Facts("default", Settings(), full, threads=12)), "max_size").proposed == 12


def test_no_more_than_the_server_has() -> None:
    facts = Facts("default", Settings(max_size=20), BUSY, threads=40, processes=10, room=Room(97, others=17))
    report = advise(facts)
    assert item(report, "max_size").proposed == 7
    assert item(report, "pooler").kind == "look"
    assert "17 taken by others" in item(report, "pooler").reason
    assert item(advise(dataclasses.replace(facts, budget=50)), "max_size").proposed == 4


def test_a_pooler_has_room_of_its_own() -> None:
    settings = Settings(max_size=5, pooler="transaction")
    report = advise(Facts("default", settings, BUSY, threads=40, processes=10, room=Room(20)))
    assert item(report, "max_size").proposed > 10
    assert "statement_timeout" not in report.changes


def test_no_growth_beyond_what_the_processors_work_on() -> None:
    full = dataclasses.replace(BUSY, peak_load=6.0, peak_queue=50.0, executing=0.5)
    facts = Facts("default", Settings(max_size=6), full, threads=64, room=Room(500, cpus=4))
    assert item(advise(facts), "max_size").proposed == 18
    assert item(advise(dataclasses.replace(facts, room=Room(500))), "max_size").proposed > 18


READY = dataclasses.replace(
    BUSY,
    seconds=25,
    peak_load=10.0,
    load=9.0,
    usual_load=9.0,
    peak_queue=8.0,
    most=18,
    executing=0.8,
    ready=0.9,
    working=1.8,
)


def test_who_waits_for_the_interpreter_needs_no_connections() -> None:
    """Of ten connections eight have their answers; with three a half of the callers would find one at once."""
    size = item(advise(Facts("default", Settings(), READY, threads=24)), "max_size")
    assert (size.kind, size.proposed, size.confidence) == ("change", 3, "estimated")
    assert wait_probability(3, 1.8) <= 0.5 < wait_probability(2, 1.8)
    assert "At 90% of the moments at the busiest a thread had its answer and no turn to take it" in size.reason
    assert "fewer would not do" not in size.reason


@pytest.mark.parametrize(
    ("load", "proposed"),
    [
        ({"working": 8.3}, 10),  # most of them wait elsewhere in their transactions
        ({"working": 0.1}, 2),  # never one: a long statement would stop all others
        ({"working": 12.6}, 15),  # more than there are, but not as many as if the queue meant something
        ({"ready": 0.5}, None),
        ({"ready": None}, None),
        ({"nested": 2}, 25),  # else they would wait for each other
    ],
)
def test_where_threads_wait_for_connections_too(load: dict[str, Any], proposed: int | None) -> None:
    facts = Facts("default", Settings(), dataclasses.replace(READY, **load), threads=24)
    found = item(advise(facts), "max_size").proposed
    assert found == proposed if proposed is not None else found > 20


def test_more_turns_are_no_reason_for_more_connections() -> None:
    """Where less is wanted anyhow, what threads wait for isn't spoken of."""
    quiet = dataclasses.replace(READY, peak_load=0.5, load=0.5, usual_load=0.5, peak_queue=0.0, most=2, working=3.0)
    size = item(advise(Facts("default", Settings(max_size=2), quiet, threads=24)), "max_size")
    assert size.kind == "keep"
    assert "interpreter" not in size.reason


def test_threads_that_hold_several_do_not_lock_each_other_out() -> None:
    nested = dataclasses.replace(BUSY, nested=2, peak_load=1.0, load=1.0, usual_load=1.0)
    size = item(advise(Facts("default", Settings(max_size=5), nested, threads=16)), "max_size")
    assert size.proposed == 17
    assert "wait for each other" in size.reason


def test_no_thread_is_advised_to_wait_for_itself() -> None:
    """There is room for one connection in each process, and threads hold two."""
    nested = dataclasses.replace(BUSY, nested=2, peak_load=1.0, load=1.0, usual_load=1.0)
    report = advise(Facts("default", Settings(max_size=5), nested, Room(40, 0), processes=20, threads=16))
    assert "max_size" not in report.changes
    assert "would wait for themselves" in item(report, "max_size").reason
    assert "there is room for 1" in item(report, "pooler").reason


def test_nothing_is_taken_away_for_half_a_minute_of_little_work() -> None:
    little = dataclasses.replace(BUSY, seconds=25, leases=250, load=0.5, usual_load=0.5, peak_load=1.0)
    size = item(advise(Facts("default", Settings(max_size=10), little, threads=16)), "max_size")
    assert (size.kind, size.confidence) == ("keep", "estimated")
    assert "Too little was measured" in size.reason
    enough = dataclasses.replace(little, seconds=900, leases=9000)
    assert item(advise(Facts("default", Settings(max_size=10), enough, threads=16)), "max_size").proposed < 10


def test_what_fits_is_kept() -> None:
    report = advise(Facts("default", Settings(max_size=14, min_size=5, statement_timeout=10), BUSY, threads=40))
    assert [each.kind for each in report.advice] == ["keep", "keep"]
    assert paste(report, "X", present=True) == ""


@pytest.mark.parametrize(("threads", "size"), [(4, 4), (16, 10), (40, 20), (500, 50)])
def test_where_nothing_was_measured_the_bands_count(threads: int, size: int) -> None:
    report = advise(Facts("default", Settings(max_size=size * 2), threads=threads))
    assert (item(report, "max_size").proposed, item(report, "max_size").confidence) == (size, "prior")
    assert any("Nothing was measured" in each for each in report.unknown)


def test_where_nothing_is_known_nothing_is_said() -> None:
    few = dataclasses.replace(BUSY, leases=20)
    report = advise(Facts("default", Settings(statement_timeout=5), few))
    assert report.advice == ()
    assert [each.split(":")[0] for each in report.unknown] == [
        "Only 20 leases in 900 s were measured; from 100 in 20 s on something follows from them.",
        "How many threads a process has",
        "How many processes there are",
        "How many connections the server has",
        "How many processors the server has",
    ]


# -- the rest -------------------------------------------------------------------------------------------------------


def test_limits_fit_the_worker_that_is_killed() -> None:
    report = advise(Facts("default", Settings(timeout=30), worker_timeout=20))
    assert report.changes == {"timeout": 10.0, "statement_timeout": 16.0}
    commands = advise(Facts("default", Settings(), web=False))
    assert commands.changes == {}


def test_a_queue_that_is_longer_than_the_timeout_is_cut() -> None:
    slow = dataclasses.replace(BUSY, hold=2.0, timeouts=40)
    facts = Facts("default", Settings(max_size=10, timeout=10), slow, threads=400)
    changes = advise(facts).changes
    assert changes["max_waiting"] == changes["max_size"] * 10 / 2  # as many as are served within the timeout
    assert "max_waiting" not in advise(dataclasses.replace(facts, threads=40)).changes


def test_code_that_keeps_connections_is_named() -> None:
    bad = dataclasses.replace(BUSY, hold=0.5, overdue=3, pinned=2, repeated=9, executing=0.1)
    looks = [each.reason for each in advise(Facts("default", Settings(), bad)).advice if each.kind == "look"]
    assert len(looks) == 4
    for word, reason in zip(("leak_after", "pin_max", "prefetch_related", "atomic()"), looks, strict=True):
        assert word in reason


loads = st.floats(0.01, 300)
measurements = st.builds(
    Measured,
    seconds=st.floats(1, 4000),
    leases=st.integers(0, 100_000),
    hold=st.floats(0.0005, 5),
    spread=st.floats(0, 20),
    load=loads,
    usual_load=loads,
    peak_load=loads,
    peak_queue=st.floats(0, 100),
    most=st.integers(0, 300),
    timeouts=st.integers(0, 50),
    executing=st.none() | st.floats(0, 1),
    nested=st.integers(1, 3),
    ready=st.none() | st.floats(0, 1),
    working=st.floats(0, 300),
    overdue=st.integers(0, 1),
)
settings_ = st.builds(
    Settings,
    min_size=st.just(1),
    max_size=st.integers(1, 100),
    timeout=st.sampled_from([1.0, 10.0, 60.0]),
    statement_timeout=st.none() | st.just(5.0),
)
facts_ = st.builds(
    Facts,
    st.just("default"),
    settings_,
    st.none() | measurements,
    st.builds(Room, st.none() | st.integers(1, 500), st.integers(0, 600), st.none() | st.integers(1, 64)),
    st.none() | st.integers(1, 50),
    st.none() | st.integers(1, 200),
    st.none() | st.floats(0.5, 120),
    st.none() | st.integers(1, 300),
    st.booleans(),
)


@given(facts_)
def test_whatever_the_facts_the_advice_can_be_followed(facts: Facts) -> None:
    """It never asks for more than there is, and what is to be pasted is valid and accepted by checks and pool."""
    report = advise(facts)
    json.dumps(report.to_json(), allow_nan=False)
    size = report.changes.get("max_size", facts.settings.max_size)
    room = min(
        (facts.room.connections or math.inf) - facts.room.others if facts.room.connections is not None else math.inf,
        facts.budget or math.inf,
    )
    if "max_size" in report.changes:
        assert size == 1 or (size + 1) * (facts.processes or 1) <= room
    assert report.changes.get("min_size", facts.settings.min_size) <= size
    follow(report, {"max_size": facts.settings.max_size, "timeout": facts.settings.timeout})


def follow(report: Report, written: dict[str, Any]) -> None:
    """Do as it says, and have the result read."""
    target = 'DATABASES["default"]["POOL"]'
    before = {**connections["default"].settings_dict, "POOL": written}
    names: dict[str, Any] = {"DATABASES": {"default": dict(before)}}
    exec(paste(report, target, present=True), names)
    after = names["DATABASES"]["default"]
    assert {key: after["POOL"][key] for key in report.changes} == report.changes
    pool_config(after, "default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "DATABASES", {"default": after})
        found = [message for message in run_checks(tags=["dbpool"]) if 'DATABASES["default"]' in message.msg]
    assert not [message for message in found if message.is_serious()]


def test_pasted_where_there_was_no_pool() -> None:
    report = advise(Facts("default", Settings(max_size=30), BUSY, threads=40))
    names: dict[str, Any] = {"DATABASES": {"default": {}}}
    exec(paste(report, 'DATABASES["default"]["POOL"]', present=False), names)
    assert names["DATABASES"]["default"]["POOL"] == report.changes


# -- from readings to a load ----------------------------------------------------------------------------------------


def readings(loads: list[float], *, leases: int = 10, step: float = 5.0, **gauges: int) -> list[Reading]:
    """One a step, with that many connections in use on average."""
    found, busy, number, at = [Reading(0.0, **gauges)], 0.0, 0, 0.0
    for load in loads:
        at += step
        busy += load * step
        number += leases
        found.append(Reading(at, leases=number, busy=busy, **gauges))
    return found


USE = Histogram((0,) * 4 + (100,) + (0,) * 5, 100 * 0.08)


def test_loads_are_of_intervals_and_exact() -> None:
    found = measured(readings([2.0] * 98 + [6.0, 9.0], in_use=3, executing=2), USE, Histogram())
    assert found is not None
    assert (found.seconds, found.leases) == (500, 1000)
    assert [found.usual_load, found.peak_load] == pytest.approx([2, 6])
    assert found.load == pytest.approx((98 * 2 + 15) / 100)
    assert found.executing == pytest.approx(2 / 3)


def test_what_threads_wait_for_is_looked_at_where_work_is_done() -> None:
    """At three of four busy moments an answer waited; nights and idle moments say nothing of it."""
    quiet, busy = readings([0.1] * 50), readings([9.0] * 48)
    told = [
        dataclasses.replace(each, in_use=9, ready=7 if number % 4 else 0)
        for number, each in enumerate(busy[1:], start=1)
    ]
    day = [
        *quiet,
        *(dataclasses.replace(each, at=each.at + 250, leases=each.leases + 500, busy=each.busy + 25) for each in told),
    ]
    found = measured(day, USE, Histogram())
    assert found is not None
    assert (found.ready, found.working) == (0.75, 2.0)


def test_leases_that_last_still_are_no_short_ones() -> None:
    """Hundreds ended at once and two never: leases a second times their duration is what is in use."""
    found = measured(readings([2.0] * 10), Histogram((100,) + (0,) * 9, 0.1), Histogram())
    assert found is not None
    assert found.leases / found.seconds * found.hold == pytest.approx(found.load)
    ended = measured(readings([0.5] * 10, leases=100), USE, Histogram())
    assert ended is not None
    assert ended.hold == pytest.approx(0.08)


def test_of_few_moments_nothing_is_said() -> None:
    few = measured(readings([9.0] * 39, in_use=9, ready=9), USE, Histogram())
    assert few is not None
    assert (few.ready, few.working) == (None, 0.0)
    nobody = measured(readings([9.0] * 40, in_use=9), USE, Histogram())
    assert nobody is not None
    assert (nobody.ready, nobody.working) == (0.0, 0.0)


def test_an_idle_night_is_no_part_of_the_load() -> None:
    day = readings([4.0] * 20)
    last = day[-1]
    next_day = [
        dataclasses.replace(each, at=each.at + 40_000, leases=each.leases + last.leases, busy=each.busy + last.busy)
        for each in readings([4.0] * 20)
    ]
    found = measured([*day, *next_day], USE, Histogram())
    assert found is not None
    assert found.seconds == 200
    assert [found.load, found.usual_load] == pytest.approx([4, 4])


def test_waiting_for_a_connection_to_be_opened_is_no_queue() -> None:
    first, second = readings([4.0])
    opening = dataclasses.replace(second, waited=2.0, connecting=2.0, opened=4)
    wait = Histogram((96, 0, 0, 0, 0, 4, 0, 0, 0, 0), 2.0)
    found = measured([first, opening], USE, wait)
    assert found is not None
    assert (found.peak_queue, found.late) == (0, 0)
    queueing = dataclasses.replace(second, waited=20.0)
    found = measured([first, queueing], USE, wait)
    assert found is not None
    assert (found.peak_queue, found.late) == (4, 4)


def test_nothing_follows_from_nothing() -> None:
    assert measured([], Histogram(), Histogram()) is None
    assert measured(readings([0.0] * 3, leases=0), USE, Histogram()) is None


def test_where_callers_have_waited_fewer_are_not_advised() -> None:
    waited = dataclasses.replace(BUSY, hold=0.003, load=3.0, peak_load=4.0, peak_queue=1.9)
    size = item(advise(Facts("default", Settings(max_size=24), waited, threads=24)), "max_size")
    assert (size.kind, size.current) == ("keep", 24)
    assert "fewer would not do" in size.reason
    calm = dataclasses.replace(waited, peak_queue=0.1)
    assert item(advise(Facts("default", Settings(max_size=24), calm, threads=24)), "max_size").proposed < 12


def test_nobody_waits_longer_than_a_lease_lasts() -> None:
    short = dataclasses.replace(BUSY, hold=0.003)
    size = item(advise(Facts("default", Settings(max_size=50), short, threads=40)), "max_size").proposed
    assert size == needed(8.0 * 1.25, 0.003, target=0.005)
    assert size > needed(8.0 * 1.25, 0.003, target=0.05)


def test_bursts_are_taken_seriously() -> None:
    """On average two are in use; but a fifth of all callers have waited."""
    bursts = dataclasses.replace(BUSY, load=2.0, peak_load=2.0, usual_load=2.0, late=18_000)
    size = item(advise(Facts("default", Settings(max_size=8), bursts, threads=40)), "max_size")
    assert size.proposed == 12
    assert "they come in bursts" in size.reason


@given(measurements)
def test_a_load_survives_json(load: Measured) -> None:
    assert Measured.from_json({**json.loads(json.dumps(load.to_json())), "of a newer version": 1}) == load


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Measured)])
@pytest.mark.parametrize("value", [None, -1, True, "7", math.inf, []])
def test_a_load_that_somebody_made_up_is_refused(name: str, value: Any) -> None:
    if name in ("executing", "ready") and value is None:
        return
    with pytest.raises(ValueError, match=name):
        Measured.from_json({**BUSY.to_json(), name: value})
