"""What is made of the snapshots of all processes: databases, percentiles, series, lists."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_dbpool import reports
from django_dbpool.core.advice import Measured
from django_dbpool.core.tally import BOUNDS
from django_dbpool.reports import Percentiles
from django_dbpool.reports.measuring import Durations, SeriesSum
from django_dbpool.reports.page import page_of
from tests.fixtures.fleets import NOW, fleet, histogram, holder, pool, process

# -- durations and use over time ----------------------------------------------------------------------------------


def test_percentiles_are_the_upper_bounds_of_their_buckets() -> None:
    durations = Durations()
    durations.add(histogram(50, 45, 4, 0, 1, seconds=2.0))
    assert durations.percentiles() == Percentiles(p50=0.001, p95=0.005, p99=0.01, count=100, total=2.0)
    assert durations.percentiles().mean == 0.02
    assert Durations().percentiles() == Percentiles()


def test_above_the_highest_bound_there_is_no_percentile() -> None:
    durations = Durations()
    durations.add(histogram(*[0] * len(BOUNDS), 3, seconds=60.0))
    found = durations.percentiles()
    assert (found.p50, found.p99, found.count, found.highest) == (None, None, 3, 10.0)


@hypothesis_settings(max_examples=100, derandomize=True, database=None)
@given(st.lists(st.lists(st.floats(0, 9.9), max_size=30), min_size=1, max_size=6))
def test_merged_histograms_are_that_of_all_together(processes: list[list[float]]) -> None:
    """Against the exact percentile of all durations: the bound of the bucket that it is in."""
    merged = Durations()
    for durations in processes:
        counts = [0] * (len(BOUNDS) + 1)
        for each in durations:
            counts[next(i for i, bound in enumerate((*BOUNDS, math.inf)) if each <= bound)] += 1
        merged.add(histogram(*counts, seconds=sum(durations)))
    everything = sorted(each for durations in processes for each in durations)
    found = merged.percentiles()
    assert found.count == len(everything)
    for percent, value in ((50, found.p50), (95, found.p95), (99, found.p99)):
        if everything:
            exact = everything[max(0, -(-percent * len(everything) // 100) - 1)]
            assert value == next(bound for bound in BOUNDS if exact <= bound)


def test_a_histogram_of_other_buckets_is_left_out() -> None:
    durations = Durations()
    durations.add(histogram(1))
    counts = histogram()["counts"]
    hostiles: tuple[object, ...] = (
        None,
        [],
        {**histogram(9), "bounds": [1.0]},
        {**histogram(9), "counts": counts[1:]},
        {**histogram(9), "counts": [-1, *counts[1:]]},
        {**histogram(9), "counts": [10**400, *counts[1:]]},
        {**histogram(9), "counts": [True, *counts[1:]]},
        {**histogram(9), "counts": ["9", *counts[1:]]},
    )
    for hostile in hostiles:
        durations.add(hostile)
    assert durations.percentiles().count == 1


def test_series_are_added_by_age() -> None:
    """The first speaks of now, the second has spoken 100 s ago, of which it says "now", too."""
    total = SeriesSum()
    told = {"in_use": [1, 5, 2], "waiting": [0, None, 3]}
    total.add([25, 15, 5], told, age=0.0, lived=1e6, size=4)
    total.add([25, 15, 5], told, age=100.0, lived=1e6, size=8)
    series = total.series()
    assert series.ago[0] == 890
    assert series.ago[-1] == 0
    by_age = dict(zip(series.ago, series.active, strict=True))
    assert {age: value for age, value in by_age.items() if value} == {0: 2, 10: 5, 20: 1, 100: 2, 110: 5, 120: 1}
    total.add([1], {"in_use": [4]}, age=100.0, lived=0.0, size=0)
    assert dict(zip(total.series().ago, total.series().active, strict=True))[100] == 6
    assert dict(zip(series.ago, series.waiting, strict=True))[100] == 3
    assert set(series.max) == {12}


def test_of_several_points_in_one_step_the_highest_counts() -> None:
    total = SeriesSum()
    total.add([9, 5, 1], {"in_use": [3, 7, 2]}, age=0.0, lived=0.0, size=4)
    series = total.series()
    assert (series.active[-1], series.max[-2:]) == (7, (0, 4)), "before it lived there was no pool"


# -- databases ----------------------------------------------------------------------------------------------------


def test_a_database_is_the_sum_of_its_pools() -> None:
    first = process(
        pools=[pool(in_use=3, idle=1, waiting=2, circuit="open", measures={"leases": 5, "wait": histogram(5)})],
        sections={"circuits": {"default": [{"ago": 4.0, "before": "closed", "after": "open", "reason": "x"}]}},
    )
    second = process(
        1,
        age=3.0,
        pools=[
            pool(in_use=5, idle=0, size=5, reserve_in_use=1, measures={"leases": 7, "refused": {"PoolExhausted": 2}}),
            pool("other"),
        ],
    )
    default, other = reports.databases(fleet(first, second))
    assert (default.alias, other.alias) == ("default", "other")
    assert (default.active, default.idle, default.total, default.max, default.waiting) == (8, 1, 9, 8, 2)
    assert (default.reserve, default.reserve_used, default.utilization_percent) == (2, 1, 87.5)
    assert (default.leases, default.timeouts, default.refused, default.processes) == (12, 2, 2, 2)
    assert (default.circuit, default.circuits) == ("open", {"open": 1, "closed": 1})
    (step,) = default.circuit_changes
    assert (step.process, step.ago, step.before, step.after) == ("web-1:100", 4.0, "closed", "open")
    assert (default.waits.count, default.window, default.recent_activity) == (5, None, None)


def test_durations_are_those_of_the_last_minutes_where_they_are_told() -> None:
    ever = {"leases": 1000, "wait": histogram(0, 0, 0, 1000), "connect": histogram(10)}
    recent = {"seconds": 600.0, "leases": 7, "wait": histogram(7), "connect": histogram(0, 1), "refused": {"A": 3}}
    (found,) = reports.databases(fleet(process(pools=[pool(measures=ever)], sections={"recent": {"default": recent}})))
    assert (found.leases, found.recent_activity, found.recent_refused, found.window) == (1000, 7, 3, 600.0)
    assert (found.waits.p99, found.waits.count, found.response_time_ms) == (0.001, 7, 5.0)
    silent = process(age=1000.0, state="idle", pools=[pool(measures=ever)], sections={"recent": {"default": recent}})
    assert reports.databases(fleet(silent))[0].recent_activity is None, "its last quarter of an hour was another one"


def test_what_one_that_is_idle_has_said_of_circuits_and_servers_is_forgotten() -> None:
    """It says that it is idle, and then nothing for hours, whatever became of its circuit since."""
    said: dict[str, Any] = {
        "pools": [pool(circuit="open", waiting=0)],
        "sections": {
            "alerts": [{"id": "a", "rule": "circuit", "alias": "default", "text": "t", "severity": "critical"}],
            "server": {"default": {"all_roles": 99, "max_connections": 100}},
        },
        "state": "idle",
    }
    fresh, old = fleet(process(age=10.0, **said)), fleet(process(age=7200.0, **said))
    assert reports.databases(fresh)[0].circuit == "open"
    assert reports.databases(fresh)[0].server_connections == 99
    assert {problem.code for problem in reports.problems(fresh)} == {"circuit-open", "server-full"}
    assert reports.alerts(fresh).total == 1
    assert (reports.databases(old)[0].circuit, reports.databases(old)[0].circuits) == ("closed", {"unknown": 1})
    assert reports.databases(old)[0].server_connections is None
    assert reports.problems(old) == ()
    assert reports.alerts(old).total == 0


def test_one_that_has_ended_counts_no_more() -> None:
    found = fleet(process(state="ended", pools=[pool(waiting=3)]), process(1))
    assert reports.databases(found)[0].processes == 1
    assert reports.overview(found).processes == 1
    assert reports.problems(found) == ()
    assert [row.state for row in reports.processes(found).items] == ["ended", "active"]


# -- the whole ----------------------------------------------------------------------------------------------------


def test_the_whole_in_a_sentence() -> None:
    well = reports.overview(fleet(process(), process(1, role="worker")))
    assert (well.healthy, well.status, well.roles) == (True, "healthy", {"web": 1, "worker": 1})
    assert well.sentence == "All is well: 2 processes use 2 of 8 connections, and nobody waits."
    assert reports.overview(fleet()).sentence == "No process is at work."
    ill = reports.overview(fleet(process(pools=[pool(in_use=4)]), process(1, pools=[pool(waiting=1)])))
    assert (ill.healthy, ill.status) == (False, "unhealthy")
    assert ill.sentence.startswith("web-1:101: 1 caller waits for a connection to database 'default'")
    assert ill.sentence.endswith("And 1 more.")
    crowded = reports.overview(fleet(process(pools=[pool(in_use=4)])))
    assert crowded.status == "degraded"
    past = reports.overview(fleet(process(), source="remembered", age=42.0, stale=True))
    assert past.sentence.startswith("As of 42 s ago: ")


# -- lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "asked", "number", "items", "pages"),
    [(0, 1, 1, 0, 1), (100, 1, 1, 100, 1), (101, 2, 2, 1, 2), (101, 9, 2, 1, 2), (101, -3, 1, 100, 2)],
)
def test_pages(total: int, asked: int, number: int, items: int, pages: int) -> None:
    page = page_of(range(total), asked, lambda each: each)
    assert (page.number, len(page.items), page.pages, page.total) == (number, items, pages, total)
    assert (page.has_previous, page.has_next) == (number > 1, number < pages)
    assert page.last - page.first + 1 == items or total == 0


@pytest.fixture
def crowd() -> reports.Fleet:
    """Holders of 0 to 119 seconds; every tenth is a task of a worker, each other one idle in a transaction."""
    states = ("running", "idle in transaction")
    ages = list(range(120))
    random.Random(1).shuffle(ages)
    held = [
        holder(backend_pid=1000 + age, since_seconds=float(age), state=states[age % 2], name=f"route-{age}", unit=None)
        for age in ages
    ]
    web = [process(number, holders=held[number * 40 : number * 40 + 40]) for number in range(3)]
    worker = process(
        3,
        role="worker",
        host="wrk",
        age=5.0,
        pools=[pool("other")],
        holders=[holder("other", unit="task shop.mail[1]", name="shop.mail", pinned="LISTEN", state="idle")],
    )
    return fleet(*web, worker)


def test_holders_are_sorted_filtered_and_paged(crowd: reports.Fleet) -> None:
    first = reports.holders(crowd)
    assert (first.total, first.pages, len(first.items)) == (121, 2, 100)
    assert [row.held for row in first.items[:2]] == [119.0, 118.0]
    assert [row.held for row in reports.holders(crowd, page=2).items][-1] == 0.0
    assert [row.held for row in reports.holders(crowd, sort="-age").items[:2]] == [0.0, 1.0]
    assert reports.holders(crowd, sort="nonsense").items == first.items
    (task,) = reports.holders(crowd, alias="other").items
    assert (task.process, task.who, task.held, task.idle) == ("wrk:103", "task shop.mail[1]", 7.0, True)
    assert reports.holders(crowd, state="pinned").items == (task,)
    assert reports.holders(crowd, q="SHOP mail").items == (task,), "every word, in whatever case"
    assert reports.holders(crowd, process="wrk:103").items == (task,)
    assert reports.holders(crowd, process=task.instance).items == (task,)
    assert reports.holders(crowd, state="idle").total == 61
    assert reports.holders(crowd, state="running").total == 60
    assert reports.holders(crowd, q="no such thing").total == 0
    assert reports.holders(crowd, q="1042").items[0].name == "route-42"


def test_a_holders_key_is_of_one_lease(crowd: reports.Fleet) -> None:
    keys = {row.key for number in (1, 2) for row in reports.holders(crowd, page=number).items}
    assert len(keys) == 121
    (row,) = reports.holders(crowd, alias="other").items
    assert reports.target_of(row.key) == (row.instance, "other", row.backend_pid, row.generation)
    assert reports.target_of(reports.key_of("0f", "a:b:c", 7, 3)) == ("0f", "a:b:c", 7, 3)


@pytest.mark.parametrize("key", ["", "x", "a:b:c:d", "a:1:2:", ":1:2:a", "a:-1:2:a", "a:1:²:a", "a" * 99 + ":1:2:a"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"no key|not enough values"):
        reports.target_of(key)


def test_processes_are_filtered(crowd: reports.Fleet) -> None:
    assert reports.processes(crowd).total == 4
    (row,) = reports.processes(crowd, role="worker").items
    assert (row.name, row.holders, row.oldest, row.pools[0].alias) == ("wrk:103", 1, 7.0, "other")
    assert reports.processes(crowd, q="wrk other").items == (row,)
    assert reports.processes(crowd, state="stale").total == 0


def test_statements_of_several_processes_are_one_row() -> None:
    def slow(**values: Any) -> dict[str, Any]:
        return {"alias": "default", "sql": "SELECT %s", "count": 2, "total": 8.0, "longest": 5.0, "at": 1.0, **values}

    found = fleet(
        process(sections={"slow_statements": [slow(), slow(sql="UPDATE", total=90.0, running=1)]}),
        process(1, sections={"slow_statements": [slow(longest=6.0, at=9.0, name="route", count=3)]}),
    )
    first, second = reports.slow_statements(found).items
    assert (first.sql, first.running) == ("UPDATE", 1)
    assert (second.count, second.total, second.longest, second.mean, second.processes) == (5, 16.0, 6.0, 3.2, 2)
    assert (second.at, second.name, second.process) == (9.0, "route", "web-1:101")
    assert [row.sql for row in reports.slow_statements(found, sort="at").items] == ["SELECT %s", "UPDATE"]
    assert reports.slow_statements(found, q="route").total == 1

    def repeated(**values: Any) -> dict[str, Any]:
        return {"alias": "default", "sql": "S", "where": "a.py:3 in f", "units": 2, "most": 60, "at": 1.0, **values}

    found = fleet(
        process(sections={"repeated_statements": [repeated(), repeated(where="b.py:1 in g", most=51)]}),
        process(1, sections={"repeated_statements": [repeated(most=70, units=5)]}),
    )
    first_row, second_row = reports.repeated_statements(found).items
    assert (first_row.where, first_row.units, first_row.most, first_row.processes) == ("a.py:3 in f", 7, 70, 2)
    assert (second_row.where, second_row.most) == ("b.py:1 in g", 51)


def test_operations_run_and_end() -> None:
    running = {
        "id": "x-1", "name": "import", "kind": "operation", "state": "running", "seconds": 10.0, "tags": {"a": "b"},
        "progress": {"done": 5, "total": 20, "rate": 0.5, "seconds_left": 30.0}, "holds_idle": True,
        "held": [{"alias": "default", "backend_pid": 7, "generation": 3}],
    }  # fmt: skip
    ended = [{"id": f"x-{n}", "name": "mail", "kind": "task", "seconds": 1.0, "ago": float(n)} for n in (9, 2)]
    found = fleet(process(age=2.0, sections={"operations": [running], "operations_ended": ended}))
    (row,) = reports.operations(found).items
    assert (row.seconds, row.done, row.total, row.percent, row.held, row.holds_idle) == (12.0, 5.0, 20.0, 25.0, 1, True)
    assert row.keys == (reports.key_of(row.instance, "default", 7, 3),)
    assert row.tags == {"a": "b"}
    assert [each.ended_ago for each in reports.operations(found, running=False).items] == [4.0, 11.0]
    assert reports.operations(found, kind="task").total == 0


def test_alerts_that_are_so_come_first() -> None:
    def alert(**values: Any) -> dict[str, Any]:
        return {"id": "i", "rule": "r", "alias": "default", "severity": "warning", "text": "t", "since": NOW, **values}

    found = fleet(
        process(sections={"alerts_over": [alert(rule="over", until=NOW + 60)], "alerts": [alert(since=NOW - 9)]}),
        process(1, sections={"alerts": [alert(severity="critical", rule="worst")]}),
    )
    assert [row.rule for row in reports.alerts(found).items] == ["worst", "r", "over"]
    over = reports.alerts(found, active=False).items[0]
    assert (over.seconds, over.until, over.active) == (60.0, NOW + 60, False)
    assert reports.alerts(found, severity="critical").total == 1


def test_advice_is_that_of_the_command() -> None:
    load = Measured(seconds=900, leases=90_000, hold=0.05, load=5.0, usual_load=5.0, peak_load=14.0, most=20)
    found = fleet(process(), process(1, sections={"load": {"default": load.to_json()}}))
    (report,) = [each for each in reports.advice(found) if each.alias == "default"]
    assert report.basis == (
        "Measured by 1 process (fleet); the busiest, web-1:101: 90000 leases in 15 min, 0 timeouts."
    )
    assert report.changes["max_size"] > 14
    assert all(f'"{key}"' in report.paste for key in report.changes)
    assert {item.setting for item in report.advice} >= set(report.changes)
    with override_settings(DBPOOL={"no such key": 1}):
        assert reports.advice(found) == (), "the check names the fault"
