"""What operators do to runs of batches: asked for with POST, confirmed with another one, noted, and then done."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    QueryDict,
)
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .. import reports
from ..acting.acted import GONE
from ..acting.batches import control
from ..reports import BatchRow
from .actions import LONGEST_QUERY, write_log_entry
from .verbs import OUTCOMES, Verb

if TYPE_CHECKING:
    from .model_admin import ConnectionPoolAdmin

LONGEST_KEY = 1000
PAGES = ("batches", "batch")

VERBS = {
    "pause": Verb(
        gettext_lazy("Pause a run"),
        gettext_lazy(
            "Its runners stop when the batch at hand is done. What is done is saved, and the run goes on from there "
            "when it is resumed."
        ),
        gettext_lazy("Yes, pause it"),
        page="batches",
    ),
    "resume": Verb(
        gettext_lazy("Resume a run"),
        gettext_lazy(
            "It goes on where it has stopped. If a task does it, that is sent again for each part that nobody works "
            "on; else whoever has started it may start it again."
        ),
        gettext_lazy("Yes, resume it"),
        page="batches",
    ),
    "cancel": Verb(
        gettext_lazy("Cancel a run"),
        gettext_lazy(
            "It ends for good, when the batch at hand is done. What is done stays done. The rest is left alone, and "
            "needs a run with another name."
        ),
        gettext_lazy("Yes, cancel it for good"),
        page="batches",
        dangerous=True,
    ),
}


def respond(admin: ConnectionPoolAdmin, request: HttpRequest) -> HttpResponse:
    """The answer to a request for an action."""
    if not admin.has_operate_permission(request):
        raise PermissionDenied
    if request.method in ("GET", "HEAD"):  # behind a log-in, or typed: nobody has confirmed anything
        return HttpResponseRedirect(admin.url_of("batches"))
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        (verb,) = [name for name in VERBS if name in request.POST]
        key = request.POST[verb][:LONGEST_KEY]
        alias, name = reports.batch_of(key)
    except ValueError:
        return HttpResponseBadRequest(_("This is no action."), content_type="text/plain; charset=utf-8")
    back = _back(admin, request)
    run, why = reports.batch(name, alias)
    if run is None:
        text = why or _("There is no such run any more; nothing was done.")
        messages.add_message(request, messages.ERROR if why else messages.INFO, text, fail_silently=True)
        return back
    if "confirmed" not in request.POST:
        context = {"run": run, "verb": VERBS[verb], "verb_name": verb, "back_url": back.url, **_asked(request)}
        return admin.render(request, "batch_confirm", VERBS[verb].title, context, tab="batches")
    _do(request, verb, run)
    return back


def _do(request: HttpRequest, verb: str, run: BatchRow) -> None:
    user: Any = request.user
    change = f"{verb}: batch run {run.title}, {run.condition}, {run.done} of {run.total} done, database {run.alias}"
    note = partial(write_log_entry, user.pk, run.key, run.title, change)
    acted = control(verb, run.name, run.alias, actor=user.get_username(), note=note)
    level, words = OUTCOMES.get(acted.outcome, OUTCOMES["failed"])
    told = acted.text if acted.outcome == GONE else f"{words} {acted.text}"
    messages.add_message(request, level, f"{run.title}: {told}", fail_silently=True)


def _asked(request: HttpRequest) -> dict[str, str]:
    page = request.POST.get("page", "")
    return {
        "asked_page": page if page in PAGES else "batches",
        "asked_back": request.POST.get("back", "")[:LONGEST_QUERY],
    }


def _back(admin: ConnectionPoolAdmin, request: HttpRequest) -> HttpResponseRedirect:
    """To the page it was asked for on, with its filters; never to another site."""
    asked = _asked(request)
    query = urlsplit(f"?{asked['asked_back'].lstrip('?')}").query
    url = admin.url_of(asked["asked_page"])
    return HttpResponseRedirect(f"{url}?{QueryDict(query).urlencode()}" if query else url)
