"""
Answers that nobody keeps, frames or sniffs; errors as problem+json (RFC 9457) that tell nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import add_never_cache_headers

R = TypeVar("R", bound=HttpResponseBase)

POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

RETRY_AFTER = "5"
"""Seconds, where it can't be found out who asks."""


def sealed(response: R, policy: str = POLICY) -> R:
    """The same with the headers that every answer has."""
    # "no-store" alone is not enough: Django's UpdateCacheMiddleware keeps what isn't "private" in older versions, and
    # gives it to the next one who asks.
    add_never_cache_headers(response)
    response["Content-Security-Policy"] = policy
    response["X-Frame-Options"] = "DENY"
    response["X-Content-Type-Options"] = "nosniff"
    response["Referrer-Policy"] = "no-referrer"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response


def answer(values: Mapping[str, Any], status: int = 200, content_type: str = "application/json") -> HttpResponse:
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return sealed(HttpResponse(text, status=status, content_type=content_type))


def problem(status: int, detail: str | None = None, **more: Any) -> HttpResponse:
    """Without a detail the answer is the same for everybody who gets that status."""
    values: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    if detail is not None:
        values["detail"] = detail
    return answer({**values, **more}, status, "application/problem+json")


def denied(status: int) -> HttpResponse:
    """
    Not a word about what is missing: the answer to a wrong token is that to none, whether or not there are tokens.
    """
    if status == 503:
        response = problem(503, "The database can't say who you are at the moment. A bearer token needs no database.")
        response["Retry-After"] = RETRY_AFTER
    else:
        response = problem(status)
    if status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="django_dbpool"'
    return response


def not_allowed(*methods: str) -> HttpResponse:
    response = problem(405)
    response["Allow"] = ", ".join(methods)
    return response
