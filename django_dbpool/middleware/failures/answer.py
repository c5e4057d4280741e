"""The answer itself: a page for people, problem+json (RFC 9457) for programs."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import Context, Engine, loader
from django.utils import translation
from django.utils.cache import patch_vary_headers

from .failure import Failure
from .report import logger, new_reference, report

TEMPLATES = ("503.html", "django_dbpool/503.html")
TYPE = "urn:problem-type:django-dbpool:"
OURS = Path(__file__).parents[2] / "templates" / "django_dbpool" / "503.html"
INSTANCE = "urn:problem-instance:django-dbpool:"
REFERENCE_HEADER = "Error-Reference"

LONGEST = 120.0
"""Seconds; nobody is sent away for longer, whatever an error says: who comes too early is refused at once."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_JSON = ("application/problem+json", "application/json")


def respond(request: HttpRequest, failure: Failure, random: Callable[[], float]) -> HttpResponse:
    """
    Log the failure and answer it.

    Args:
        random: gives a number from 0 to 1.
    """
    reference = new_reference()
    report(request, failure, reference)
    seconds = _spread(failure.retry_after, random)
    with translation.override(_language(request)):
        response = (
            _json(failure, reference, seconds) if _wants_json(request) else _html(request, failure, reference, seconds)
        )
    response["Retry-After"] = str(seconds)
    response["Cache-Control"] = "no-store"
    response[REFERENCE_HEADER] = reference
    patch_vary_headers(response, ["Accept"])
    # Django would log it once more, as ERROR, and mail each to the admins.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _spread(seconds: float, random: Callable[[], float]) -> int:
    """
    Whole seconds, never fewer than asked for; up to a quarter more, or two, so that not all come back together.
    """
    least = max(1, math.ceil(min(seconds, LONGEST)))
    more = max(2, least // 4)
    return least + min(int(random() * (1 + more)), more)


def _json(failure: Failure, reference: str, seconds: int) -> HttpResponse:
    problem: dict[str, Any] = {
        "type": TYPE + failure.kind.slug,
        "title": str(failure.kind.title),
        "status": 503,
        "detail": str(failure.kind.detail),
        "instance": INSTANCE + reference,
        "reference": reference,
        "retry_after": seconds,
        "maybe_committed": failure.maybe_committed,
    }
    return JsonResponse(problem, status=503, content_type="application/problem+json")


def _html(request: HttpRequest, failure: Failure, reference: str, seconds: int) -> HttpResponse:
    context = {
        "title": failure.kind.title,
        "detail": failure.kind.detail,
        "kind": failure.kind.slug,
        "retry_after": seconds,
        "reference": reference,
        "was_sending": request.method not in _SAFE_METHODS,
        "maybe_committed": failure.maybe_committed,
        "language": translation.get_language() or settings.LANGUAGE_CODE,
        "bidi": translation.get_language_bidi(),
    }
    page, ours = _page(context)
    response = HttpResponse(page, status=503)
    if ours:
        response["Content-Security-Policy"] = _policy()
    return response


@cache
def _policy() -> str:
    """
    What our page needs, and nothing else: its style is in it, since static files may be where the trouble is, and a
    project's policy may forbid what is inline. A project's own page follows the project's policy.
    """
    (style,) = re.findall("<style>(.*?)</style>", OURS.read_text(encoding="utf-8"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'"


def _page(context: dict[str, Any]) -> tuple[str, bool]:
    """And whether it is ours."""
    try:
        template = loader.select_template(TEMPLATES)
        # Without the request: context processors read sessions and users, that is, the database.
        return str(template.render(context)), str(getattr(template, "origin", "")) == str(OURS)
    except Exception:  # noqa: BLE001  # whatever a project's page raises, its visitors get a page
        # Or there is no template engine that looks into applications.
        logger.debug("the page for 503 could not be rendered, ours is used", exc_info=True)
    engine = Engine(libraries={"i18n": "django.templatetags.i18n"})
    return engine.from_string(OURS.read_text(encoding="utf-8")).render(Context(context)), True


def _wants_json(request: HttpRequest) -> bool:
    """What the client prefers; without a preference, what it has sent itself."""
    if request.get_preferred_type(["text/html", *_JSON]) in _JSON:
        return True
    html = request.accepted_type("text/html")
    if html is not None and html.main_type == "text":
        return False
    # "*/*", or nothing that we have: other JSON, such as application/vnd.api+json?
    sent_json = (request.content_type or "").endswith("json")
    return sent_json or any(accepted.sub_type.endswith("json") for accepted in request.accepted_types)


def _language(request: HttpRequest) -> str:
    """
    LocaleMiddleware's choice; a thread that has not reached it in this request still has the language of another.
    """
    chosen: str | None = getattr(request, "LANGUAGE_CODE", None)
    if chosen is not None:
        return chosen
    if any("LocaleMiddleware" in name for name in settings.MIDDLEWARE):
        return translation.get_language_from_request(request)
    return translation.get_language() or settings.LANGUAGE_CODE
