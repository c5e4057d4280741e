"""The rules: what is looked at, from when on it is too much, and what to tell whoever is woken."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["warning", "critical"]
Unit = Literal["share", "number", "times"]


ELSEWHERE = 300.0
"""``Rule.unknown`` of what one process of all asks the server. Longer than the answer is good for."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Times are seconds; thresholds are in the unit of the value."""

    name: str
    unit: Unit
    says: str
    """What is the case, for ``str.format``."""
    todo: str
    """What to do now."""
    warning: float | None = None
    """Raised above it; None: never with this severity."""
    critical: float | None = None
    clear: float = 0.85
    """The part of a threshold at or below which it is over."""
    after: float = 10.0
    """So long a value has to stay above a threshold."""
    hold: float = 60.0
    """So long it has to stay below; and the shortest time between two changes."""
    window: float = 60.0
    """Over which is counted, where something is."""
    unknown: float = math.inf
    """So long nothing is known of it before it counts as over: another process has the answer now."""
    names_holders: bool = False
    """Whether those who hold connections are a part of the answer."""

    @property
    def lowest(self) -> float:
        """At or below this there is no alert."""
        return min(each for each in (self.warning, self.critical) if each is not None) * self.clear

    def threshold(self, level: Level) -> float | None:
        return self.warning if level == "warning" else self.critical


def shown(value: float, unit: Unit) -> str:
    """A value as people write it."""
    if unit == "share":
        return f"{value:.0%}"
    if unit == "times":
        return f"{value:.1f} times"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


_ALL = (
    Rule(
        "utilisation",
        "share",
        "{value} of the pool's {max_size} connections are in use; {in_use} at this moment, {waiting} callers wait.",
        "Look at the holders: a slow statement, or a transaction that waits for something else, is ended or made "
        "shorter. If all of them are short, raise max_size: `manage.py dbpool advise` says how far.",
        warning=0.75,
        critical=0.80,
        after=15.0,
        names_holders=True,
    ),
    Rule(
        "waiters",
        "number",
        "Callers wait for a connection: {value} on average, while {in_use} of {max_size} are in use.",
        "Look at the holders. Until their work is shorter, limit it with POOL['groups'], or raise max_size.",
        warning=0.5,
        critical=20.0,
        names_holders=True,
    ),
    Rule(
        "timeouts",
        "number",
        "Callers refused within {window:.0f} s because no connection came free in time: {value}.",
        "The holders have what they waited for: end or shorten their work, or raise max_size.",
        critical=0.5,
        after=0.0,
        names_holders=True,
    ),
    Rule(
        "connect_failures",
        "share",
        "{value} of the attempts to connect have failed within {window:.0f} s ({failed} of {attempts}).",
        "The log of django_dbpool.pool has the server's words. Look whether the server runs, accepts this role and "
        "password, and has connections left.",
        warning=0.1,
        critical=0.5,
        after=0.0,
    ),
    Rule(
        "circuit",
        "number",
        "The circuit is {circuit}: callers are refused at once, because the server can't be reached.",
        "Bring the server or the way to it back; the circuit closes by itself within a second of that.",
        critical=0.5,
        after=0.0,
        hold=10.0,
    ),
    Rule(
        "connect_time",
        "times",
        "Connecting takes {value} as long as usual: {mean_ms:.0f} ms, usually {usual_ms:.0f} ms.",
        "Look at the server's load, at name resolution, TLS and authentication. A higher min_size and max_lifetime "
        "keep callers from waiting for new connections.",
        warning=4.0,
        critical=20.0,
        window=300.0,
        after=0.0,
    ),
    Rule(
        "leak",
        "number",
        "Leases held for longer than leak_after ({limit:g} s): {value}, the oldest for {oldest:.0f} s.",
        "The holder named here has not ended its transaction, or reads from a cursor that it never closes. "
        "DBPOOL['LEAK_STACKS'] shows where in the code.",
        warning=0.5,
        after=0.0,
        names_holders=True,
    ),
    Rule(
        "pins",
        "number",
        "Connections pinned for longer than pin_max ({limit:g} s): {value} ({reasons}).",
        "Session state keeps a connection from everybody else. Declare variables with POOL['session'] or "
        "transaction.session(); put listeners and locks on transaction.dedicated().",
        warning=0.5,
        after=0.0,
        names_holders=True,
    ),
    Rule(
        "server_connections",
        "share",
        "{used} of the server's {limit:.0f} connections are taken ({value}).",
        "Soon nobody can connect. Look in pg_stat_activity for who has them; run fewer processes, lower max_size, or "
        "put a pooler in front.",
        warning=0.8,
        critical=0.9,
        unknown=ELSEWHERE,
    ),
    Rule(
        "strangers",
        "number",
        "Connections of this project's role that belong to none of its pools: {value}.",
        "Something goes around the pool: a script, a console, code that calls psycopg.connect. `manage.py dbpool "
        "audit` finds such code; pg_stat_activity has the addresses.",
        warning=5.0,
        after=60.0,
        unknown=ELSEWHERE,
    ),
    Rule(
        "batch_stuck",
        "number",
        "Runs of batches, or parts of them, that nobody gets on with: {value} ({names}).",
        "`manage.py dbpool batches --state trouble` says whether the runner is dead or has failed; the log of who had "
        "it says why. `manage.py dbpool batches resume NAME` sends a run's task again.",
        warning=0.5,
        after=60.0,
        unknown=ELSEWHERE,
    ),
    Rule(
        "batch_failures",
        "number",
        "Items that runs of batches could not do within the last hour: {value} ({names}).",
        "`manage.py dbpool batches failures NAME` has each with its error and line of code. Mend the cause, then do "
        "these items again: the run won't.",
        warning=0.5,
        after=0.0,
        unknown=ELSEWHERE,
    ),
    Rule(
        "route_load",
        "times",
        "{subject} holds {value} as many connections as usual: {held:.1f} on average, usually {usual:.2f}.",
        "Look for what calls it (a crawler, a loop, a retry), and for a statement that has become slow. "
        "POOL['groups'] limits what it may take from the others.",
        warning=5.0,
        after=30.0,
        hold=120.0,
    ),
)

RULES: Mapping[str, Rule] = {rule.name: rule for rule in _ALL}
"""As they are where ``DBPOOL["ALERTS"]`` says nothing."""
