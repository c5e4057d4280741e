"""Every metric that is exported: its name, its labels, and where its value is read. docs/metrics.md says the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from ...core.breaker import State
from ...core.tally import Histogram
from ...pool.measures import Measures
from ...pool.reporting import PoolSnapshot

PREFIX = "django_dbpool_"
REFUSALS = (
    "PoolExhausted",
    "PoolOverloaded",
    "CircuitOpen",
    "DatabaseUnavailable",
    "ServerConnectionsExhausted",
    "ShuttingDown",
)
"""Exported from the start, as 0: rate() doesn't see the first step of a series that begins with 1."""

REPEATED = ("connect", "read", "block")

REASONS = ("expired", "idle", "shrunk", "drained", "closed", "pinned", "discarded", "lost", "lost_idle")

STATES = tuple(state.value for state in State)

Labels = tuple[str, ...]
Read = Callable[[Measures], Iterable[tuple[Labels, float]]]


@dataclass(frozen=True, slots=True)
class Family:
    """
    One metric of every alias.

    Args:
        name: without the suffixes that its kind adds.
        labels: beside ``alias``.
        read: values of these labels, and the number.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    read: Read
    labels: Labels = ()

    @property
    def label_names(self) -> Labels:
        return ("alias", *self.labels)

    def metric(self, readings: Iterable[Measures] = ()) -> Metric:
        """As prometheus_client's collectors give it."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = make(self.name, self.help, labels=self.label_names)
        for measures in readings:
            for labels, number in self.read(measures):
                metric.add_metric((measures.alias, *labels), number)
        return metric


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram of every alias, in seconds."""

    name: str
    help: str
    read: Callable[[Measures], Histogram]

    label_names = ("alias",)

    def metric(self, readings: Iterable[Measures] = ()) -> Metric:
        """As prometheus_client's collectors give it."""
        metric = HistogramMetricFamily(self.name, self.help, labels=self.label_names)
        for measures in readings:
            histogram = self.read(measures)
            buckets, so_far = [], 0
            for bound, count in buckets_of(histogram):
                so_far += count
                buckets.append((bound, so_far))
            metric.add_metric((measures.alias,), buckets, histogram.total)
        return metric


def buckets_of(histogram: Histogram) -> Iterator[tuple[str, int]]:
    """Each bucket's upper end as Prometheus writes it, and its own count."""
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        yield floatToGoString(bound), count  # type: ignore[no-untyped-call]


def _one(read: Callable[[Measures], float]) -> Read:
    return lambda measures: (((), read(measures)),)


def _now(read: Callable[[PoolSnapshot], float]) -> Read:
    """Of the pool as it is; a process that has closed it, perhaps because it ends, has nothing."""
    return lambda measures: (((), read(measures.snapshot) if measures.snapshot else 0),)


def _connections(measures: Measures) -> Iterator[tuple[Labels, float]]:
    snapshot = measures.snapshot
    yield ("used",), snapshot.in_use if snapshot else 0
    yield ("idle",), snapshot.idle if snapshot else 0
    yield ("opening",), snapshot.opening if snapshot else 0


def _circuit(measures: Measures) -> Iterator[tuple[Labels, float]]:
    for state in STATES:
        yield (state,), float(measures.snapshot is not None and measures.circuit == state)


def _retried(measures: Measures) -> Iterator[tuple[Labels, float]]:
    for what in dict.fromkeys((*REPEATED, *measures.retried)):
        yield (what,), measures.retried.get(what, 0)


def _refused(measures: Measures) -> Iterator[tuple[Labels, float]]:
    for error in dict.fromkeys((*REFUSALS, *measures.refused)):
        yield (error,), measures.refused.get(error, 0)


def _closed(measures: Measures) -> Iterator[tuple[Labels, float]]:
    for reason in dict.fromkeys((*REASONS, *measures.closed_by)):
        yield (reason,), measures.closed_by.get(reason, 0)


def _lost(measures: Measures) -> Iterator[tuple[Labels, float]]:
    yield ("false",), measures.lost
    yield ("true",), measures.lost_expected


FAMILIES: tuple[Family | Durations, ...] = (
    Family(
        PREFIX + "connections",
        "gauge",
        "Connections by state: lent, free, being opened. Those of the reserve included.",
        _connections,
        ("state",),
    ),
    Family(
        PREFIX + "connections_max",
        "gauge",
        "Most connections that the pools may have, the reserve not included.",
        _now(lambda snapshot: snapshot.max_size),
    ),
    Family(
        PREFIX + "connections_min",
        "gauge",
        "Connections that the pools keep open.",
        _now(lambda snapshot: snapshot.min_size),
    ),
    Family(
        PREFIX + "waiting",
        "gauge",
        "Callers that wait for a connection now.",
        _now(lambda snapshot: snapshot.waiting),
    ),
    Family(
        PREFIX + "circuit_state",
        "gauge",
        "Processes whose circuit breaker is in this state.",
        _circuit,
        ("state",),
    ),
    Durations(
        PREFIX + "acquire_seconds",
        "From the request for a connection to its receipt, of every lease that has ended.",
        lambda measures: measures.wait,
    ),
    Durations(
        PREFIX + "hold_seconds",
        "How long connections were lent, of every lease that has ended.",
        lambda measures: measures.use,
    ),
    Durations(
        PREFIX + "connect_seconds",
        "How long it took to open physical connections.",
        lambda measures: measures.connect,
    ),
    Family(
        PREFIX + "leases",
        "counter",
        "Leases that have ended.",
        _one(lambda measures: measures.leases),
    ),
    Family(
        PREFIX + "statements",
        "counter",
        "Statements begun.",
        _one(lambda measures: measures.statements),
    ),
    Family(
        PREFIX + "connections_opened",
        "counter",
        "Physical connections opened.",
        _one(lambda measures: measures.opened),
    ),
    Family(
        PREFIX + "connections_closed",
        "counter",
        "Physical connections closed or lost, by reason.",
        _closed,
        ("reason",),
    ),
    Family(
        PREFIX + "connections_failed",
        "counter",
        "Attempts to connect that failed.",
        _one(lambda measures: measures.failed),
    ),
    Family(
        PREFIX + "connections_lost",
        "counter",
        "Connections that the server or the network has ended; expected: nobody was using them.",
        _lost,
        ("expected",),
    ),
    Family(
        PREFIX + "refused",
        "counter",
        "Callers that got no connection, by the class of error they got.",
        _refused,
        ("error",),
    ),
    Family(
        PREFIX + "timeouts",
        "counter",
        "Callers that waited for a connection as long as they may, in vain.",
        _one(lambda measures: measures.timeouts),
    ),
    Family(
        PREFIX + "retried",
        "counter",
        "Attempts to connect, reads and transactions (blocks) that were tried again.",
        _retried,
        ("what",),
    ),
    Family(
        PREFIX + "overdue",
        "counter",
        'Leases and pins held for longer than POOL["leak_after"] and POOL["pin_max"].',
        _one(lambda measures: measures.overdue),
    ),
    Family(
        PREFIX + "statements_slow",
        "counter",
        'Statements that took longer than DBPOOL["SLOW_STATEMENT"].',
        _one(lambda measures: measures.slow),
    ),
    Family(
        PREFIX + "statements_repeated",
        "counter",
        'Units of work that ran a statement more often than DBPOOL["REPEATED_STATEMENTS"].',
        _one(lambda measures: measures.repeated),
    ),
)
