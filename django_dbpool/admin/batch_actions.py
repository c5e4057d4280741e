"""What operators do to runs of batches: asked for with POST, confirmed with another one, noted, and then done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from .. import reports
from ..acting.acted import GONE
from ..acting.batches import control
from ..reports import BatchRow
from . import posted
from .asked import LONGEST_KEY
from .verbs import OUTCOMES, Verb

if TYPE_CHECKING:
    from .model_admin import ConnectionPoolAdmin

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants done to which run."""

    verb: str
    alias: str
    run: str
    page: str
    """On which it was asked for, and its filters."""
    back: str
    confirmed: bool

    @classmethod
    def read(cls, given: QueryDict) -> Wanted:
        """
        Of a form whose button has the verb for a name, and the key of a run for a value.

        Raises:
            ValueError: it is no such form.
        """
        (verb,) = [name for name in VERBS if name in given]
        alias, run = reports.batch_of(given.get(verb, "")[:LONGEST_KEY])
        page, back = given.get("page", ""), given.get("back", "")
        return cls(
            verb,
            alias,
            run,
            page if page in PAGES else "batches",
            back[: posted.LONGEST_QUERY],
            "confirmed" in given,
        )


def respond(admin: ConnectionPoolAdmin, request: HttpRequest) -> HttpResponse:
    """The answer to a request for an action."""
    return posted.respond(admin, request, "batches", Wanted.read, _answer)


def _answer(admin: ConnectionPoolAdmin, request: HttpRequest, wanted: Wanted) -> HttpResponse:
    back = posted.back_to(admin, wanted.page, wanted.back)
    run, why = reports.batch(wanted.run, wanted.alias)
    if run is None:
        text = why or _("There is no such run any more; nothing was done.")
        messages.add_message(request, messages.ERROR if why else messages.INFO, text, fail_silently=True)
        return back
    if not wanted.confirmed:
        verb = VERBS[wanted.verb]
        context = {"run": run, "verb": verb, "wanted": wanted, "back_url": back.url}
        return admin.render(request, "batch_confirm", verb.title, context, tab="batches")
    _do(request, wanted.verb, run)
    return back


def _do(request: HttpRequest, verb: str, run: BatchRow) -> None:
    user: Any = request.user
    change = f"{verb}: batch run {run.title}, {run.condition}, {run.done} of {run.total} done, database {run.alias}"
    note = partial(posted.write_log_entry, user.pk, run.key, run.title, change)
    acted = control(verb, run.name, run.alias, actor=user.get_username(), note=note)
    level, words = OUTCOMES.get(acted.outcome, OUTCOMES["failed"])
    told = acted.text if acted.outcome == GONE else f"{words} {acted.text}"
    messages.add_message(request, level, f"{run.title}: {told}", fail_silently=True)
