"""
Leases that a reader has just ended, until their processes say so themselves.

What pages show is up to some seconds old: a lease that was ended would still stand there, as if nothing had happened.
Which ones were is kept by the browser, signed: it needs no database, and the next page may come from another process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from ..reports import Fleet, target_of

COOKIE = "dbpool_ended"
KEPT = 600
"""Seconds; a process that is silent may stand there for long."""
LONGEST = 3000
"""Characters; browsers refuse cookies of more than 4096 bytes."""


def remember(request: HttpRequest, response: HttpResponse, keys: Iterable[str], path: str) -> None:
    """
    Args:
        keys: of leases that were ended now, or were over already.
        path: of the pages that show it.
    """
    now = time.time()
    kept = list({**_remembered(request), **dict.fromkeys(keys, now)}.items())
    while kept and len(value := signing.dumps(kept, salt=COOKIE, compress=True)) > LONGEST:
        del kept[0]
    if kept:
        secure = settings.SESSION_COOKIE_SECURE
        response.set_cookie(COOKIE, value, KEPT, path=path, secure=secure, httponly=True, samesite="Lax")


def ended(request: HttpRequest, fleet: Fleet) -> frozenset[str]:
    """The keys of those of which their processes can't have told since."""
    told = {process.identity.instance: fleet.at - process.age for process in fleet.processes}
    return frozenset(key for key, at in _remembered(request).items() if told.get(target_of(key)[0], at + 1) <= at)


def _remembered(request: HttpRequest) -> dict[str, float]:
    try:
        return dict(signing.loads(request.COOKIES.get(COOKIE, ""), salt=COOKIE, max_age=KEPT))
    except signing.BadSignature:  # there is none, it is too old, or somebody else's
        return {}
