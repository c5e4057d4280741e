"""What OpenTelemetry's SDK collects of the pools."""

from __future__ import annotations

import math
import operator
import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from django_dbpool.contrib import opentelemetry
from django_dbpool.contrib.opentelemetry import histograms as histograms_module
from django_dbpool.contrib.opentelemetry.histograms import HISTOGRAMS as instruments_of_time
from django_dbpool.contrib.opentelemetry.histograms import Told, samples
from django_dbpool.contrib.opentelemetry.instruments import OBSERVED
from django_dbpool.core import events, reporter, tally
from django_dbpool.core.tally import BOUNDS, Histogram
from django_dbpool.pool.measures import measures
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Child, Database, Task
from tests.fixtures.readings import reading

DOCS = Path(__file__).resolve().parents[2] / "docs/tracing.md"
NAME = "db.client.connection.pool.name"
HISTOGRAMS = ("create_time", "wait_time", "use_time")
DELTA: dict[type, AggregationTemporality] = dict.fromkeys(
    (sdk.Counter, sdk.Histogram, sdk.ObservableCounter), AggregationTemporality.DELTA
)


@pytest.fixture(autouse=True)
def only_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests before have counted takes longer to record than a reader waits."""
    monkeypatch.setattr(tally, "_tallies", {})


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    with provided(reader) as provider:
        yield provider


@contextmanager
def provided(*readers: InMemoryMetricReader, **settings: Any) -> Iterator[MeterProvider]:
    provider = MeterProvider(metric_readers=list(readers), shutdown_on_exit=False, **settings)
    try:
        yield provider
    finally:
        opentelemetry.uninstall()
        provider.shutdown()


def install(provider: MeterProvider, **kwargs: Any) -> None:
    opentelemetry.install(provider, server_interval=None, **kwargs)


def collect(reader: InMemoryMetricReader) -> dict[str, Any]:
    """Metrics by name."""
    data: MetricsData | None = reader.get_metrics_data()
    resources = data.resource_metrics if data is not None else ()
    found = [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]
    assert len({metric.name for metric in found}) == len(found)
    return {metric.name: metric for metric in found}


def points(metrics: dict[str, Any], name: str, alias: str) -> list[Any]:
    metric = metrics.get(name)
    return [] if metric is None else [point for point in metric.data.data_points if point.attributes[NAME] == alias]


def value(metrics: dict[str, Any], name: str, alias: str, **attributes: str) -> float:
    wanted = {key.replace("__", "."): text for key, text in attributes.items()}
    (point,) = [point for point in points(metrics, name, alias) if wanted.items() <= dict(point.attributes).items()]
    return float(point.value)


def counted(metrics: dict[str, Any], alias: str) -> dict[str, int]:
    found = {name: points(metrics, f"db.client.connection.{name}", alias) for name in HISTOGRAMS}
    return {name: sum(point.count for point in each) for name, each in found.items()}


def lease(database: Database, times: int) -> None:
    for _ in range(times):
        database.fetch("SELECT 1")


def of(database: Database) -> Any:
    (found,) = [each for each in measures() if each.alias == database.alias]
    return found


def test_names_units_and_kinds(make_database: MakeDatabase, reader: InMemoryMetricReader, provider: Any) -> None:
    """Those of the semantic conventions, with the numbers of the pool."""
    install(provider)
    database = make_database(max_size=3, min_size=1, timeout=0.3)
    with database.holding(2):
        lease(database, 2)
        found = collect(reader)
        total = of(database).use.total
    prefix = "db.client.connection."
    alias = database.alias
    assert {name: metric.unit for name, metric in found.items() if name.startswith(prefix)} == {
        **{f"{prefix}{name}": "{connection}" for name in ("count", "idle.max", "idle.min", "max")},
        f"{prefix}pending_requests": "{request}",
        f"{prefix}timeouts": "{timeout}",
        **{f"{prefix}{name}": "s" for name in HISTOGRAMS},
    }
    state = "db.client.connection.state"
    values = {point.attributes[state]: point.value for point in points(found, f"{prefix}count", alias)}
    assert values == {"used": 2, "idle": 1}
    for name, expected in {"idle.max": 3, "idle.min": 1, "max": 3, "pending_requests": 0, "timeouts": 0}.items():
        assert value(found, prefix + name, alias) == expected
        assert found[prefix + name].data.is_monotonic is (name == "timeouts")
    assert counted(found, alias) == {"create_time": 3, "wait_time": 2, "use_time": 2}
    (point,) = points(found, f"{prefix}use_time", alias)
    assert dict(point.attributes) == {NAME: alias}
    assert tuple(point.explicit_bounds) == BOUNDS
    assert point.sum == pytest.approx(total, abs=1)
    assert point.start_time_unix_nano < point.time_unix_nano
    assert 0 <= point.min <= point.sum / point.count <= point.max


def test_failures_are_counted_by_name(make_database: MakeDatabase, reader: InMemoryMetricReader, provider: Any) -> None:
    install(provider)
    database = make_database(max_size=1, timeout=0.3)
    with database.holding():
        for _ in range(3):
            with pytest.raises(OperationalError):
                database.fetch("SELECT 1")
    broken = make_database(PORT=1, timeout=0.2)
    with pytest.raises(OperationalError):
        broken.fetch("SELECT 1")
    database.connection.close_pool()
    found = collect(reader)
    assert value(found, "db.client.connection.timeouts", database.alias) == 3
    assert value(found, "django_dbpool.refused", database.alias, error__type="PoolExhausted") == 3
    assert value(found, "django_dbpool.refused", broken.alias, error__type="DatabaseUnavailable") == 1
    assert value(found, "django_dbpool.connections.failed", broken.alias) == 1
    assert value(found, "django_dbpool.connections.opened", database.alias) == 1
    assert value(found, "django_dbpool.connections.closed", database.alias, django_dbpool__reason="closed") == 1
    assert points(found, "db.client.connection.max", database.alias) == []
    assert value(found, "django_dbpool.circuit", broken.alias, django_dbpool__circuit__state="closed") == 1
    assert value(found, "django_dbpool.circuit", broken.alias, django_dbpool__circuit__state="open") == 0


def test_losses_of_both_kinds(make_database: MakeDatabase, reader: InMemoryMetricReader, provider: Any) -> None:
    install(provider)
    database = make_database(max_size=1)
    for _ in range(2):
        database.observer.execute("SELECT pg_terminate_backend(%s, 5000)", [database.backend()])
        lease(database, 1)
    with pytest.raises(OperationalError):
        database.fetch("SELECT pg_terminate_backend(pg_backend_pid())")
    found = collect(reader)
    lost = "django_dbpool.connections.lost"
    assert value(found, lost, database.alias, django_dbpool__expected="true") == 2
    assert value(found, lost, database.alias, django_dbpool__expected="false") == 1


THREADS, TIMES = 6, 250


@pytest.mark.parametrize("histograms", ["merged", "recorded"])
def test_every_lease_is_counted_once(make_database: MakeDatabase, histograms: Any) -> None:
    """By a reader of totals and by one of differences, both of which collect all the while."""
    totals, differences = InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality=DELTA)
    with provided(totals, differences) as provider:
        install(provider, histograms=histograms)
        database = make_database(max_size=4)
        collect(totals)
        tasks = [Task(lease, database, TIMES) for _ in range(THREADS)]
        sums = dict.fromkeys(HISTOGRAMS, 0)
        before = dict.fromkeys(HISTOGRAMS, 0)

        def add() -> None:
            for name, count in counted(collect(differences), database.alias).items():
                sums[name] += count

        while any(task.is_alive() for task in tasks):
            now = counted(collect(totals), database.alias)
            assert all(now[name] >= before[name] for name in HISTOGRAMS)
            before = now
            add()
            tasks[-1].join(0.02)
        for task in tasks:
            task.result()
        add()
        expected = {"create_time": of(database).opened, "wait_time": THREADS * TIMES, "use_time": THREADS * TIMES}
        found = collect(totals)
        assert counted(found, database.alias) == sums == expected
        (point,) = points(found, "db.client.connection.use_time", database.alias)
        assert tuple(point.bucket_counts) == of(database).use.counts
        assert point.sum == pytest.approx(of(database).use.total)


@pytest.mark.ci
def test_a_hundred_thousand_leases_of_four_processes(make_database: MakeDatabase) -> None:
    """Five threads in each, more than there are connections."""
    processes, threads, times = 4, 5, 5000
    database = make_database(max_size=3)

    def child() -> tuple[dict[str, int], float]:
        reader = InMemoryMetricReader()
        opentelemetry.install(MeterProvider(metric_readers=[reader], shutdown_on_exit=False))
        for task in [Task(lease, database, times) for _ in range(threads)]:
            task.result(10 * PATIENCE)
        found = collect(reader)
        return counted(found, database.alias), value(found, "django_dbpool.leases", database.alias)

    def wait(child: Child) -> Any:
        select.select([child._read], [], [], 10 * PATIENCE)
        return child.result()

    results = [wait(each) for each in [Child(child) for _ in range(processes)]]
    expected = {"wait_time": threads * times, "use_time": threads * times}
    for counts, leases in results:
        assert {name: counts[name] for name in expected} == expected
        assert leases == threads * times
        assert 1 <= counts["create_time"] <= 3
    assert sum(counts["use_time"] for counts, _ in results) == 100_000


def test_views_apply_to_what_is_recorded(make_database: MakeDatabase, reader: InMemoryMetricReader) -> None:
    view = View(
        instrument_name="db.client.connection.use_time",
        name="mine",
        aggregation=ExplicitBucketHistogramAggregation([0.5]),
    )
    with provided(reader, views=[view]) as provider:
        install(provider, histograms="recorded")
        collect(reader)
        database = make_database()
        lease(database, 5)
        reporter.flush()
        found = collect(reader)
    (point,) = points(found, "mine", database.alias)
    assert tuple(point.bucket_counts) == (5, 0)
    assert "db.client.connection.use_time" not in found


def test_another_kind_of_provider(make_database: MakeDatabase, reader: InMemoryMetricReader) -> None:
    """Whose parts we don't know: durations are recorded through the API."""
    with provided(reader) as inner:

        class Other:
            def get_meter(self, *args: Any, **kwargs: Any) -> Any:
                return inner.get_meter(*args, **kwargs)

        install(Other())  # type: ignore[arg-type]
        database = make_database()
        lease(database, 5)
        found = collect(reader)
    assert counted(found, database.alias) == {"create_time": 1, "wait_time": 5, "use_time": 5}


