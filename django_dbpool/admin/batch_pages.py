"""Pages about runs of batches: all of them, and one with its parts and the items that failed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import reports
from .asked import chosen, number, paged, text

LONGEST_KEY = 1000

STATES = {
    "open": _("open"),
    "trouble": _("in trouble"),
    "done": _("done"),
    "cancelled": _("cancelled"),
}


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
