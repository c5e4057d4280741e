"""
Prometheus: what the pools of this process, or of all processes that share ``PROMETHEUS_MULTIPROC_DIR``, have done and
are doing. Needs ``prometheus_client``.

Example:
    INSTALLED_APPS = [..., "django_dbpool", "django_dbpool.contrib.prometheus"]

    urlpatterns = [..., path("metrics/", django_dbpool.contrib.prometheus.metrics)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from weakref import WeakKeyDictionary

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ...core import reporter
from ...pool.measures import Measures, measures
from . import directory
from .families import FAMILIES
from .shared import SharedFiles

__all__ = ["metrics", "register", "unregister"]

JOB = "prometheus"
INTERVAL = 1.0
"""Seconds between two writings into the shared files: what a process that is killed takes with it."""


class PoolCollector(Collector):
    """This process's numbers, read when they are asked for."""

    def __init__(self, read: Callable[[], Iterable[Measures]] = measures) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        return [family.metric() for family in FAMILIES]

    def collect(self) -> Iterator[Metric]:
        readings = tuple(self._read())
        for family in FAMILIES:
            yield family.metric(readings)


_collectors: WeakKeyDictionary[CollectorRegistry, PoolCollector] = WeakKeyDictionary()
_shared: SharedFiles | None = None


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """
    Export the metrics of docs/metrics.md. The application in ``INSTALLED_APPS`` calls it; a second call does nothing.

    Args:
        registry: shows the pools of this process from now on. Where ``PROMETHEUS_MULTIPROC_DIR`` is set the process
            also writes into the files that ``MultiProcessCollector`` adds up, whatever the registry.
    """
    global _shared
    if registry not in _collectors:
        collector = PoolCollector()
        registry.register(collector)
        _collectors[registry] = collector
    if values.ValueClass._multiprocess:
        if _shared is None:
            _shared = SharedFiles(measures)
        reporter.register(JOB, _shared.write, interval=INTERVAL, idle=True, last=True)


def unregister(registry: CollectorRegistry = REGISTRY) -> None:
    """Undo ``register``. What was written into shared files stays there."""
    collector = _collectors.pop(registry, None)
    if collector is not None:
        registry.unregister(collector)
    if not _collectors:
        reporter.unregister(JOB)


@never_cache
@require_safe
@transaction.non_atomic_requests
def metrics(request: HttpRequest) -> HttpResponse:
    """
    A view: all metrics of this process, or of all that share its directory, those of other libraries included. It uses
    no database. They are not for visitors: keep it behind whatever keeps other internal pages. Where the directory
    can't be used it is a 503 that says so.
    """
    registry = REGISTRY
    if values.ValueClass._multiprocess:
        if fault := directory.fault():
            return HttpResponse(f"{fault} {directory.REMEDY}\n", status=503, content_type="text/plain; charset=utf-8")
        if _shared is not None:
            _shared.write()  # the others are at most a second behind
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)
