"""Spans of what kept somebody waiting, and what the collector's troubles cost: nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from django_dbpool.contrib import opentelemetry
from django_dbpool.core import events
from testproject.processes import wait_until
from tests.faults.conftest import MakeDatabase
from tests.faults.helpers import PATIENCE, Task
from tests.faults.test_opentelemetry import NAME, lease, of

Tracing = tuple[TracerProvider, InMemorySpanExporter]


@pytest.fixture
def tracing() -> Iterator[Tracing]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    opentelemetry.uninstall()
    provider.shutdown()


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
