"""The looking, and the telling: log, signal, ``active()`` and ``recent()``."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.dispatch import Signal

from ..conf import project_config
from ..conf.process import in_test_environment
from ..core import events, reporter
from ..core.advice.facts import Measured
from ..core.advice.measuring import measured
from ..core.alerts import Alert, Change, Finding, Rule, Watch
from ..core.alerts.reading import rules_with
from ..core.alerts.trend import Reading
from ..core.logs import get_logger
from ..core.tally import tallies
from ..pool.measures import Measures, measures
from ..pool.registry import pools
from .findings import PoolWatch, findings, route_findings

logger = get_logger("django_dbpool.alerts")

JOB = "alerts"
INTERVAL = 5.0
"""Seconds between two looks."""

WAITING = 1000
"""Changes that wait for the receivers of the signal before the oldest are dropped."""

alert_changed = Signal()
"""
Sent when an alert begins, becomes worse or better, or is over; ``change`` is a ``Change``, the sender its class. It is
sent in a thread of its own, which opens connections of its own and closes them: a receiver may take its time and may
fail, and nobody waits for it, but those after it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChanged(events.Event):
    """The same for observers of events."""

    change: Change


class Service:
    """
    Of one process.

    Args:
        clock: seconds that only go forward; injected by tests.
        wall: unix time.
        read: the measures of every alias.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        read: Callable[[], tuple[Measures, ...]] = measures,
    ) -> None:
        self._clock, self._wall, self._measures = clock, wall, read
        self._lock = threading.Lock()
        """Held for a look, which neither blocks nor calls anybody's code but the providers'."""
        self._pools: dict[str, PoolWatch] = {}
        self._given: object = None
        self._watch = Watch({})
        self._looked: float | None = None
        # Not by events.subscribe(): a flood of other events would push out what a slow receiver has not got yet. Two,
        # because handlers of logging may block too, and a receiver must not keep an alert from the log.
        self._tellers = (
            events.Subscription("alerts-log", _log, limit=WAITING),
            events.Subscription("alerts", _send, limit=WAITING),
        )

    def look(self) -> tuple[Change, ...]:
        """Take a reading of every pool, and tell what has changed."""
        with self._lock:
            changes = self._look()
        for change in changes:
            self._tell(change)
        return changes

    def _look(self) -> tuple[Change, ...]:
        rules = self._rules()
        living = {pool.alias: pool for pool in pools()}
        before, now = self._looked, self._clock()
        self._looked = now
        found: list[Finding] = []
        for taken in self._measures():
            pool = living.get(taken.alias)
            watch = self._pools.get(taken.alias)
            if watch is None:
                watch = self._pools[taken.alias] = PoolWatch(taken.alias)
                if before is not None:
                    watch.trend.add(Reading(before))  # used for the first time since then: its counters were at 0
            watch.read(taken, pool, now)
            found += findings(watch, rules, pool)
        if "route_load" in rules:
            told = tuple((alert.alias, alert.subject) for alert in self._watch.active if alert.subject is not None)
            found += route_findings(rules["route_load"], told)
        return self._watch.look(found, now=now, at=self._wall())

    def _rules(self) -> dict[str, Rule]:
        given = project_config().alerts
        if given is not self._given:
            self._given = given
            self._watch = Watch(rules_with(given))
        return dict(self._watch.rules)

    def _tell(self, change: Change) -> None:
        event = AlertChanged(alias=change.alert.alias, at=change.at, change=change)
        for teller in self._tellers:
            teller.put(event)
        if events.subscribers:
            events.publish(event)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is told that has changed so far; whether it is."""
        done = [teller.flush(timeout) for teller in self._tellers]
        return all(done)

    def close(self, timeout: float = 1.0) -> None:
        for teller in self._tellers:
            teller.close(timeout)

    def _look_if_late(self) -> None:
        """An idle process doesn't look by itself."""
        if self._looked is None or self._clock() - self._looked >= 2 * INTERVAL:
            self.look()

    def active(self) -> tuple[Alert, ...]:
        self._look_if_late()
        with self._lock:
            return self._watch.active

    def recent(self) -> tuple[Change, ...]:
        self._look_if_late()
        with self._lock:
            return self._watch.recent

    def measured(self) -> dict[str, Measured]:
        """By alias what is known of its load."""
        found = {}
        with self._lock:
            watches = tuple(self._pools.values())
            known = [(watch.alias, tuple(watch.trend.readings), watch.latest) for watch in watches]
        for alias, readings, latest in known:
            if latest is not None and (load := _measured(readings, latest)) is not None:
                found[alias] = load
        return found


def _measured(readings: tuple[Any, ...], latest: Measures) -> Measured | None:
    tally = tallies().get(latest.alias)
    counted: Mapping[str, int] = tally.read().events if tally is not None else {}
    return measured(
        readings,
        latest.use,
        latest.wait,
        overdue=counted.get("overdue lease", 0),
        pinned=counted.get("overdue pin", 0),
        repeated=latest.repeated,
        slow=latest.slow,
    )


def _log(event: events.Event) -> None:
    assert isinstance(event, AlertChanged)
    change = event.change
    alert = change.alert
    level = logging.INFO
    if change.what in ("raised", "escalated"):
        level = logging.ERROR if alert.severity == "critical" else logging.WARNING
    told = f"over after {change.seconds:.0f} s" if change.what == "cleared" else str(alert)
    logger.log(
        level,
        "database %r: %s %s (%s): %s",
        alert.alias,
        alert.rule,
        change.what,
        alert.severity,
        told,
        extra={"alert": change.to_json()},
    )


def _send(event: events.Event) -> None:
    assert isinstance(event, AlertChanged)
    if not alert_changed.has_listeners(Change):
        return
    try:
        # Each receiver's exception is logged by Django, and the others are called all the same.
        alert_changed.send_robust(sender=Change, change=event.change)
    finally:
        connections.close_all()


_services: dict[int, Service] = {}


def service() -> Service:
    """Of this process; a forked child has its own, without its parent's alerts."""
    pid = os.getpid()
    found = _services.get(pid)
    return found if found is not None else _services.setdefault(pid, Service())


def start() -> None:
    """Look from time to time, from the first lease on."""
    reporter.register(JOB, job, interval=INTERVAL)


def stop() -> None:
    """Look no more, and forget what was seen."""
    reporter.unregister(JOB)
    forgotten = _services.pop(os.getpid(), None)
    if forgotten is not None:
        forgotten.close()


def job(begin: Callable[[], object] | None = None) -> None:
    """
    One look; none where a project's tests run, which want none at its pools.

    Args:
        begin: called before it.
    """
    if in_test_environment():
        reporter.unregister(JOB)
        return
    try:
        if begin is not None:
            begin()
        service().look()
    except ImproperlyConfigured:  # whoever wants a connection is told, and the check says it
        reporter.unregister(JOB)


def active() -> tuple[Alert, ...]:
    """What is wrong in this process now, the most severe first."""
    return service().active()


def alerts_section() -> list[dict[str, Any]]:
    """The same as JSON values, for a snapshot of this process."""
    return [alert.to_json() for alert in active()]


def recent() -> tuple[Change, ...]:
    """What has begun and ended in this process, the newest first; the last 200."""
    return service().recent()
