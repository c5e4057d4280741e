"""
Hysteresis: a value that trembles around a threshold makes one alert, not a hundred.

Each threshold has a latch. It goes on when the value was above it at every look for ``after`` seconds, off when it was
at or below a lower one for ``hold`` seconds, and it changes at most once in ``hold`` seconds.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .rules import Level, Rule, shown

What = Literal["raised", "escalated", "eased", "cleared"]

LEVELS: tuple[Level, ...] = ("critical", "warning")
"""The most severe first."""

KEPT = 200
"""Changes that are remembered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found for one rule."""

    rule: str
    alias: str
    value: float | None
    """None: it is not known now; then nothing begins, and nothing is over before ``Rule.unknown``."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For the rule's text."""
    subject: str | None = None
    """Of several that one rule looks at: a route."""
    holders: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.rule}:{self.alias}" + (f":{self.subject}" if self.subject is not None else "")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong now."""

    id: str
    """The same each time that it is about the same thing: ``utilisation:default``."""
    rule: str
    severity: Level
    alias: str
    since: float
    """Unix time."""
    value: float
    """At the last look; what is counted, or a share of 1, or a multiple of what is usual."""
    threshold: float
    text: str
    """What is the case."""
    todo: str
    """What to do now."""
    holders: tuple[str, ...] = ()
    """Who holds the connections, by route or task, the most first."""
    subject: str | None = None

    def __str__(self) -> str:
        held = f" Held by {', '.join(self.holders)}." if self.holders else ""
        return f"{self.text}{held} {self.todo}"

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "holders": list(self.holders)}


@dataclass(frozen=True, slots=True)
class Change:
    """An alert has begun, has become worse or better, or is over."""

    what: What
    alert: Alert
    """As it is now; as it was before, when it is over."""
    at: float
    """Unix time."""

    @property
    def seconds(self) -> float:
        """How long the alert has lasted."""
        return max(0.0, self.at - self.alert.since)

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "at": self.at, "seconds": self.seconds, "alert": self.alert.to_json()}


class _Latch:
    """One threshold of one thing."""

    __slots__ = ("above", "after", "below", "changed", "dark", "gap", "hold", "longest_dark", "on", "run", "seen")

    def __init__(self, rule: Rule, above: float, gap: float) -> None:
        self.above, self.below = above, above * rule.clear
        self.after, self.hold, self.gap = rule.after, rule.hold, gap
        self.longest_dark = rule.unknown
        self.on = False
        self.changed = -math.inf
        self.run: float | None = None
        """Since when every look has asked for the other state."""
        self.seen = -math.inf
        self.dark: float | None = None
        """Since when no look has found a value."""

    def look(self, value: float | None, now: float) -> None:
        seen, self.seen = self.seen, now
        self.dark = None if value is not None else now if self.dark is None else self.dark
        if self.on and self.dark is not None and now - self.dark >= self.longest_dark:
            self.on = False
            self.changed = now
        wants_change = value is not None and (value <= self.below if self.on else value > self.above)
        if not wants_change:
            self.run = None
            return
        # Between two looks that are far apart nobody knows what was. For a recovery both ends are enough.
        if self.run is None or (not self.on and now - seen > self.gap):
            self.run = now
        if now - self.run >= (self.hold if self.on else self.after) and now - self.changed >= self.hold:
            self.on = not self.on
            self.changed = now
            self.run = None

    def idle(self, now: float) -> bool:
        """Whether it could be forgotten without anybody noticing. What nobody looks at any more has no run."""
        running = self.run is not None and now - self.seen <= self.gap
        return not self.on and not running and now - self.changed >= self.hold


class Watch:
    """
    What is wrong, and what was. Not for several threads at once; what it returns is immutable.

    Args:
        rules: those that are switched on, by name.
        gap: seconds between two looks, beyond which a value doesn't count as having stayed where it was.
    """

    def __init__(self, rules: Mapping[str, Rule], *, gap: float = 30.0) -> None:
        self.rules = rules
        self._gap = gap
        self._latches: dict[str, dict[Level, _Latch]] = {}
        self._alerts: dict[str, Alert] = {}
        self._recent: deque[Change] = deque(maxlen=KEPT)

    @property
    def active(self) -> tuple[Alert, ...]:
        """The most severe first, then the oldest."""
        return tuple(
            sorted(self._alerts.values(), key=lambda alert: (LEVELS.index(alert.severity), alert.since, alert.id))
        )

    @property
    def recent(self) -> tuple[Change, ...]:
        """The newest first."""
        return tuple(reversed(self._recent))

    def look(self, findings: Iterable[Finding], *, now: float, at: float) -> tuple[Change, ...]:
        """
        Args:
            findings: one for each thing that is looked at.
            now: seconds on a clock that only goes forward.
            at: the same moment in unix time.

        Returns:
            What has changed.
        """
        changes = []
        for finding in findings:
            rule = self.rules.get(finding.rule)
            if rule is not None and (change := self._judge(rule, finding, now, at)) is not None:
                changes.append(change)
        self._recent.extend(changes)
        # Routes come and go.
        for key in [key for key, latches in self._latches.items() if all(each.idle(now) for each in latches.values())]:
            del self._latches[key]
        return tuple(changes)

    def _judge(self, rule: Rule, finding: Finding, now: float, at: float) -> Change | None:
        key = finding.id
        latches = self._latches.get(key)
        if latches is None:
            latches = self._latches[key] = {
                level: _Latch(rule, above, self._gap)
                for level in LEVELS
                if (above := rule.threshold(level)) is not None
            }
        for latch in latches.values():
            latch.look(finding.value, now)
        level = next((level for level, latch in latches.items() if latch.on), None)
        return self._set(key, rule, level, finding, at)

    def _set(self, key: str, rule: Rule, level: Level | None, finding: Finding, at: float) -> Change | None:
        before = self._alerts.get(key)
        if level is None:
            if before is None:
                return None
            del self._alerts[key]
            return Change("cleared", before, at)
        if finding.value is None:
            return None
        alert = self._alerts[key] = _alert(rule, level, finding, at if before is None else before.since)
        if before is None:
            return Change("raised", alert, at)
        if before.severity == level:
            return None
        return Change("escalated" if level == "critical" else "eased", alert, at)


def _alert(rule: Rule, level: Level, finding: Finding, since: float) -> Alert:
    value = finding.value
    threshold = rule.threshold(level)
    assert value is not None
    assert threshold is not None
    facts = {"window": rule.window, **finding.facts, "value": shown(value, rule.unit), "subject": finding.subject}
    return Alert(
        id=finding.id,
        rule=rule.name,
        severity=level,
        alias=finding.alias,
        since=since,
        value=value,
        threshold=threshold,
        text=rule.says.format_map(facts),
        todo=rule.todo,
        holders=finding.holders if rule.names_holders else (),
        subject=finding.subject,
    )
