"""
What operators do from the pages: asked for with POST, confirmed with another one, and then done.

Who it hits is found by the key that the page has shown, never by a backend's pid alone: a lease that is over is not
mistaken for the next one on that connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .. import reports
from ..acting import Acted, act
from ..acting.acted import DONE, FAILED, OVER
from ..core.words import one_line
from ..reports import Fleet, HolderRow, ProcessRow
from ..threads import ThreadPoolExecutor
from . import posted
from .asked import LONGEST_KEY
from .ended import remember
from .verbs import OUTCOMES, VERBS, Verb

if TYPE_CHECKING:
    from .model_admin import ConnectionPoolAdmin

Victim = HolderRow | ProcessRow

MOST = 50
"""Victims of one request; more have to be asked for again."""

AT_ONCE = 8
"""Of them, for whom is waited at one time."""

EACH = 6.0
LONGEST = 18.0
"""
Seconds for one, and after which no more is begun. With what is under way then, and with notes that can't be written, it
is less than half a minute, after which servers commonly kill who serves a request: then nobody would be told what was
done.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants done to whom."""

    name: str
    keys: tuple[str, ...]
    """Of holders, or instances of processes."""
    back: str
    """The filters of the page that it was asked for on."""
    confirmed: bool

    @property
    def verb(self) -> Verb:
        return VERBS[self.name]

    @classmethod
    def read(cls, given: QueryDict) -> Wanted:
        """
        Of a form whose button has the verb for a name, and for a value the key of a holder, the instance of a process,
        or "selected": then those that are ticked are meant.

        Raises:
            ValueError: it is no such form.
        """
        (name,) = [verb for verb in VERBS if verb in given]
        keys = _texts(given, name)
        if keys == ["selected"]:
            keys = _texts(given, "selected")
        for key in keys:
            _target(VERBS[name], key)
        (back,) = _texts(given, "back") or [""]
        return cls(name, tuple(dict.fromkeys(keys)), back[: posted.LONGEST_QUERY], "confirmed" in given)


def _texts(given: QueryDict, name: str) -> list[str]:
    return [each[:LONGEST_KEY] for each in given.getlist(name)]


def _target(verb: Verb, key: str) -> tuple[str, dict[str, Any]]:
    """The process, and the arguments of what it is told."""
    if verb.page == "processes":
        return key, {}
    instance, alias, backend_pid, generation = reports.target_of(key)
    return instance, {"alias": alias, "backend_pid": backend_pid, "generation": generation}


def respond(admin: ConnectionPoolAdmin, request: HttpRequest) -> HttpResponse:
    """The answer to a request for an action."""
    return posted.respond(admin, request, "holders", Wanted.read, _answer)


def _answer(admin: ConnectionPoolAdmin, request: HttpRequest, wanted: Wanted) -> HttpResponse:
    back = posted.back_to(admin, wanted.verb.page, wanted.back)
    if refusal := _refusal(wanted):
        messages.warning(request, refusal, fail_silently=True)
        return back
    fleet = reports.read()
    victims = find(fleet, wanted)
    if not victims:
        text = _("That is over already, or its process is not seen any more; nothing was done.")
        messages.info(request, text, fail_silently=True)
        return back
    context = {"victims": victims, "wanted": wanted, "verb": wanted.verb, "back_url": back.url}
    if wanted.verb.confirmed and not wanted.confirmed:
        return admin.render(request, "confirm", wanted.verb.title, context, fleet=fleet)
    done = _act_on_all(request, wanted, victims)
    if wanted.name == "stack" and done[0].done:
        return admin.render(request, "stack", wanted.verb.title, {**context, "acted": done[0]})
    _tell(request, victims, done)
    if wanted.name == "terminate":
        over = [_key(victim) for victim, acted in zip(victims, done, strict=True) if acted.outcome in (DONE, OVER)]
        remember(request, back, over, admin.url_of("overview"))
    return back


def _refusal(wanted: Wanted) -> str:
    if not wanted.keys:
        return _("Nothing was selected; nothing was done.")
    if len(wanted.keys) > MOST:
        return _("At most %(most)s at one time; nothing was done.") % {"most": MOST}
    return ""


def find(fleet: Fleet, wanted: Wanted) -> tuple[Victim, ...]:
    """The leases or processes that are meant, as they were last heard of, without those that have ended since."""
    if wanted.verb.page == "processes":
        rows = reports.processes(fleet, per_page=len(fleet.processes) or 1).items
        return tuple(row for row in rows if row.instance in wanted.keys and row.state != "ended")
    found: list[Victim] = []
    for instance in {_target(wanted.verb, key)[0] for key in wanted.keys}:
        held = reports.holders(fleet, process=instance, per_page=1000).items
        found += [row for row in held if row.key in wanted.keys]
    return tuple(found)


def _act_on_all(request: HttpRequest, wanted: Wanted, victims: Sequence[Victim]) -> list[Acted]:
    until = monotonic() + LONGEST
    one = partial(_act, wanted, user=request.user.pk, actor=request.user.get_username(), until=until)
    if len(victims) == 1:
        return [one(victims[0])]
    with ThreadPoolExecutor(min(len(victims), AT_ONCE), name=f"dbpool: {wanted.name}") as executor:
        return list(executor.map(one, victims))


def _act(wanted: Wanted, victim: Victim, *, user: Any, actor: str, until: float) -> Acted:
    if monotonic() >= until:
        return Acted(FAILED, "It was not begun: those before it did not answer. Ask for it again.", 0.0)
    key = _key(victim)
    instance, arguments = _target(wanted.verb, key)
    # To look is nothing that the history of changes is about.
    change = f"{wanted.name}: {_told(victim)}"
    note = partial(posted.write_log_entry, user, key, _title(victim), change) if wanted.verb.confirmed else None
    try:
        return act(instance, wanted.name, actor=actor, note=note, timeout=EACH, **arguments)
    except ValueError as error:  # the store is anybody's who may write to it: there may be no such process or lease
        return Acted(FAILED, str(error), 0.0)


def _tell(request: HttpRequest, victims: Sequence[Victim], done: Sequence[Acted]) -> None:
    """Of one what came of it, of several how many it was done to, and in full of those where it wasn't."""
    if len(done) > 1 and (well := Counter(acted.outcome for acted in done)["done"]):
        text = ngettext("Done to %(count)s of %(all)s.", "Done to %(count)s of %(all)s.", well)
        messages.success(request, text % {"count": well, "all": len(done)}, fail_silently=True)
    for victim, acted in zip(victims, done, strict=True):
        level, words = OUTCOMES.get(acted.outcome, OUTCOMES["failed"])
        if len(done) == 1 or not acted.done:
            messages.add_message(request, level, f"{_title(victim)}: {words} {acted.text}", fail_silently=True)


def _key(victim: Victim) -> str:
    return victim.instance if isinstance(victim, ProcessRow) else victim.key


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
