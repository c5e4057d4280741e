"""From a pool's measures to what the rules look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from ..core.alerts import Finding, Rule
from ..core.alerts.trend import Reading, Trend, Usual
from ..core.ledger import Holder
from ..core.words import one_line
from ..pool.gauges import Gauges, gauges
from ..pool.managed import ManagedPool
from ..pool.measures import Measures
from .providers import Active, BatchTrouble, ask

NAMED = 3
"""Holders that an alert names."""

LEAST_ATTEMPTS = 3
"""To connect, before a share of them or their duration says anything."""

LEAST_USUAL = 5
"""Connects on which it rests what is usual."""

NOTICED = 0.05
"""Seconds. Connecting that is faster disturbs nobody, however fast it is usually."""

LEAST_HELD = 1.0
"""Connections that a route holds, below which it disturbs nobody."""

LEAST_OBSERVED = 900.0
"""Seconds, before a route's average is what is usual."""


class PoolWatch:
    """What is remembered of one alias between two looks."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.trend = Trend()
        self.gauges = Gauges()
        self.latest: Measures | None = None
        self._usual_connect = Usual()
        self._aged: Reading | None = None

    def read(self, measured: Measures, pool: ManagedPool | None, now: float) -> None:
        """Take a reading. The gauges come first: a lease that ends meanwhile is counted twice rather than not."""
        self.gauges = gauges(pool) if pool is not None else Gauges()
        self.latest = measured
        taken = measured.snapshot
        self.trend.add(
            Reading(
                at=now,
                leases=measured.leases,
                busy=measured.use.total + self.gauges.age,
                waited=measured.wait.total,
                timeouts=measured.refused.get("PoolExhausted", 0) + measured.refused.get("PoolOverloaded", 0),
                opened=measured.opened,
                failed=measured.failed,
                connects=measured.connect.count,
                connecting=measured.connect.total,
                in_use=self.gauges.in_use,
                waiting=taken.waiting if taken is not None else 0,
                max_size=taken.max_size if taken is not None else 1,
                executing=self.gauges.executing,
                ready=self.gauges.ready,
                nested=self.gauges.nested,
            )
        )

    def usual_connect(self, window: float) -> Usual:
        """What connecting takes usually: all of it that is older than the window."""
        last = self.trend.readings[-1].at
        for reading in self.trend.readings:
            if reading.at > last - window:
                break
            aged = self._aged
            if aged is not None and reading.at <= aged.at:
                continue
            if aged is not None:
                self._usual_connect.add(
                    reading.connecting - aged.connecting, reading.connects - aged.connects, reading.at
                )
            self._aged = reading
        return self._usual_connect


def findings(watch: PoolWatch, rules: dict[str, Rule], pool: ManagedPool | None) -> Iterator[Finding]:
    """Everything that the rules look at in one pool; who holds is found out only for those that may be told."""
    if watch.latest is None:
        return
    for name, values in (
        ("utilisation", _utilisation),
        ("waiters", _waiters),
        ("timeouts", _timeouts),
        ("connect_failures", _connect_failures),
        ("circuit", _circuit),
        ("connect_time", _connect_time),
        ("leak", _leak),
        ("pins", _pins),
        ("server_connections", _server_connections),
        ("strangers", _strangers),
        ("batch_stuck", _batch_stuck),
        ("batch_failures", _batch_failures),
    ):
        rule = rules.get(name)
        if rule is None:
            continue
        value, facts = values(watch, rule, pool)
        matters = rule.names_holders and value is not None and value > rule.lowest
        holders = biggest(pool.holders()) if matters and pool is not None else ()
        yield Finding(name, watch.alias, value, {**_standing(watch), **facts}, holders=holders)


_Value = tuple[float | None, dict[str, Any]]


def _standing(watch: PoolWatch) -> dict[str, Any]:
    last = watch.trend.readings[-1]
    return {"in_use": last.in_use, "waiting": last.waiting, "max_size": last.max_size}


def _utilisation(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    """On average since the last look, from exact sums: what is in use at one moment says little about short leases."""
    step = watch.trend.step()
    if step is None:
        return None, {}
    return min(1.0, step.load / watch.trend.readings[-1].max_size), {}


def _waiters(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    step = watch.trend.step()
    waited = step.queue if step is not None else 0.0
    return max(waited, watch.trend.readings[-1].waiting), {}


def _timeouts(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    span = watch.trend.over(rule.window)
    return (None if span is None else float(span.timeouts)), {}


def _connect_failures(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    span = watch.trend.over(rule.window)
    if span is None:
        return None, {}
    attempts = span.opened + span.failed
    facts = {"failed": span.failed, "attempts": attempts}
    if not span.failed:
        return 0.0, facts
    return (span.failed / attempts if attempts >= LEAST_ATTEMPTS else None), facts


def _circuit(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    assert watch.latest is not None
    circuit = watch.latest.circuit
    return float(circuit != "closed"), {"circuit": circuit.replace("_", " ")}


def _connect_time(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    usual = watch.usual_connect(rule.window)
    span = watch.trend.over(rule.window)
    mean = span.connecting / span.connects if span is not None and span.connects else 0.0
    facts = {"mean_ms": mean * 1000, "usual_ms": (usual.mean or 0.0) * 1000}
    if span is None or not span.connects:
        return 0.0, facts
    if span.connects < LEAST_ATTEMPTS or usual.weight < LEAST_USUAL or not usual.mean:
        return None, facts
    return (mean / usual.mean if mean >= NOTICED else min(1.0, mean / usual.mean)), facts


def _leak(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    limit = pool.config.leak_after if pool is not None else math.inf
    return float(watch.gauges.overdue), {"limit": limit, "oldest": watch.gauges.oldest}


def _pins(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    limit = pool.config.pin_max if pool is not None else math.inf
    return float(watch.gauges.pins), {"limit": limit, "reasons": ", ".join(watch.gauges.reasons)}


def _server_connections(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    answer = ask("server_connections", watch.alias)
    if answer is None or answer[1] <= 0:
        return None, {}
    used, limit = answer
    return used / limit, {"used": used, "limit": limit}


def _strangers(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    answer = ask("strangers", watch.alias)
    return (None if answer is None else float(answer)), {}


def _batch_stuck(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    answer: BatchTrouble | None = ask("batches", watch.alias)
    return (None, {}) if answer is None else (float(len(answer.stuck)), {"names": _some(answer.stuck)})


def _batch_failures(watch: PoolWatch, rule: Rule, pool: ManagedPool | None) -> _Value:
    answer: BatchTrouble | None = ask("batches", watch.alias)
    return (None, {}) if answer is None else (float(answer.failed), {"names": _some(answer.failing)})


def _some(names: Iterable[str]) -> str:
    """The first of them, each once."""
    known = list(dict.fromkeys(names))
    more = [f"{len(known) - NAMED} more"] if len(known) > NAMED else []
    return ", ".join([*(one_line(name, 60) for name in known[:NAMED]), *more])


def route_findings(rule: Rule, active: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
    """
    Routes that hold much more than usual.

    Args:
        active: alias and route of those that are told already, to be told when they are gone.
    """
    rows: tuple[Active, ...] | None = ask("activity")
    if rows is None:
        return
    gone = set(active)
    for row in rows:
        if row.name is None or row.observed < LEAST_OBSERVED or row.baseline <= 0:
            continue
        times = row.held.minute / row.baseline
        value = times if row.held.minute >= LEAST_HELD else min(1.0, times)
        gone.discard((row.alias, row.name))
        yield Finding(rule.name, row.alias, value, {"held": row.held.minute, "usual": row.baseline}, row.name)
    for alias, name in gone:
        yield Finding(rule.name, alias, 0.0, {"held": 0.0, "usual": 0.0}, name)


def biggest(found: Iterable[Holder]) -> tuple[str, ...]:
    """Who holds the connections, by route or task: the one with the most time in all first."""
    groups: dict[str, list[Holder]] = {}
    for holder in found:
        groups.setdefault(holder.name or f"thread {holder.thread}", []).append(holder)
    ages = {name: sum(holder.since_seconds for holder in held) for name, held in groups.items()}
    chosen = sorted(groups, key=lambda name: -ages[name])[:NAMED]
    return tuple(
        f"{name} ({len(groups[name])}, oldest {max(holder.since_seconds for holder in groups[name]):.1f} s)"
        for name in chosen
    )
