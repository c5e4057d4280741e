"""
What operators do from the pages: asked for with POST, confirmed with another one, and then done.

Who it hits is found by the key that the page has shown, never by a backend's pid alone: a lease that is over is not
mistaken for the next one on that connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from ..acting import Acted, act
from ..core.words import one_line
from ..models import ConnectionPool
from ..reports import Fleet, HolderRow, ProcessRow

if TYPE_CHECKING:
    from .model_admin import ConnectionPoolAdmin


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be done, in words for the page that asks whether it should be."""

    title: Any
    effect: Any
    button: Any
    page: str = "holders"
    """Where it was asked for, and where one comes back to."""
    confirmed: bool = True
    """Whether it has to be: not what changes nothing."""
    dangerous: bool = False


VERBS = {
    "cancel": Verb(
        gettext_lazy("Cancel a statement"),
        gettext_lazy(
            "The statement that runs is stopped. Its caller gets an error; a transaction around it is usually rolled "
            "back by the program. A lease that runs nothing at this moment is left alone."
        ),
        gettext_lazy("Yes, cancel the statement"),
    ),
    "terminate": Verb(
        gettext_lazy("End a session"),
        gettext_lazy(
            "The connection is closed by the server and its transaction is rolled back. Its holder gets an error with "
            "the next statement. What it has written in this transaction is lost; the process itself goes on."
        ),
        gettext_lazy("Yes, end the session"),
        dangerous=True,
    ),
    "stack": Verb(
        gettext_lazy("Where is it now?"),
        gettext_lazy("Nothing is changed: the process tells in which calls the thread is."),
        gettext_lazy("Show the stack"),
        confirmed=False,
    ),
    "drain": Verb(
        gettext_lazy("Replace connections"),
        gettext_lazy(
            "Every connection of this process is replaced: free ones now, leased ones when their lease ends. Nothing "
            "is broken off."
        ),
        gettext_lazy("Yes, replace the connections"),
        page="processes",
    ),
}

OUTCOMES = {
    "done": (messages.SUCCESS, gettext_lazy("Done.")),
    "already over": (messages.INFO, gettext_lazy("It was already over; nothing was done.")),
    "refused (no permission)": (messages.ERROR, gettext_lazy("The database doesn't permit it; nothing was done.")),
    "unreachable": (messages.ERROR, gettext_lazy("The server did not answer in time; it may have been done.")),
    "no such process": (messages.WARNING, gettext_lazy("There is no such process any more; nothing was done.")),
    "failed": (messages.ERROR, gettext_lazy("It was not done.")),
    "unknown": (messages.ERROR, gettext_lazy("It is not known whether it was done: there was no answer in time.")),
}

