"""
For balancers and orchestrators: everybody gets a word and a status code. Details are for whoever may see them, as long
as it takes no database to find out who that is.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse

from .. import health
from ..core.logs import get_logger
from . import access
from .answers import answer
from .endpoint import open_to_all

logger = get_logger("django_dbpool.health")


def _live(request: HttpRequest) -> HttpResponse:
    """That this process answers. It needs neither database nor thread, and no session is looked at."""
    found = health.live()
    try:
        details = access.has_token(request)
    except ImproperlyConfigured:  # a restart would not cure it
        details = False
    return _answer(found, details=details)


def _ready(request: HttpRequest) -> HttpResponse:
    """Whether requests that need the database should be sent to this process."""
    try:
        found = health.ready()
        return _answer(found, details=_may_see(request, ready=found.ok))
    except ImproperlyConfigured as error:  # nor can it be said who may see that
        logger.error("this process is not ready: %s", error)
        return answer({"status": NOT_READY}, 503)


NOT_READY = "not_ready"
"""Why is nobody's business: which password was refused, or that a server is away."""


def _answer(found: Any, *, details: bool) -> HttpResponse:
    values = found.to_json() if details else {"status": found.status if found.ok else NOT_READY}
    return answer(values, 200 if found.ok else 503)


def _may_see(request: HttpRequest, *, ready: bool) -> bool:
    if access.sends_token(request):
        return access.has_token(request)
    # Where the database is not ready it can't be asked whose session it is, and a probe must have its answer soon.
    if not ready:
        return False
    try:
        access.viewer_of(request)
    except access.Denied:
        return False
    return True


live = open_to_all(_live)
ready = open_to_all(_ready)
