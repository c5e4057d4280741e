"""Alerts: when one begins, when it is over, and that it doesn't flap; with a clock that passes when told."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_dbpool.core.alerts import RULES, Alert, Change, Finding, Rule, Watch
from django_dbpool.core.alerts.reading import faults_of_alerts, rules_with
from django_dbpool.core.alerts.trend import Reading, Span, Trend, Usual

FACTS: dict[str, Any] = {
    "max_size": 4,
    "in_use": 4,
    "waiting": 2,
    "failed": 3,
    "attempts": 6,
    "circuit": "open",
    "mean_ms": 200.0,
    "usual_ms": 20.0,
    "limit": 60.0,
    "oldest": 75.0,
    "reasons": "SET",
    "names": "import",
    "used": 95,
    "held": 5.0,
    "usual": 0.5,
}
RULE = dataclasses.replace(RULES["utilisation"], warning=0.75, critical=0.9, clear=0.8, after=10, hold=30)


class Clock:
    """A watch of one rule, looked at every five seconds."""

    def __init__(self, rule: Rule = RULE) -> None:
        self.watch = Watch({rule.name: rule})
        self.rule = rule
        self.now = 0.0

    def see(self, values: Iterable[float | None], step: float = 5.0) -> list[str]:
        seen: list[str] = []
        for value in values:
            finding = Finding(self.rule.name, "default", value, FACTS, holders=("reports/ (3)",))
            changes = self.watch.look([finding], now=self.now, at=1000.0 + self.now)
            seen += [change.what for change in changes]
            self.now += step
        return seen


def test_it_is_raised_after_a_while_and_cleared_after_a_while() -> None:
    clock = Clock()
    assert clock.see([0.8, 0.8]) == []
    assert clock.see([0.8]) == ["raised"]
    (alert,) = clock.watch.active
    assert (alert.id, alert.severity, alert.since, alert.value) == ("utilisation:default", "warning", 1010.0, 0.8)
    assert "80% of the pool's 4 connections" in alert.text
    assert "Held by reports/ (3)." in str(alert)
    assert clock.see([0.5] * 6) == []
    assert clock.see([0.5]) == ["cleared"]
    assert clock.watch.active == ()
    assert [(change.what, change.seconds) for change in clock.watch.recent] == [("cleared", 35.0), ("raised", 0.0)]


def test_a_dip_begins_the_wait_anew() -> None:
    assert Clock().see([0.8, 0.8, 0.7, 0.8, 0.8]) == []


def test_between_the_thresholds_nothing_changes() -> None:
    clock = Clock()
    clock.see([0.8] * 3)
    assert clock.see([0.7, 0.61] * 20) == []
    assert len(clock.watch.active) == 1


def test_it_becomes_worse_and_better() -> None:
    clock = Clock()
    assert clock.see([0.8] * 3 + [1.0] * 3) == ["raised", "escalated"]
    (alert,) = clock.watch.active
    assert (alert.severity, alert.threshold, alert.since) == ("critical", 0.9, 1010.0)
    assert clock.see([0.7] * 7) == ["eased"]
    assert clock.watch.active[0].severity == "warning"


def test_a_jump_is_one_change() -> None:
    clock = Clock()
    assert clock.see([1.0] * 3) == ["raised"]
    assert clock.watch.active[0].severity == "critical"
    assert clock.see([0.0] * 7) == ["cleared"]


def test_what_is_not_known_changes_nothing() -> None:
    clock = Clock()
    assert clock.see([0.8, 0.8, None, 0.8, 0.8]) == []
    assert clock.see([0.8]) == ["raised"]
    assert clock.see([None] * 20) == []
    assert len(clock.watch.active) == 1


def test_what_another_process_is_asked_for_now_is_over_in_this_one() -> None:
    """Else it would be shown for good: who asks the server changes whenever a process is idle for a while."""
    for name in ("server_connections", "strangers", "batch_stuck", "batch_failures"):
        clock = Clock(dataclasses.replace(RULES[name], after=0))
        assert clock.see([1000.0]) == ["raised"], name
        assert clock.see([None] * 50 + [1000.0] + [None] * 50) == []
        assert clock.see([None] * 20) == ["cleared"]
        assert clock.see([None] * 20 + [1000.0]) == ["raised"]
    assert len({rule.unknown for rule in RULES.values()}) == 2, "what a process knows by itself stays"


def test_two_looks_far_apart_are_no_duration() -> None:
    clock = Clock()
    assert clock.see([0.8], step=3600) == []
    assert clock.see([0.8]) == []
    clock.see([0.8, 0.8])
    assert len(clock.watch.active) == 1
    assert clock.see([0.1], step=3600) == []
    assert clock.see([0.1]) == ["cleared"]


def test_each_subject_is_an_alert_and_is_forgotten() -> None:
    watch = Watch({"route_load": dataclasses.replace(RULES["route_load"], after=0, hold=10)})
    for number in range(1000):
        assert not watch.look([Finding("route_load", "default", 1.0, FACTS, f"route {number}")], now=0, at=0)
    assert not watch._latches
    watch.look([Finding("route_load", "default", 9.0, FACTS, f"route {number}") for number in (1, 2)], now=1, at=1)
    assert [alert.id for alert in watch.active] == ["route_load:default:route 1", "route_load:default:route 2"]


def test_subjects_that_are_gone_are_forgotten() -> None:
    watch = Watch({"route_load": dataclasses.replace(RULES["route_load"], after=60, hold=100)})
    watch.look([Finding("route_load", "default", 9.0, FACTS, f"route {number}") for number in range(100)], now=0, at=0)
    assert len(watch._latches) == 100
    watch.look([], now=31, at=31)
    assert not watch._latches


def test_no_change_within_the_hold_time_of_the_last() -> None:
    clock = Clock(dataclasses.replace(RULE, after=0))
    assert clock.see([1.0] + [0.0] * 7) == ["raised", "cleared"]
    assert clock.see([1.0] * 4) == []
    assert clock.see([1.0] * 2) == ["raised"]


def test_the_most_severe_comes_first() -> None:
    watch = Watch({name: dataclasses.replace(RULES[name], after=0) for name in ("waiters", "timeouts", "leak")})
    for now, rule in enumerate(("waiters", "leak", "timeouts")):
        watch.look([Finding(rule, "default", 1.0, FACTS)], now=now, at=now)
    assert [alert.rule for alert in watch.active] == ["timeouts", "waiters", "leak"]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_words_for_what_it_says(name: str) -> None:
    """And what it says is JSON."""
    rule = dataclasses.replace(RULES[name], after=0)
    subject = "reports/{x}%s/" if name == "route_load" else None
    watch = Watch({name: rule})
    watch.look([Finding(name, "default", 1e3, FACTS, subject, ("tasks.send (2)",))], now=0, at=1.5)
    (alert,) = watch.active
    assert "{" not in alert.text.replace("{x}", "")
    assert alert.todo
    assert json.loads(json.dumps(alert.to_json()))["since"] == 1.5
    assert Alert(**{**alert.to_json(), "holders": alert.holders}) == alert
    (change,) = watch.recent
    assert json.loads(json.dumps(change.to_json()))["alert"]["id"] == alert.id


rules = st.builds(
    dataclasses.replace,
    st.just(RULE),
    warning=st.sampled_from([0.5, 0.75]),
    critical=st.sampled_from([None, 0.9]),
    clear=st.sampled_from([0.5, 0.85, 1.0]),
    after=st.sampled_from([0.0, 3.0, 10.0]),
    hold=st.sampled_from([10.0, 30.0]),
)
series = st.lists(
    st.tuples(st.integers(1, 25), st.sampled_from([0.0, 0.3, 0.45, 0.55, 0.7, 0.8, 0.95, 1.0]), st.integers(1, 12)),
    max_size=12,
)


@given(rules, series)
def test_no_flapping_and_nothing_is_missed(rule: Rule, runs: list[tuple[int, float, int]]) -> None:
    """
    Whatever the values do: one threshold changes at most once in ``hold``; what stays long enough above is raised,
    what stays long enough below is cleared.
    """
    assert rule.warning is not None
    watch = Watch({rule.name: dataclasses.replace(rule, critical=None)})
    changes: list[Change] = []
    now = 0.0
    above: float | None = None
    below: float | None = None
    for length, value, step in runs:
        for _ in range(length):
            changes += watch.look([Finding(rule.name, "default", value, FACTS)], now=now, at=now)
            above = (now if above is None else above) if value > rule.warning else None
            below = (now if below is None else below) if value <= rule.warning * rule.clear else None
            # A breach may begin within the time in which no change is due after the last one.
            if above is not None and now - above >= max(rule.after, rule.hold):
                assert watch.active
            if below is not None and now - below >= 2 * rule.hold + step:
                assert not watch.active
            now += step
    assert [change.what for change in changes] == ["raised", "cleared"] * (len(changes) // 2) + ["raised"] * (
        len(changes) % 2
    )
    for first, second in itertools.pairwise(changes):
        assert second.at - first.at >= rule.hold


@given(rules, series)
def test_a_severity_changes_once_in_its_hold_time(rule: Rule, runs: list[tuple[int, float, int]]) -> None:
    watch = Watch({rule.name: rule})
    last: dict[str, float] = {}
    before: str | None = None
    now = 0.0
    for length, value, step in runs:
        for _ in range(length):
            for change in watch.look([Finding(rule.name, "default", value, FACTS)], now=now, at=now):
                severity = change.alert.severity if change.what != "cleared" else None
                if "critical" in (severity, before) and severity != before:
                    assert now - last.get("critical", -1e9) >= rule.hold
                    last["critical"] = now
                before = severity
            now += step


# -- settings -------------------------------------------------------------------------------------------------------


def test_thresholds_are_changed_and_rules_switched_off() -> None:
    rules = rules_with({"utilisation": {"warning": 0.6, "hold": 90}, "strangers": None})
    assert rules["utilisation"] == dataclasses.replace(RULES["utilisation"], warning=0.6, hold=90)
    assert set(rules) == set(RULES) - {"strangers"}
    assert rules_with({}) == RULES
    assert rules_with(None) == {}


def test_every_rule_is_free_of_contradictions() -> None:
    assert faults_of_alerts({name: {"clear": rule.clear} for name, rule in RULES.items()}) == []


# -- trends ---------------------------------------------------------------------------------------------------------


def test_a_span_is_a_difference_and_never_negative() -> None:
    span = Span.between(Reading(10, leases=5, busy=8.0, waited=3.0), Reading(20, leases=9, busy=28.0, waited=2.0))
    assert (span.seconds, span.leases, span.load, span.queue) == (10, 4, 2.0, 0.0)


def test_a_trend_looks_back_as_far_as_it_is_asked() -> None:
    trend = Trend()
    assert trend.over(60) is None
    for at in (0, 5, 10, 300, 305):
        trend.add(Reading(float(at), timeouts=at))
        trend.add(Reading(float(at), timeouts=at))  # the same moment again says nothing
    spans = trend.over(5), trend.over(60), trend.over(1000), trend.step()
    seen = [(span.seconds, span.timeouts) for span in spans if span is not None]
    assert seen == [(5, 5), (295, 295), (305, 305), (5, 5)]  # nobody looked between 10 and 300
    assert [span.seconds for span in trend.steps()] == [5, 5, 290, 5]


def test_what_stays_becomes_usual() -> None:
    usual = Usual(half_life=100)
    assert usual.mean is None
    usual.add(10 * 0.02, 10, at=0)
    assert usual.mean == pytest.approx(0.02)
    for at in range(10, 1000, 10):
        usual.add(1.0, 10, at=at)
    assert usual.mean == pytest.approx(0.1, rel=0.05)
