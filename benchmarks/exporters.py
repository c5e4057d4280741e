"""Every exporter of the package at once, as often as any of them would ever be asked."""

from __future__ import annotations

import atexit
import importlib
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.engines import OURS

SCRAPE = 1.0
"""Seconds between two scrapes, exports and log blocks; 15 to 60 are usual."""


@contextmanager
def all_on() -> Iterator[tuple[str, ...]]:
    """
    Prometheus with shared files, as under a server of several processes, and scraped; OpenTelemetry with the SDK's
    readers and processors, if it is installed; blocks of JSON in the log. Sentry has no part in a lease that goes well.

    Gives:
        What is on.
    """
    with ExitStack() as stack:
        found = [stack.enter_context(each()) for each in (_prometheus, _opentelemetry, _log)] if OURS.installed else []
        yield tuple(name for name in found if name)


@cache
def _directory() -> str:
    directory = tempfile.TemporaryDirectory(prefix="dbpool-bench-")
    atexit.register(directory.cleanup)
    return directory.name


@contextmanager
def _prometheus() -> Iterator[str]:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _directory()  # looked at when prometheus_client is imported
    try:
        exporter = importlib.import_module("django_dbpool.contrib.prometheus")
        multiprocess = importlib.import_module("prometheus_client.multiprocess")
        client = importlib.import_module("prometheus_client")
    except ImportError:
        yield ""
        return
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(SCRAPE):
            registry = client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            client.generate_latest(registry)

    scraper = threading.Thread(target=scrape, daemon=True)
    exporter.register()
    scraper.start()
    try:
        yield "Prometheus"
    finally:
        over.set()
        scraper.join()
        exporter.unregister()


@contextmanager
def _opentelemetry() -> Iterator[str]:
    try:
        exporter = importlib.import_module("django_dbpool.contrib.opentelemetry")
        metrics = importlib.import_module("opentelemetry.sdk.metrics")
        export = importlib.import_module("opentelemetry.sdk.metrics.export")
        trace = importlib.import_module("opentelemetry.sdk.trace")
        spans = importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError:
        yield ""
        return
    with Path(os.devnull).open("w") as nowhere:
        reader = export.PeriodicExportingMetricReader(
            export.ConsoleMetricExporter(out=nowhere), export_interval_millis=1000 * SCRAPE
        )
        meters, tracers = metrics.MeterProvider([reader]), trace.TracerProvider()
        tracers.add_span_processor(spans.BatchSpanProcessor(spans.ConsoleSpanExporter(out=nowhere)))
        # The server is not asked: Django sees one database at a time here, and it is not part of any lease.
        exporter.install(meters, tracers, server_interval=None)
        try:
            yield "OpenTelemetry"
        finally:
            exporter.uninstall()
            meters.shutdown()
            tracers.shutdown()


@contextmanager
def _log() -> Iterator[str]:
    log: Any = importlib.import_module("django_dbpool.metrics_log")
    reporter: Any = importlib.import_module("django_dbpool.core.reporter")
    with Path(os.devnull).open("w") as nowhere:
        reporter.register(log.JOB, log.MetricsLog("json", write=nowhere.write), interval=SCRAPE)
        try:
            yield "log"
        finally:
            reporter.unregister(log.JOB)