LONGEST_QUERY = 2000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants done to whom."""

    name: str
    key: str
    instance: str
    arguments: dict[str, Any]
    back: str
    """The filters of the page that it was asked for on."""
    confirmed: bool

    @property
    def verb(self) -> Verb:
        return VERBS[self.name]

    @classmethod
    def read(cls, given: QueryDict) -> Wanted:
        """
        Of a form whose button has the verb for a name and the key of a holder, or a process's instance, for a value.

        Raises:
            ValueError: it is no such form.
        """
        (name,) = [verb for verb in VERBS if verb in given]
        key = _one(given, name)[:1000]
        arguments: dict[str, Any]
        if VERBS[name].page == "holders":
            instance, alias, backend_pid, generation = reports.target_of(key)
            arguments = {"alias": alias, "backend_pid": backend_pid, "generation": generation}
        else:
            instance, arguments = key, {}
        return cls(name, key, instance, arguments, _one(given, "back")[:LONGEST_QUERY], "confirmed" in given)


def _one(given: QueryDict, name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def respond(admin: ConnectionPoolAdmin, request: HttpRequest) -> HttpResponse:
    """The answer to a request for an action."""
    if not admin.has_operate_permission(request):
        raise PermissionDenied
    if request.method in ("GET", "HEAD"):  # behind a log-in, or typed: nobody has confirmed anything
        return HttpResponseRedirect(admin.url_of("holders"))
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        wanted = Wanted.read(request.POST)
    except ValueError:
        return HttpResponseBadRequest(_("This is no action."), content_type="text/plain; charset=utf-8")
    fleet = reports.read()
    victim = find(fleet, wanted)
    if victim is None:
        messages.info(request, _("That is over already, or its process is not seen any more; nothing was done."))
        return _back(admin, wanted)
    if wanted.verb.confirmed and not wanted.confirmed:
        return _ask(admin, request, wanted, victim, fleet)
    acted = _act(request, wanted, victim)
    if wanted.name == "stack" and acted.done:
        context = {"victim": victim, "wanted": wanted, "acted": acted, "back_url": _back(admin, wanted).url}
        return admin.render(request, "stack", wanted.verb.title, context)
    level, words = OUTCOMES.get(acted.outcome, OUTCOMES["failed"])
    messages.add_message(request, level, f"{_title(victim)}: {words} {acted.text}", fail_silently=True)
    return _back(admin, wanted)


Victim = HolderRow | ProcessRow


def find(fleet: Fleet, wanted: Wanted) -> Victim | None:
    """The lease or process that is meant, as it was last heard of; None if it has ended since."""
    if wanted.verb.page == "processes":
        rows = reports.processes(fleet, per_page=len(fleet.processes) or 1).items
        return next((row for row in rows if row.instance == wanted.instance and row.state != "ended"), None)
    held = reports.holders(fleet, process=wanted.instance, alias=wanted.arguments["alias"], per_page=1000).items
    return next((row for row in held if row.key == wanted.key), None)


def _ask(
    admin: ConnectionPoolAdmin, request: HttpRequest, wanted: Wanted, victim: Victim, fleet: Fleet
) -> HttpResponse:
    context = {
        "victim": victim,
        "wanted": wanted,
        "verb": wanted.verb,
        "back_url": _back(admin, wanted).url,
    }
    return admin.render(request, "confirm", wanted.verb.title, context, fleet=fleet)


def _act(request: HttpRequest, wanted: Wanted, victim: Victim) -> Acted:
    note: Callable[[], object] | None = None
    if wanted.verb.confirmed:  # to look is nothing that the history of changes is about

        def note() -> None:
            _write_log_entry(request, wanted, victim)

    actor = request.user.get_username()
    return act(wanted.instance, wanted.name, actor=actor, note=note, **wanted.arguments)


def _write_log_entry(request: HttpRequest, wanted: Wanted, victim: Victim) -> None:
    # Imported here: this module may be imported also where django.contrib.admin is no app, and has no models.
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=request.user.pk,
        content_type_id=ContentType.objects.get_for_model(ConnectionPool).pk,
        object_id=wanted.key,
        object_repr=_title(victim)[:200],
        action_flag=CHANGE,
        change_message=f"{wanted.name}: {_told(victim)}",
    )


def _title(victim: Victim) -> str:
    if isinstance(victim, ProcessRow):
        return victim.name
    return f"{one_line(victim.who, 120)}, {victim.process}, backend {victim.backend_pid}"


def _told(victim: Victim) -> str:
    """For the history, which is read when nothing of it is left."""
    if isinstance(victim, ProcessRow):
        return f"process {victim.name}, {victim.role}"
    return (
        f"{one_line(victim.who, 200)} on {victim.process}, database {victim.alias}, backend {victim.backend_pid}, "
        f"held for {victim.held:.0f} s, {victim.state}"
    )


def _back(admin: ConnectionPoolAdmin, wanted: Wanted) -> HttpResponseRedirect:
    """To the page it was asked for on, with its filters; never to another site."""
    query = urlsplit(f"?{wanted.back.lstrip('?')}").query
    url = admin.url_of(wanted.verb.page)
    return HttpResponseRedirect(f"{url}?{QueryDict(query).urlencode()}" if query else url)
