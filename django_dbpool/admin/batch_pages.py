"""Pages about runs of batches: all of them, and one with its parts and the items that failed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import reports
from .asked import LONGEST_KEY, chosen, number, paged, text

STATES = {
    "open": _("open"),
    "trouble": _("in trouble"),
    "done": _("done"),
    "cancelled": _("cancelled"),
}
HINTS = {
    "dead": _(
        "Nothing was heard of its runner for so long that it counts as dead. A worker that looks for such runs sends "
        "it again by itself; Resume does so now."
    ),
    "given up": _(
        "It was sent again several times, and not one batch was done: perhaps it kills whoever works on it. Look at "
        "the log of the runner that is named below, then resume it."
    ),
    "failed": _("An error has ended its last runner. Mend what it failed of, then resume it: it goes on there."),
    "waiting": _("Its task was sent, and no worker has begun it yet."),
    "pausing": _("It stops when the batch at hand is done."),
    "cancelling": _("It ends when the batch at hand is done."),
}
"""What to know, or do, by its condition."""
OF_ANY_CODE = ("failed", "pausing", "cancelling")
"""Conditions whose hint is right also where no task does the run."""


def batches_context(request: HttpRequest, fleet: object) -> dict[str, Any]:
    found = reports.batches(
        page=number(request), q=text(request, "q"), alias=text(request, "alias"), state=text(request, "state")
    )
    return {
        "q": text(request, "q"),
        "aliases": chosen(request, "alias", {alias: alias for alias in found.aliases}),
        "several": len(found.aliases) > 1,
        "states": chosen(request, "state", STATES),
        "rows": paged(request, found.rows),
        "remarks": found.remarks,
    }


def batch_context(request: HttpRequest, fleet: object) -> dict[str, Any]:
    alias, name = _named(request)
    run, why = reports.batch(name, alias)
    failures, reason = reports.batch_failures(name, alias, page=number(request), q=text(request, "q"))
    return {
        "run": run,
        "title": run.title if run is not None else _("Batch run"),
        "hint": HINTS.get(run.condition) if run is not None and (run.task or run.condition in OF_ANY_CODE) else None,
        "q": text(request, "q"),
        "failed": paged(request, failures),
        "remarks": tuple(dict.fromkeys(filter(None, (why, reason)))),
        "status": 200 if run is not None or why else 404,
    }


def _named(request: HttpRequest) -> tuple[str, str]:
    """Alias and name of the run: by themselves, for people, or together, as a form has them."""
    with suppress(ValueError):
        return reports.batch_of(request.GET.get("run", "")[:LONGEST_KEY])
    return text(request, "alias"), request.GET.get("name", "")[:LONGEST_KEY]
