"""The first page: is all well, what is wrong, what to do now; then each database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from .. import reports
from ..reports import CircuitStep, Culprit, Database, Fleet, Percentiles, Problem
from . import plots
from .actions import MOST
from .ended import ended
from .plots import Plot, Segment

OLDEST = 5
"""Holders on this page."""

CULPRITS = 3
EVERY = 5000
"""Leases that are looked through; more are not published."""

SURELY = "idle in transaction"
"""
Of those who are named here. Who executes something may itself wait for a lock; only the server knows, and this page
asks it nothing.
"""

VERDICTS = {
    "healthy": gettext_lazy("All is well"),
    "degraded": gettext_lazy("Something needs attention"),
    "unhealthy": gettext_lazy("Something is wrong"),
}

LABELS = {
    "circuit-open": gettext_lazy("The circuit is open"),
    "circuit-isolated": gettext_lazy("The circuit is held open"),
    "circuit-half-open": gettext_lazy("The circuit is half open"),
    "server-full": gettext_lazy("The server is full"),
    "server-crowded": gettext_lazy("The server is nearly full"),
    "waiting": gettext_lazy("Callers wait for a connection"),
    "reserve-full": gettext_lazy("The reserve is in use"),
    "timeouts": gettext_lazy("Callers waited in vain"),
    "connect-failures": gettext_lazy("Connections can't be opened"),
    "stale": gettext_lazy("A process is silent"),
    "fleet-unreachable": gettext_lazy("Not everything is seen"),
    "pool-full": gettext_lazy("All connections are in use"),
    "held-idle": gettext_lazy("A transaction waits for something else"),
    "held-long": gettext_lazy("Held for long"),
    "pinned-long": gettext_lazy("Pinned for long"),
    "blocked": gettext_lazy("Blocked by a lock"),
    "slow-running": gettext_lazy("A statement runs for long"),
    "strangers": gettext_lazy("Sessions that no process knows of"),
    "not-publishing": gettext_lazy("A process can't publish"),
    "batch-stuck": gettext_lazy("Nobody gets on with a run of batches"),
    "batch-failures": gettext_lazy("Items of a run of batches fail"),
}
"""Headings of problems; those of alerts that are not here are named by their rule."""

_LOOK_AT_HOLDERS = gettext_lazy("Look at the holders")
_LOOK_AT_PROCESSES = gettext_lazy("Look at the processes")
LINKS = {
    **dict.fromkeys(("waiting", "pool-full", "held-idle", "held-long", "timeouts"), ("holders", _LOOK_AT_HOLDERS, {})),
    **dict.fromkeys(("utilisation", "waiters", "leak", "route-load"), ("holders", _LOOK_AT_HOLDERS, {})),
    "blocked": ("holders", _LOOK_AT_HOLDERS, {"servers": "1"}),
    "pinned-long": ("holders", _LOOK_AT_HOLDERS, {"state": "pinned"}),
    "pins": ("holders", _LOOK_AT_HOLDERS, {"state": "pinned"}),
    "reserve-full": ("holders", _LOOK_AT_HOLDERS, {"state": "reserved"}),
    "strangers": ("holders", gettext_lazy("Ask the server who they are"), {"servers": "1"}),
    "batch-stuck": ("batches", gettext_lazy("Look at the runs"), {"state": "trouble"}),
    "batch-failures": ("batches", gettext_lazy("Look at the runs"), {}),
    "slow-running": ("statements", gettext_lazy("Look at the statements"), {}),
    "stale": ("processes", _LOOK_AT_PROCESSES, {"state": "stale"}),
    **dict.fromkeys(("not-publishing", "circuit-open", "circuit-isolated"), ("processes", _LOOK_AT_PROCESSES, {})),
}
"""By code of a problem: the page that shows more, what its link says, and filters."""


@dataclass(frozen=True, slots=True)
class ProblemView:
    """A problem with its heading and the page that shows more."""

    problem: Problem
    key: str
    label: Any
    since: float | None
    """Seconds for which it has been so."""
    url: str | None
    link: Any


@dataclass(frozen=True, slots=True)
class CulpritView:
    """Who it is, and which of its leases are to be ended: not those of the same name that have just begun."""

    culprit: Culprit
    keys: tuple[str, ...]
    ended: bool
    """All of them are over, though their processes have not said so yet."""


@dataclass(frozen=True, slots=True)
class Card:
    """One database with its plots, and what these say in words."""

    database: Database
    roles: str
    bar: tuple[Segment, ...]
    bar_text: str
    server_bar: tuple[Segment, ...]
    server_text: str
    plot: Plot
    plot_text: str
    times: tuple[tuple[str, Percentiles], ...]
    circuit_strip: tuple[Segment, ...]
    circuit_text: str


def overview_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    found = reports.overview(fleet)
    held = reports.holders(fleet, per_page=OLDEST)
    over = ended(request, fleet)
    return {
        "overview": found,
        "verdict": VERDICTS[found.status],
        "fleet_text": _fleet_text(fleet),
        "culprits": tuple(_culprits(fleet, over))[:CULPRITS],
        "problems": tuple(_problems(request, fleet, found.problems)),
        "cards": tuple(card(database, fleet) for database in found.databases),
        "oldest": held.items,
        "ended": over,
        "held_in_all": held.total,
    }


def _culprits(fleet: Fleet, over: frozenset[str]) -> Iterator[CulpritView]:
    found = [each for each in reports.culprits(fleet) if each.kind == "holder" and each.state.startswith(SURELY)]
    rows = {row.key: row for row in reports.holders(fleet, per_page=EVERY).items} if found else {}
    for each in found:
        found_again = (row for row in map(rows.get, each.keys) if row is not None and row.can_be_aimed_at)
        idle = [row for row in found_again if row.state.startswith(SURELY)]
        aimed_at = [row.key for row in idle if row.held >= each.youngest]
        left = tuple(key for key in aimed_at if key not in over)
        yield CulpritView(each, left[:MOST], ended=bool(aimed_at) and not left)


def _fleet_text(fleet: Fleet) -> str:
    """For example ``4 processes on 2 hosts: 3 web, 1 worker``."""
    living = [process.identity for process in fleet.processes if process.state != "ended"]
    if not living:
        return ""
    roles = ", ".join(f"{count} {role}" for role, count in sorted(Counter(each.role for each in living).items()))
    hosts = len({each.host for each in living})
    many = ngettext("%(count)s process", "%(count)s processes", len(living)) % {"count": len(living)}
    on = ngettext("on %(count)s host", "on %(count)s hosts", hosts) % {"count": hosts}
    return f"{many} {on}: {roles}"


def _url(request: HttpRequest, page: str, **query: str | None) -> str:
    """On the site that the request is for."""
    match = request.resolver_match
    name = f"admin:django_dbpool_connectionpool_{page}"
    url = reverse(name, current_app=match.namespace if match is not None else None)
    wanted = {key: value for key, value in query.items() if value}
    return f"{url}?{urlencode(wanted)}" if wanted else url


def _problems(request: HttpRequest, fleet: Fleet, found: tuple[Problem, ...]) -> Iterator[ProblemView]:
    seen: Counter[tuple[str, str | None, str | None]] = Counter()
    for problem in found:
        identity = problem.code, problem.alias, problem.process
        seen[identity] += 1
        url, link = None, None
        if problem.code in LINKS:
            page, link, query = LINKS[problem.code]
            url = _url(request, page, **_filters(page, problem), **query)
        yield ProblemView(
            problem=problem,
            key=":".join(str(each) for each in (*identity, seen[identity])),
            label=LABELS.get(problem.code, problem.code.replace("-", " ")),
            since=None if problem.since is None else max(0.0, fleet.at - problem.since),
            url=url,
            link=link,
        )


def _filters(page: str, problem: Problem) -> dict[str, str | None]:
    if page == "holders":
        return {"alias": problem.alias, "process": problem.process}
    return {"q": problem.process} if page == "processes" else {"alias": problem.alias}


# -- databases ------------------------------------------------------------------------------------------------------


def card(database: Database, fleet: Fleet) -> Card:
    """One database with its plots."""
    series = database.series
    drawn = plots.plot(series.ago, series.active, series.waiting, series.max)
    changed = {step.process: step for step in reversed(database.circuit_changes)}
    return Card(
        database=database,
        roles=ngettext("of %(count)s process", "of %(count)s processes together", database.processes)
        % {"count": database.processes},
        bar=_bar(database),
        bar_text=_("%(active)s in use, %(idle)s idle, %(waiting)s waiting, at most %(max)s")
        % {"active": database.active, "idle": database.idle, "waiting": database.waiting, "max": database.max},
        server_bar=_server_bar(database),
        server_text=_server_text(database),
        plot=drawn,
        plot_text=_("at most %(used)s in use (%(percent)s %%), at most %(waiting)s waiting")
        % {"used": drawn.peak_used, "percent": drawn.peak_percent, "waiting": drawn.peak_waiting},
        times=(
            (_("waiting for a connection"), database.waits),
            (_("holding it"), database.holds),
            (_("connecting"), database.connects),
        ),
        circuit_strip=plots.timeline(
            [(step.process, step.ago, step.before, step.after) for step in database.circuit_changes],
            _unchanged(database, changed),
        ),
        circuit_text=_circuit_text(database),
    )


def _bar(database: Database) -> tuple[Segment, ...]:
    ordinary = database.active - database.reserve_used
    return plots.bar(
        [
            ("used", ordinary),
            ("reserve", database.reserve_used),
            ("idle", database.idle),
            ("free", database.max - ordinary - database.idle),
            ("waiting", database.waiting),
        ]
    )


def _server_bar(database: Database) -> tuple[Segment, ...]:
    if not database.server_max or database.server_connections is None:
        return ()
    ours = min(database.total, database.server_connections)
    others = database.server_connections - ours
    return plots.bar([("used", ours), ("others", others), ("free", database.server_max - ours - others)])


def _server_text(database: Database) -> str:
    if not database.server_max:
        return ""
    allowed = database.max + database.reserve
    text = _("%(total)s of the server's %(max)s connections are open here; the pools may open %(allowed)s") % {
        "total": database.total,
        "max": database.server_max,
        "allowed": allowed,
    }
    if allowed <= database.server_max:
        return text
    too_many = _("That is more than the server has.")
    return f"{text}. {too_many}"


def _unchanged(database: Database, changed: dict[str, CircuitStep]) -> tuple[str, ...]:
    """The states of the circuits that have not changed lately."""
    now = Counter(database.circuits)
    now.subtract(step.after for step in changed.values())
    return tuple(state for state, count in now.items() if count > 0)


def _circuit_text(database: Database) -> str:
    now = ", ".join(f"{count} {state}" for state, count in database.circuits.items())
    changes = len(database.circuit_changes)
    if not changes:
        return _("%(now)s, no change") % {"now": now}
    many = ngettext("%(count)s change", "%(count)s changes", changes) % {"count": changes}
    return f"{now}, {many}"