def test_given_up_while_the_background_records(
    make_database: MakeDatabase, reader: InMemoryMetricReader, provider: MeterProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(provider, histograms="recorded")
    lease(make_database(), 5)
    collect(reader)
    assert opentelemetry._installed is not None
    recording = opentelemetry._installed._histograms

    def uninstalled_meanwhile() -> Any:
        opentelemetry.uninstall()
        return measures()

    monkeypatch.setattr(histograms_module, "measures", uninstalled_meanwhile)
    recording.record()
    recording.record()
    assert opentelemetry._installed is None


@pytest.mark.skipif(not hasattr(MeterProvider, "add_metric_reader"), reason="this SDK can't")
def test_readers_that_are_added_later(make_database: MakeDatabase, provider: MeterProvider) -> None:
    install(provider)
    database = make_database()
    lease(database, 5)
    later = InMemoryMetricReader()
    provider.add_metric_reader(later)
    assert counted(collect(later), database.alias)["use_time"] == 5


def test_uninstalled_and_installed_again(
    make_database: MakeDatabase, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    """With the same provider and another, in any order, each as often as one likes."""
    database = make_database()
    for _ in range(3):
        install(provider)
    lease(database, 5)
    assert counted(collect(reader), database.alias)["use_time"] == 5
    opentelemetry.uninstall()
    opentelemetry.uninstall()
    assert collect(reader) == {}
    assert reader.__dict__.get("_receive_metrics") is None
    other = InMemoryMetricReader()
    with provided(other) as second:
        install(second)
        lease(database, 5)
        assert counted(collect(other), database.alias)["use_time"] == 10
        assert collect(reader) == {}
    install(provider)
    assert counted(collect(reader), database.alias)["use_time"] == 10
    opentelemetry.uninstall()
    assert wait_until(lambda: not any(t.name == "dbpool-opentelemetry" for t in threading.enumerate()), PATIENCE)
    assert not any(each.name == "opentelemetry" for each in events.subscribers)


def test_somebody_else_wraps_the_reader_too(
    make_database: MakeDatabase, reader: InMemoryMetricReader, provider: MeterProvider
) -> None:
    """Nothing is told twice, and nothing after the end."""
    install(provider)
    database = make_database()
    lease(database, 5)
    collect(reader)
    ours: Any = reader._receive_metrics
    reader._receive_metrics = lambda *args, **kwargs: ours(*args, **kwargs)  # type: ignore[method-assign]
    assert counted(collect(reader), database.alias)["use_time"] == 5
    provider.get_meter("another").create_counter("requests").add(1)
    opentelemetry.uninstall()
    assert list(collect(reader)) == ["requests"]
    install(provider)
    assert counted(collect(reader), database.alias)["use_time"] == 5


def test_a_provider_that_is_set_after(make_database: MakeDatabase) -> None:
    """As where settings install and wsgi.py sets up. In a process of its own: providers are set once."""
    database = make_database()

    def child() -> dict[str, int]:
        opentelemetry.install(server_interval=None)
        lease(database, 5)
        reader = InMemoryMetricReader()
        set_meter_provider(MeterProvider(metric_readers=[reader], shutdown_on_exit=False))
        return counted(collect(reader), database.alias)

    assert Child(child).result() == {"create_time": 1, "wait_time": 5, "use_time": 5}


@pytest.mark.parametrize("temporality", [{}, DELTA])
def test_a_forked_child_begins_with_nothing(make_database: MakeDatabase, temporality: Any) -> None:
    """As with gunicorn's preload: the parent's counts are the parent's."""
    reader = InMemoryMetricReader(preferred_temporality=temporality)
    with provided(reader) as provider:
        install(provider)
        database = make_database()
        lease(database, 5)
        collect(reader)

        def child() -> tuple[dict[str, int], int]:
            lease(database, 3)
            found = collect(reader)
            (point,) = points(found, "db.client.connection.use_time", database.alias)
            return counted(found, database.alias), point.start_time_unix_nano

        counts, start = Child(child).result()
        assert counts == {"create_time": 1, "wait_time": 3, "use_time": 3}
        lease(database, 5)
        found = collect(reader)
        (point,) = points(found, "db.client.connection.use_time", database.alias)
        assert point.count == (5 if temporality else 10)
        assert start != point.start_time_unix_nano


def test_documented_metrics() -> None:
    """docs/tracing.md has each, with its unit and instrument."""
    kinds = {"up-down counter": "up_down_counter", "counter": "counter", "gauge": "gauge"}
    table = re.findall(r"(?m)^\| `([\w.]+)` \| ([\w-]+(?: counter)?) \| `([^`]+)` \|", DOCS.read_text())
    assert {(name, kinds[kind], unit) for name, kind, unit in table if kind != "histogram"} == {
        (observed.name, observed.kind, observed.unit) for observed in OBSERVED
    }
    documented = [(name, unit) for name, kind, unit in table if kind == "histogram"]
    assert documented == [(name, "s") for name, _, _ in instruments_of_time]


@given(st.lists(st.floats(0, 30), max_size=60))
@example([math.nextafter(bound, math.inf) for bound in BOUNDS])
@example(list(BOUNDS))
def test_samples_are_where_the_durations_were(durations: list[float]) -> None:
    """In the same buckets, with the same sum."""
    from bisect import bisect_left

    def buckets(values: list[float]) -> tuple[int, ...]:
        counts = [0] * (len(BOUNDS) + 1)
        for each in values:
            counts[bisect_left(BOUNDS, each)] += 1
        return tuple(counts)

    made = list(samples(Histogram(buckets(durations), sum(durations))))
    assert buckets(made) == buckets(durations)
    if max(durations, default=0) <= BOUNDS[-1]:
        assert sum(made) == pytest.approx(sum(durations), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20))
def test_nothing_is_told_twice_or_taken_back(steps: list[tuple[int, int, bool]]) -> None:
    """Also where a reading was made between a lease's end and the moment at which its wait was counted."""
    told, free, waited, sums = Told(), 0, 0, [0] * (len(BOUNDS) + 1)
    for new_free, new_waited, between in [*steps, (20, 0, False)]:
        free, waited = free + new_free, waited + new_waited
        early = new_waited if between else 0
        counts = (free + early, 0, waited - early, *[0] * (len(BOUNDS) - 2))
        new, total = told.add("wait", "default", Histogram(counts, 0.02 * waited))
        sums = [*map(operator.add, sums, new.counts)]
        assert min(new.counts) >= 0
        assert list(total.counts) == sums
        assert sum(sums) == free + waited
    assert sums[:3] == [free, 0, waited]


@pytest.mark.parametrize("wrong", [{"histograms": "exact"}, {"server_interval": 0}, {"server_interval": float("inf")}])
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    before = events.subscribers
    with pytest.raises(ValueError, match=next(iter(wrong))):
        opentelemetry.install(**wrong)
    assert events.subscribers == before


def test_losses_in_use_and_while_idle_are_counted_apart() -> None:
    """Of a counter the SDK expects that it never becomes less."""
    (observed,) = [each for each in OBSERVED if each.name == "django_dbpool.connections.lost"]
    told = {
        attributes["django_dbpool.expected"]: value
        for value, attributes in observed.read(reading(lost=1, lost_expected=7))
    }
    assert told == {"false": 1, "true": 7}
