"""
OpenTelemetry: metrics of the pools by the semantic conventions, and spans for what kept a request waiting. Needs the
extra ``opentelemetry``, which is the API alone; without an SDK nothing is measured and nothing costs.

Example:
    from django_dbpool.contrib import opentelemetry

    opentelemetry.install()
"""

from __future__ import annotations

import threading
from typing import Literal

from opentelemetry import metrics, trace

from ... import __version__, server_counts
from ...core import reporter
from ...core.process import this_process
from . import instruments
from .histograms import Histograms
from .names import SCOPE
from .spans import Spans

__all__ = ["install", "uninstall"]

RECORD_INTERVAL = 2.0
"""Seconds; only where measurements are recorded one by one."""


class _Installation:
    def __init__(
        self,
        meter_provider: metrics.MeterProvider | None,
        tracer_provider: trace.TracerProvider | None,
        histograms: Literal["merged", "recorded"],
        server_interval: float | None,
    ) -> None:
        this_process()  # which notes the time: counts are from now on
        self._given = meter_provider
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)
        self._histograms = Histograms(meter, histograms, lambda: _installed is self)
        instruments.create(meter, _collecting, lambda: _installed is not None and _installed.reads(meter_provider))
        reporter.register(SCOPE, self._histograms.record, interval=RECORD_INTERVAL, last=True)
        self._spans = Spans(trace.get_tracer(SCOPE, __version__, tracer_provider))
        if server_interval is not None:
            server_counts.watch(SCOPE, interval=server_interval)

    def reads(self, given: metrics.MeterProvider | None) -> bool:
        """Whether instruments made for this provider are in use. Those of former installations are still there."""
        return _resolved(given) is _resolved(self._given)

    def collecting(self) -> None:
        self._histograms.collecting(_resolved(self._given))

    def remove(self) -> None:
        reporter.unregister(SCOPE)
        server_counts.unwatch(SCOPE)
        self._histograms.remove()
        self._spans.close()


_installed: _Installation | None = None
_changing = threading.RLock()


def _collecting() -> None:
    if _installed is not None:
        _installed.collecting()


def _resolved(provider: metrics.MeterProvider | None) -> metrics.MeterProvider:
    return metrics.get_meter_provider() if provider is None else provider


def install(
    meter_provider: metrics.MeterProvider | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    *,
    histograms: Literal["merged", "recorded"] = "merged",
    server_interval: float | None = server_counts.INTERVAL,
) -> None:
    """
    Begin to tell OpenTelemetry of this process's pools, before or after providers are set. Called again it replaces
    what was installed before. Forked children go on by themselves, each with its own numbers.

    Args:
        meter_provider: None for the global one.
        tracer_provider: the same.
        histograms: how durations reach the provider. "merged" puts the pools' own counts among what a reader of the SDK
            collects: exact, at no cost for a lease, but past the provider's views. "recorded" calls ``record()`` for
            each duration afterwards, in the background: views apply; counts and sums are exact, values are those of
            their bucket; it costs ten microseconds of processor time for each lease. It is also the way with a
            provider that isn't the SDK's.
        server_interval: seconds after which the server is asked how many connections it has for this role, by one
            process of all, on a connection of its own. None to ask nothing.

    Raises:
        ValueError: ``histograms`` is neither, or the interval is not above 0.
    """
    if histograms not in ("merged", "recorded"):
        raise ValueError(f'install(histograms={histograms!r}): must be "merged" or "recorded".')
    if server_interval is not None and not 0 < server_interval < float("inf"):
        raise ValueError(f"install(server_interval={server_interval!r}): must be seconds above 0, or None.")
    global _installed
    with _changing:
        uninstall()
        _installed = _Installation(meter_provider, tracer_provider, histograms, server_interval)


def uninstall() -> None:
    """Stop that. A provider keeps its instruments; they have nothing to tell any more."""
    global _installed
    with _changing:
        installed, _installed = _installed, None
    if installed is not None:
        installed.remove()
