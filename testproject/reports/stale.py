"""Pages that are better old than missing: each one's last good answer is kept in Django's cache."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import wraps

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse

from django_dbpool.decorators import fallback

View = Callable[..., HttpResponse]

KEEP = 24 * 3600
"""Seconds after which no answer is better than an old one."""


def last_good(view: View) -> View:
    """For pages that are the same for everybody. The cache must not live in the same database."""

    @wraps(view)
    def remembering(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
        response = view(request, *args, **kwargs)
        if request.method == "GET" and response.status_code == 200:
            cache.set(_key(request), (time.time(), response.content, response["Content-Type"]), KEEP)
        return response

    return fallback(_stale)(remembering)


def _stale(error: Exception, /, request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    kept = cache.get(_key(request)) if request.method == "GET" else None
    if kept is None:
        raise error
    since, content, content_type = kept
    response = HttpResponse(content, content_type=content_type)
    response["Age"] = int(time.time() - since)
    return response


def _key(request: HttpRequest) -> str:
    varies = "\n".join([request.get_full_path(), request.headers.get("Accept", "")])
    return "last-good:" + hashlib.sha256(varies.encode()).hexdigest()
