"""
Failures outside of views. No ``try`` around ``get_response`` sees them: Django wraps each middleware and makes what it
raises a response, 500 or, with ``DEBUG``, a technical page. It sends a signal before.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from ...errors import raised_in_request
from .failure import failure_of

_ATTRIBUTE = "_dbpool_uncaught"

# They describe the body that is replaced, or what caches may do with it.
_OF_THE_BODY = frozenset(
    {
        *("content-type", "content-length", "content-encoding", "content-language", "content-disposition"),
        *("etag", "last-modified", "expires", "cache-control", "vary"),
    }
)


def listen() -> None:
    """Idempotent."""
    got_request_exception.connect(_remember, dispatch_uid="django_dbpool.middleware")


def _remember(request: HttpRequest | None = None, **_: Any) -> None:
    error = sys.exc_info()[1]
    raised = raised_in_request.get()
    if request is None or raised is None or error is None or failure_of(error) is None:
        return
    raised.append(error)
    setattr(request, _ATTRIBUTE, error)


def error_behind(request: HttpRequest, response: HttpResponseBase, raised: list[BaseException]) -> BaseException | None:
    """The failure that this error response stands for, if there is one."""
    error: BaseException | None = request.__dict__.pop(_ATTRIBUTE, None)
    if response.status_code >= 500:
        return error
    if response.status_code == 400:
        return next((error for error in raised if _struck_session_save(error, request)), None)
    return None


def _struck_session_save(error: BaseException, request: HttpRequest) -> bool:
    """
    Whether it was raised while this request's session was saved. Django's store takes every DatabaseError there for
    "the session was deleted", which its middleware answers with 400 (``SessionInterrupted``), without the signal.
    """
    session = getattr(request, "session", None)
    traceback = error.__traceback__
    while session is not None and traceback is not None:
        frame: FrameType = traceback.tb_frame
        if frame.f_code.co_name in ("save", "asave") and frame.f_locals.get("self") is session:
            return True
        traceback = traceback.tb_next
    return False


def replace(old: HttpResponseBase, new: HttpResponse) -> HttpResponse:
    """Answer with ``new``, keeping what the other middleware added to ``old``: CORS and security headers, cookies."""
    for name, value in old.items():
        if name.lower() not in _OF_THE_BODY:
            new.headers.setdefault(name, value)
    new["Content-Length"] = str(len(new.content))  # CommonMiddleware, which does it, has had its turn
    new.cookies.update(old.cookies)
    # Not old.close(), which would also tell that the request is finished.
    new._resource_closers.extend(old._resource_closers)  # type: ignore[attr-defined]
    return new
