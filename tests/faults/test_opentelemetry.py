"""What OpenTelemetry's SDK collects of the pools, and spans of what kept somebody waiting."""

from __future__ import annotations

import math
import operator
import re
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from django_dbpool.contrib import opentelemetry
from django_dbpool.contrib.opentelemetry.histograms import HISTOGRAMS as instruments_of_time
from django_dbpool.contrib.opentelemetry.histograms import Told, samples
from django_dbpool.contrib.opentelemetry.instruments import OBSERVED
from django_dbpool.core import events, reporter
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


@pytest.fixture
def tracing() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
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


# -- spans -------------------------------------------------------------------------------------------------------------


Tracing = tuple[TracerProvider, InMemorySpanExporter]


def spans(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Ours, by the time they began."""
    assert events.flush(PATIENCE)
    found = [span for span in exporter.get_finished_spans() if span.name.startswith("dbpool ")]
    return sorted(found, key=lambda span: span.start_time or 0)


def traced(provider: TracerProvider, work: Callable[[], Any]) -> tuple[Any, ReadableSpan]:
    """What came of it, and the span that it was in."""
    with provider.get_tracer("test").start_as_current_span("GET /") as span:
        try:
            return work(), span  # type: ignore[return-value]
        except OperationalError as error:
            return error, span  # type: ignore[return-value]


def test_a_wait_is_a_span_of_the_waiting_request(make_database: MakeDatabase, tracing: Tracing) -> None:
    provider, exporter = tracing
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    database = make_database(max_size=1)
    with database.holding():
        task = Task(traced, provider, database.backend)
        assert wait_until(lambda: database.pool.snapshot().waiting == 1, PATIENCE)
    _, request = task.result()
    (wait,) = spans(exporter)
    assert wait.name == "dbpool wait"
    assert wait.parent == request.get_span_context()
    assert dict(wait.attributes or {}) == {NAME: database.alias}
    assert wait.status.is_unset
    assert wait.start_time is not None
    assert wait.end_time is not None
    assert request.start_time is not None
    assert request.end_time is not None
    millisecond = 1_000_000  # two clocks
    assert request.start_time - millisecond <= wait.start_time <= wait.end_time <= request.end_time + millisecond
    assert of(database).wait.total == pytest.approx((wait.end_time - wait.start_time) / 1e9, abs=0.1)


def test_who_finds_a_connection_makes_no_span(make_database: MakeDatabase, tracing: Tracing) -> None:
    provider, exporter = tracing
    database = make_database()
    lease(database, 1)
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    traced(provider, lambda: lease(database, 20))
    assert spans(exporter) == []


def test_outside_of_a_trace_there_are_no_spans(make_database: MakeDatabase, tracing: Tracing) -> None:
    provider, exporter = tracing
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    lease(make_database(), 1)
    assert spans(exporter) == []


def test_a_refusal(make_database: MakeDatabase, tracing: Tracing) -> None:
    provider, exporter = tracing
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    database = make_database(max_size=1, timeout=0.1)
    with database.holding():
        error, request = traced(provider, database.backend)
    (wait,) = spans(exporter)
    assert (wait.name, wait.parent) == ("dbpool wait", request.get_span_context())
    assert (wait.attributes or {})["error.type"] == "PoolExhausted"
    assert wait.status.status_code is trace.StatusCode.ERROR
    assert wait.end_time - wait.start_time == pytest.approx(error.waited * 1e9, abs=1e8)  # type: ignore[operator]


def test_connecting_in_vain(make_database: MakeDatabase, tracing: Tracing) -> None:
    """Attempts, pauses, and the circuit that opens: as an event of the request, which is still going on."""
    provider, exporter = tracing
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    database = make_database(
        PORT=1,
        timeout=5,
        retry={"attempts": 3, "max_delay": 0.01},
        breaker={"minimum_throughput": 2, "failure_ratio": 0.1, "probe_interval": None},
    )
    with pytest.raises(OperationalError):
        database.backend()

    def work() -> None:
        try:
            database.backend()
        finally:
            spans(exporter)  # all is handled before the request ends

    _, request = traced(provider, work)
    found = spans(exporter)
    names = [span.name for span in found]
    assert names.count("dbpool connect") == 3
    assert names.count("dbpool retry") == 2
    assert names.count("dbpool wait") == 1
    assert all(span.parent == request.get_span_context() for span in found)
    attempts = [span.attributes or {} for span in found if span.name == "dbpool retry"]
    assert [each["django_dbpool.retry.attempt"] for each in attempts] == [1, 2]
    (event,) = [event for event in request.events if event.name == "dbpool circuit"]
    assert (event.attributes or {})["django_dbpool.circuit.after"] == "open"


def test_a_circuit_that_changes_at_the_end_of_a_request(tracing: Tracing) -> None:
    """The span that it would be an event of has ended before it is handled."""
    provider, exporter = tracing
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    goes_on = threading.Event()

    class Slow(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.name == "dbpool retry":
                goes_on.wait(PATIENCE)

    provider.add_span_processor(Slow())

    def work() -> None:
        events.publish(events.Retried(alias="a", what="connect", attempt=1, delay=0.0))
        events.publish(events.CircuitChanged(alias="a", before="closed", after="open", reason="for a test"))

    _, request = traced(provider, work)
    goes_on.set()
    *_, span = spans(exporter)
    assert (span.name, span.parent) == ("dbpool circuit", request.get_span_context())
    assert span.start_time == span.end_time


def test_a_span_processor_that_fails(make_database: MakeDatabase) -> None:
    """No statement knows of it."""

    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name.startswith("dbpool "):
                raise RuntimeError("collector full")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    try:
        database = make_database()
        backend, _ = traced(provider, database.backend)
        assert isinstance(backend, int)
        assert events.flush(PATIENCE)
        (subscription,) = (each for each in events.subscribers if each.name == "opentelemetry")
        assert subscription.failures > 0
    finally:
        opentelemetry.uninstall()
        provider.shutdown()


def test_a_span_processor_that_blocks(make_database: MakeDatabase) -> None:
    """Requests that wait and connect go on; what can't be told is told later."""
    goes_on = threading.Event()

    class Blocked(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            if span.name.startswith("dbpool "):
                goes_on.wait(PATIENCE)

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Blocked())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    opentelemetry.install(tracer_provider=provider, server_interval=None)
    try:
        for _ in range(5):
            database = make_database()
            traced(provider, database.backend)
        assert [span.name for span in exporter.get_finished_spans()] == ["GET /"] * 5
        goes_on.set()
        assert [span.name for span in spans(exporter)].count("dbpool connect") == 5
    finally:
        goes_on.set()
        opentelemetry.uninstall()
        provider.shutdown()


def test_losses_in_use_and_while_idle_are_counted_apart() -> None:
    """Of a counter the SDK expects that it never becomes less."""
    (observed,) = [each for each in OBSERVED if each.name == "django_dbpool.connections.lost"]
    told = {
        attributes["django_dbpool.expected"]: value
        for value, attributes in observed.read(reading(lost=1, lost_expected=7))
    }
    assert told == {"false": 1, "true": 7}
