"""
The three histograms of the semantic conventions, without a call for each lease.

``Histogram.record()`` of the SDK costs five microseconds, and each lease has a wait and a use: a tenth to a fifth of a
short statement, in whichever thread it is spent, since all share the GIL. The pool has counted already, in the same
buckets. The specification has an interface for such numbers, MetricProducer, which Python's SDK lacks:
https://opentelemetry.io/docs/specs/otel/metrics/sdk/#metricproducer
So they are put among the metrics that a reader has collected, in ``MetricReader._receive_metrics``, which the SDK
documents as the method for subclasses. Where a provider has no such readers they are recorded one by one after all.
"""

from __future__ import annotations

import math
import operator
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal

from opentelemetry.metrics import Histogram as Instrument
from opentelemetry.metrics import Meter, MeterProvider

from ...core.logs import get_logger
from ...core.process import this_process
from ...core.tally import BOUNDS, Histogram
from ...pool.measures import Measures, measures
from .names import POOL_NAME, SCOPE

logger = get_logger("django_dbpool.opentelemetry")

How = Literal["merged", "recorded"]

SLICE = 20
"""Measurements that are recorded before other threads get a chance: a tenth of a millisecond."""

HISTOGRAMS: tuple[tuple[str, str, Callable[[Measures], Histogram]], ...] = (
    ("db.client.connection.create_time", "The time it took to create a new connection.", lambda each: each.connect),
    (
        "db.client.connection.wait_time",
        "The time it took to obtain an open connection from the pool.",
        lambda each: each.wait,
    ),
    (
        "db.client.connection.use_time",
        "The time between borrowing a connection and returning it to the pool.",
        lambda each: each.use,
    ),
)
"""Names and descriptions are those of the conventions."""


class Told:
    """
    What was told of each histogram so far, to one reader or instrument; from nothing in a forked child.

    Attributes:
        lock: to be held while it is used.
        last: when something was told last, as Unix time in nanoseconds.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._told: dict[tuple[str, str], Histogram] = {}
        self.lock = threading.Lock()
        self.last = int(this_process().started * 1e9)

    def of_this_process(self) -> Told:
        if self._pid != os.getpid():
            self._reset()
        return self

    def add(self, name: str, alias: str, value: Histogram) -> tuple[Histogram, Histogram]:
        """What is new, and all that is told with it."""
        told = self._told.get((name, alias), Histogram())
        new = _never_less(value.since(told))
        total = Histogram(tuple(map(operator.add, told.counts, new.counts)), told.total + new.total)
        self._told[name, alias] = total
        return new, total


def _never_less(new: Histogram) -> Histogram:
    """
    A lease that has just ended counts as one without a wait until its wait is counted, a moment later. Who has been
    told of it meanwhile can't be told the contrary: the next of its kind makes up for it.
    """
    counts, debt = [], 0
    for count in new.counts:
        counts.append(max(0, count - debt))
        debt = max(0, debt - count)
    return Histogram(tuple(counts), max(0.0, new.total))


class Merging:
    """In the place of one reader's ``_receive_metrics``."""

    def __init__(self, reader: Any, active: Callable[[], bool]) -> None:
        self._receive = reader._receive_metrics
        self._active = active
        self._is_delta = is_delta(reader)
        self._told = Told()

    def __call__(self, metrics_data: Any, *args: Any, **kwargs: Any) -> None:
        try:
            if self._active():
                metrics_data = self._merged(metrics_data)
        except Exception:
            logger.exception("the histograms of the pools are missing from this export")
        self._receive(metrics_data, *args, **kwargs)

    def _merged(self, data: Any) -> Any:
        metrics = self._metrics()
        # Where the scope is missing, somebody has switched it off.
        return replace(
            data,
            resource_metrics=[
                replace(
                    resource,
                    scope_metrics=[
                        replace(scope, metrics=[*scope.metrics, *metrics]) if scope.scope.name == SCOPE else scope
                        for scope in resource.scope_metrics
                    ],
                )
                for resource in data.resource_metrics
            ],
        )

    def _metrics(self) -> list[Any]:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric
        from opentelemetry.sdk.metrics.export import Histogram as Data

        told = self._told.of_this_process()
        kind = AggregationTemporality.DELTA if self._is_delta else AggregationTemporality.CUMULATIVE
        found = []
        with told.lock:
            now = time.time_ns()
            start = told.last if self._is_delta else int(this_process().started * 1e9)
            read = measures()
            for name, description, histogram_of in HISTOGRAMS:
                values = [(each.alias, told.add(name, each.alias, histogram_of(each))) for each in read]
                chosen = [(alias, new if self._is_delta else total) for alias, (new, total) in values]
                points = [_point(alias, value, start, now) for alias, value in chosen if value.count]
                if points:
                    found.append(Metric(name, description, "s", Data(points, kind)))
            told.last = now
        return found


