"""
A page for whoever is called at night while the database is away and nobody can log in: this process, and the fleet as
it was when it could last be read. It needs no database, no session, no static file and no script.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine, Template
from django.utils import translation
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from .. import reports
from . import access
from .answers import sealed
from .endpoint import open_to_all

HOLDERS = 50
PROCESSES = 100
PROBLEMS = 20

LARGEST_FORM = 16 * 1024
"""Bytes, of a form with one field."""

FORM = "application/x-www-form-urlencoded"

_TEMPLATES = Path(__file__).parent.parent / "templates"


@dataclass(frozen=True, slots=True)
class Reading:
    """One part of the page."""

    title: str
    word: str
    stale: str
    overview: reports.Overview
    problems: tuple[reports.Problem, ...]
    holders: reports.Page[reports.HolderRow]
    processes: reports.Page[reports.ProcessRow]
    more_holders: int
    more_processes: int


@sensitive_post_parameters("token")
def _status(request: HttpRequest) -> HttpResponse:
    """The page, to whoever has a token in the header; else a form that asks for it, and takes it in its body."""
    if request.method == "POST":
        return _posted(request)
    if not access.sends_token(request):
        return _page(status=401)
    return _page(_readings()) if access.has_token(request) else _page(status=401, refused=_("That is no valid token."))


@sensitive_variables()
def _posted(request: HttpRequest) -> HttpResponse:
    if request.content_type != FORM:
        return _page(status=415, refused=_("Send the form as it is."))
    if _length(request) > LARGEST_FORM:
        return _page(status=413, refused=_("That is no valid token."))
    if not access.is_known(request.POST.get("token", "").strip(), "utf-8"):
        return _page(status=401, refused=_("That is no valid token."))
    return _page(_readings())


def _length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:  # before Django 6.1 reading the form would raise it again
        return LARGEST_FORM + 1


status = open_to_all(_status, "GET", "HEAD", "POST")


def _readings() -> list[Reading]:
    found = [_reading(_("This process"), reports.own())]
    remembered = reports.remembered()
    if remembered is not None:
        found.append(_reading(_("All processes, as last read"), remembered))
    return found


def _reading(title: str, fleet: reports.Fleet) -> Reading:
    # Nobody has tried to read it now, so that it can't be read is not among what is wrong.
    overview = reports.overview(replace(fleet, source="fleet") if fleet.stale else fleet)
    holders, processes = reports.holders(fleet), reports.processes(fleet)
    stale = ""
    if fleet.stale:
        stale = _("Stale: this was read %(seconds)d seconds ago. What has changed since then is not seen here.")
        stale %= {"seconds": fleet.age}
    words = {"healthy": _("healthy"), "degraded": _("degraded"), "unhealthy": _("unhealthy")}
    return Reading(
        title=title,
        word=words[overview.status],
        stale=stale,
        overview=overview,
        problems=overview.problems[:PROBLEMS],
        holders=_first(holders, HOLDERS),
        processes=_first(processes, PROCESSES),
        more_holders=max(0, holders.total - HOLDERS),
        more_processes=max(0, processes.total - PROCESSES),
    )


def _page(readings: list[Reading] | None = None, *, status: int = 200, refused: str = "") -> HttpResponse:
    style, policy = _style()
    context = {
        "readings": readings,
        "refused": refused,
        "style": style,
        "language": translation.get_language() or settings.LANGUAGE_CODE,
        "bidi": translation.get_language_bidi(),
    }
    # Without localised numbers: those of a meter are for the browser.
    response = HttpResponse(_template().render(Context(context, use_l10n=False)), status=status)
    if status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="django_dbpool"'
    return sealed(response, policy)


@cache
def _template() -> Template:
    # Not the project's engine: that may know no applications, and its context processors read sessions and users.
    engine = Engine(dirs=[str(_TEMPLATES)], libraries={"i18n": "django.templatetags.i18n"})
    return engine.get_template("django_dbpool/status.html")


@cache
def _style() -> tuple[SafeString, str]:
    """The style sheet, and the policy that allows it and nothing else."""
    text = (_TEMPLATES / "django_dbpool" / "status.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return mark_safe(text), policy  # noqa: S308  # a file of ours


def _first(page: Any, most: int) -> Any:
    return type(page)(page.items[:most], page.number, page.pages, page.total, page.per_page)
