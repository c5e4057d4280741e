"""What is on each page: views of one reading of the fleet, filtered as the address says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import reports
from ..reports import Fleet
from .asked import Choice, chosen, number, paged, text
from .batch_pages import batch_context, batches_context
from .ended import ended
from .overview import overview_context

Context = Callable[[HttpRequest, Any], dict[str, Any]]
"""Of a request and, unless the page is about something else, a reading of the fleet."""


@dataclass(frozen=True, slots=True)
class PageOf:
    """A page of the dashboard."""

    label: Any
    """On its tab."""
    title: Any
    context: Context
    may_ask_servers: bool = False
    about_fleet: bool = True
    """Whether it shows what processes have published."""
    tab: str = ""
    """Of a page behind another one: that one's name."""

    def asks_servers(self, request: HttpRequest) -> bool:
        """Whether the reader wants to know what the servers say, too: that is a query each."""
        return self.may_ask_servers and request.GET.get("servers") == "1"


def aliases(fleet: Fleet) -> dict[str, str]:
    return {name: name for name in sorted({pool.snapshot.alias for each in fleet.processes for pool in each.pools})}


# -- the pages ------------------------------------------------------------------------------------------------------

PROCESS_STATES = {"active": _("active"), "idle": _("idle"), "stale": _("stale")}
HOLDER_STATES = {
    "idle": _("runs no statement"),
    "running": _("running"),
    "idle in transaction": _("idle in transaction"),
    "failed transaction": _("failed transaction"),
    "lost": _("lost"),
    "pinned": _("pinned"),
    "reserved": _("of the reserve"),
}
HOLDER_SORTS = {
    "process": _("process"),
    "who": _("who"),
    "alias": _("database"),
    "state": _("state"),
    "statements": _("statements"),
}
KINDS = {
    "request": _("request"),
    "task": _("task"),
    "command": _("command"),
    "operation": _("operation"),
    "thread": _("thread"),
}
SEVERITIES = {"critical": _("critical"), "warning": _("warning")}


def processes_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    roles = {each.identity.role: each.identity.role for each in fleet.processes}
    rows = reports.processes(
        fleet,
        page=number(request),
        q=text(request, "q"),
        role=text(request, "role"),
        state=text(request, "state"),
    )
    return {
        "q": text(request, "q"),
        "roles": chosen(request, "role", dict(sorted(roles.items()))),
        "states": chosen(request, "state", PROCESS_STATES),
        "rows": paged(request, rows),
    }


def holders_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    rows = reports.holders(
        fleet,
        page=number(request),
        q=text(request, "q"),
        alias=text(request, "alias"),
        process=text(request, "process"),
        state=text(request, "state"),
        sort=text(request, "sort") or "age",
    )
    names = {each.name: each.name for each in fleet.processes if each.holders}
    seen = request.user.has_perm("django_dbpool.view_strangers")
    return {
        "q": text(request, "q"),
        "aliases": chosen(request, "alias", aliases(fleet)),
        "processes": chosen(request, "process", names),
        "states": chosen(request, "state", HOLDER_STATES),
        "sorts": sorts(request, HOLDER_SORTS, _("time held")),
        "asked": request.GET.get("servers") == "1",
        "rows": paged(request, rows),
        "ended": ended(request, fleet),
        "left_out": reports.holders_left_out(fleet),
        "strangers": reports.strangers(fleet) if seen else (),
    }


def sorts(request: HttpRequest, values: Mapping[str, Any], first: Any) -> tuple[Choice, ...]:
    """The options of an order, whose first one is what there is without any choice."""
    now = text(request, "sort")
    return tuple(
        Choice(value, label, value == (now if now in values else "")) for value, label in {"": first, **values}.items()
    )


def operations_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    wanted: dict[str, Any] = {"q": text(request, "q"), "kind": text(request, "kind")}
    running = reports.operations(fleet, page=number(request), running=True, **wanted)
    recent = reports.operations(fleet, page=number(request, "recent"), running=False, **wanted)
    return {
        "q": wanted["q"],
        "kinds": chosen(request, "kind", KINDS),
        "running": paged(request, running),
        "recent": paged(request, recent, "recent"),
    }


def statements_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    wanted: dict[str, Any] = {"q": text(request, "q"), "alias": text(request, "alias")}
    slow = reports.slow_statements(fleet, page=number(request), **wanted)
    repeated = reports.repeated_statements(fleet, page=number(request, "repeated"), **wanted)
    return {
        "q": wanted["q"],
        "aliases": chosen(request, "alias", aliases(fleet)),
        "slow": paged(request, slow),
        "repeated": paged(request, repeated, "repeated"),
    }


def alerts_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    wanted: dict[str, Any] = {name: text(request, name) for name in ("q", "alias", "severity")}
    active = reports.alerts(fleet, page=number(request), active=True, **wanted)
    over = reports.alerts(fleet, page=number(request, "over"), active=False, **wanted)
    return {
        "q": wanted["q"],
        "aliases": chosen(request, "alias", aliases(fleet)),
        "severities": chosen(request, "severity", SEVERITIES),
        "active": paged(request, active),
        "over": paged(request, over, "over"),
    }


def advice_context(request: HttpRequest, fleet: Fleet) -> dict[str, Any]:
    return {"reports": reports.advice(fleet)}


PAGES: dict[str, PageOf] = {
    "overview": PageOf(_("Overview"), _("Connection pools"), overview_context),
    "processes": PageOf(_("Processes"), _("Processes"), processes_context),
    "holders": PageOf(_("Holders"), _("Who holds connections"), holders_context, may_ask_servers=True),
    "operations": PageOf(_("Operations"), _("What runs"), operations_context),
    "batches": PageOf(_("Batches"), _("Runs of batches"), batches_context, about_fleet=False),
    "statements": PageOf(_("Statements"), _("Slow and repeated statements"), statements_context),
    "alerts": PageOf(_("Alerts"), _("Alerts"), alerts_context),
    "advice": PageOf(_("Advice"), _("Advice on settings"), advice_context),
}
"""By name, in the order of the tabs."""

BEHIND: dict[str, PageOf] = {
    "batch": PageOf(_("Batch run"), _("Batch run"), batch_context, about_fleet=False, tab="batches"),
}
"""Pages that others lead to."""