def is_delta(reader: Any) -> bool:
    """Whether this reader wants what was added, not what there is."""
    from opentelemetry.sdk.metrics import Histogram as Kind
    from opentelemetry.sdk.metrics.export import AggregationTemporality

    temporalities = reader._instrument_class_temporality
    (temporality,) = (wanted for kind, wanted in temporalities.items() if issubclass(kind, Kind))
    return bool(temporality is AggregationTemporality.DELTA)


def _point(alias: str, value: Histogram, start: int, now: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    filled = [index for index, count in enumerate(value.counts) if count]
    return HistogramDataPoint(
        attributes={POOL_NAME: alias},
        start_time_unix_nano=start,
        time_unix_nano=now,
        count=value.count,
        sum=value.total,
        bucket_counts=value.counts,
        explicit_bounds=value.bounds,
        # Only their buckets are known.
        min=(0.0, *value.bounds)[filled[0]],
        max=(*value.bounds, value.bounds[-1])[filled[-1]],
    )


def readers_of(provider: MeterProvider) -> tuple[Any, ...] | None:
    """Those of an SDK whose parts are as we know them; None for any other provider."""
    try:
        readers = tuple(provider._measurement_consumer._reader_storages)  # type: ignore[attr-defined]
        for reader in readers:
            is_delta(reader)
            assert callable(reader._receive_metrics)
    except (ImportError, AttributeError, TypeError, ValueError, AssertionError):
        return None
    return readers


class Histograms:
    """
    Of one meter.

    Args:
        active: whether they are wanted at the moment.
    """

    def __init__(self, meter: Meter, how: How, active: Callable[[], bool]) -> None:
        self._meter = meter
        self._how = how
        self._active = active
        self._merging: list[tuple[Any, Merging]] = []
        self._instruments: dict[str, Instrument] = {}
        self._told = Told()

    def collecting(self, provider: MeterProvider) -> None:
        """A reader is about to collect. Readers may be added at any time, hence again each time."""
        readers = readers_of(provider) if self._how == "merged" else None
        if readers is None:
            self._start_recording()
            self.record()
            return
        for reader in readers:
            # Not by what is there now: somebody else may have put something over it.
            if not any(known is reader for known, _ in self._merging):
                merging = reader._receive_metrics = Merging(reader, self._active)
                self._merging.append((reader, merging))

    def _start_recording(self) -> None:
        # Not before somebody collects: what is recorded earlier would be lost with a provider that isn't set yet.
        with self._told.of_this_process().lock:
            if self._instruments:
                return
            # All at once: the background records while they are made, and while they are given up.
            self._instruments = {
                name: self._meter.create_histogram(
                    name, unit="s", description=description, explicit_bucket_boundaries_advisory=list(BOUNDS)
                )
                for name, description, _ in HISTOGRAMS
            }

    def record(self) -> None:
        """Record what was added since the last time, if this is how it is done."""
        instruments = self._instruments
        if not instruments:
            return
        told = self._told.of_this_process()
        with told.lock:
            for each in measures():
                for name, _, histogram_of in HISTOGRAMS:
                    new, _ = told.add(name, each.alias, histogram_of(each))
                    self._record(instruments[name], each.alias, new)

    def _record(self, instrument: Instrument, alias: str, added: Histogram) -> None:
        attributes = {POOL_NAME: alias}
        for number, value in enumerate(samples(added), 1):
            instrument.record(value, attributes)
            if number % SLICE == 0:
                time.sleep(0)  # whoever waits for the GIL gets it now, not after the switch interval

    def remove(self) -> None:
        for reader, merging in self._merging:
            if reader.__dict__.get("_receive_metrics") is merging:
                del reader._receive_metrics
        self._merging.clear()
        self._instruments = {}


def samples(value: Histogram) -> Iterator[float]:
    """
    As many values as were counted, each in its bucket, that add up to the same sum: all are as far from the lower ends
    of their buckets as the sum demands.
    """
    lows, above = (0.0, *value.bounds), value.counts[-1]
    least = sum(low * count for low, count in zip(lows, value.counts, strict=True))
    room = sum((high - low) * count for low, high, count in zip(lows, value.bounds, value.counts, strict=False))
    spare = max(0.0, value.total - least)
    # What is above all bounds has no upper end. The others are taken for average then, and it gets the rest.
    share = min(0.5 if above else 1.0, spare / room) if room else 0.0
    widths = (*(high - low for low, high in zip(lows, value.bounds, strict=False)), 0.0)
    for low, width, count in zip(lows, widths, value.counts, strict=True):
        # A bucket has its upper end and not its lower, but for the first, which has 0.
        sample = max(low + share * width, math.nextafter(low, math.inf) if low else 0.0)
        if not width and above:
            sample = max(sample, low + (spare - share * room) / above)
        yield from repeat(sample, count)
