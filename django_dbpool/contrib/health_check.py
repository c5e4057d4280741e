"""
Checks for django-health-check, 4.8 or newer. None takes a connection of the pool, waits for one, or blocks an event
loop, so that they answer within a second while the pool is exhausted, the server frozen or the circuit open.

Any failure is HTTP 500 there, a warning as well. So what is a matter of taste, such as a small pool, is never one: it
is in ``data`` and in the labels of OpenMetrics.

Example:
    path(
        "health/databases/",
        HealthCheckView.as_view(
            checks=[
                "django_dbpool.contrib.health_check.PoolConnectivity",
                ("django_dbpool.contrib.health_check.PoolSaturation", {"alias": "reports", "warning": 90}),
                "django_dbpool.contrib.health_check.CircuitState",
            ]
        ),
    )
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import ConnectionDoesNotExist

# These three names are the same in every release since 4.0; the base of the exceptions is not.
from health_check import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from .. import health
from ..health.words import CIRCUIT, text_of

__all__ = ["CircuitState", "PoolConnectivity", "PoolSaturation"]


@contextmanager
def _said(alias: str) -> Iterator[None]:
    """Mistakes in settings, in words for whoever looks at the page; what exactly is wrong is for the checks to say."""
    try:
        yield
    except ConnectionDoesNotExist:
        raise ServiceUnavailable(f"There is no database alias {alias!r}.") from None
    except ImproperlyConfigured:
        message = f"Database {alias!r} has no engine of django_dbpool, or faults in its settings: run manage.py check."
        raise ServiceUnavailable(message) from None


def _percent(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"PoolSaturation({name}={value!r}): {name} must be a number of percent, or None for never.")
    if not (value > 1 and math.isfinite(value)):
        raise ValueError(f"PoolSaturation({name}={value!r}): {name} must be percent above 1, such as 90; not a ratio.")


@dataclasses.dataclass
class PoolSaturation(HealthCheck):  # type: ignore[misc]
    """
    How full a pool of this process is, from memory. Not for liveness, and with care for readiness: see docs/health.md.

    The measure is what is wanted, in percent of ``max_size``: connections that are lent, and callers that wait. From
    100 on it counts only while somebody waits: all connections being lent is what a pool of the right size does.

    Args:
        alias: database alias.
        warning: percent from which on it is a warning, which is HTTP 500 as well; None: never.
        unavailable: percent from which on it is a failure; None: never.
    """

    alias: str = "default"
    warning: float | None = dataclasses.field(default=None, repr=False)
    unavailable: float | None = dataclasses.field(default=100, repr=False)
    data: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    """``health.Saturation.to_json()`` of the last run."""

    timeout = timedelta(seconds=1)

    def __post_init__(self) -> None:
        _percent("warning", self.warning)
        _percent("unavailable", self.unavailable)

    async def run(self) -> None:
        with _said(self.alias):
            now = health.saturation(self.alias)
        self.data = now.to_json()
        if not now.pooling:
            return
        wanted = now.utilization_percent + 100 * now.waiting / now.max
        text = f"Pool of {self.alias!r}: {now.active} of {now.max} connections lent, {now.waiting} callers wait"
        text += f", the first for {now.longest_wait:.1f} s." if now.waiting else "."
        for limit, error in ((self.unavailable, ServiceUnavailable), (self.warning, ServiceWarning)):
            if limit is not None and wanted >= limit and (now.waiting or limit < 100):
                raise error(text)


@dataclasses.dataclass
class PoolConnectivity(HealthCheck):  # type: ignore[misc]
    """
    Whether the server of an alias answers this process, on a connection outside of pool and reserve. Pages that are
    loaded at once, and again within a second, share an answer.

    Args:
        alias: database alias, pooled or not.
        timeout: within which the answer is there, whatever state the server is in.
    """

    alias: str = "default"
    timeout: timedelta = dataclasses.field(default=timedelta(seconds=1), repr=False)
    data: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    """``health.Connectivity.to_json()`` of the last run: pooling, sizes, lifetimes, retry, breaker."""

    def __post_init__(self) -> None:
        if not isinstance(self.timeout, timedelta):
            raise TypeError(f"PoolConnectivity(timeout={self.timeout!r}): timeout must be a timedelta.")
        if self.timeout <= timedelta(0):
            raise ValueError(f"PoolConnectivity(timeout={self.timeout!r}): timeout must be above 0.")

    @property
    def labels(self) -> dict[str, str]:
        """With the pool's sizes, which change with the settings only."""
        labels: dict[str, str] = super().labels
        with suppress(ConnectionDoesNotExist, ImproperlyConfigured):
            now = health.saturation(self.alias)
            labels["pooling"] = str(now.pooling).lower()
            if now.pooling:
                labels |= {"min": str(now.min), "max": str(now.max), "reserve": str(now.reserve)}
        return labels

    async def run(self) -> None:
        with _said(self.alias):
            found = await health.aconnectivity(self.alias, self.timeout.total_seconds())
        self.data = found.to_json()
        if not found.ok:
            raise ServiceUnavailable(f"Database {self.alias!r}: {found.text}")


@dataclasses.dataclass
class CircuitState(HealthCheck):  # type: ignore[misc]
    """
    Whether the circuit breaker of an alias lets callers through in this process, from memory. A circuit that only waits
    for a caller to try again lets them through.

    Args:
        alias: database alias.
    """

    alias: str = "default"
    data: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)
    """``health.Circuit.to_json()`` of the last run."""

    timeout = timedelta(seconds=1)

    async def run(self) -> None:
        with _said(self.alias):
            now = health.circuit(self.alias)
        self.data = now.to_json()
        if now.refuses:
            text = f"Database {self.alias!r}: {text_of(CIRCUIT[now.state])}"
            raise ServiceUnavailable(f"{text} For {now.seconds:.0f} s so far.")
