"""The line in the log that a reference leads to."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from django.http import HttpRequest

from ...core.logs import get_logger
from ...errors import PoolError
from .failure import Failure

logger = get_logger("django_dbpool.request")

_NUMBERS = ("alias", "waited", "in_use", "max_size", "waiting", "holders")


def new_reference() -> str:
    """Short enough to be read out on the telephone."""
    return secrets.token_hex(4)


def report(request: HttpRequest, failure: Failure, reference: str, *, streamed: bool = False) -> None:
    """Log one failed request, with everything that its answer doesn't tell."""
    error = failure.error
    level = logging.WARNING if failure.is_expected else failure.kind.level
    logger.log(
        level,
        "%s %s %s, reference %s: %s",
        _escaped(request.method or "?"),
        _escaped(request.path),
        "was broken off" if streamed else "was answered 503",
        reference,
        _text(error),
        exc_info=error if failure.kind.traceback else None,
        extra={
            "reference": reference,
            "error_type": failure.name,
            "severity": "expected" if failure.is_expected else logging.getLevelName(level).lower(),
            "connection_terminated": failure.connection_terminated,
            "maybe_committed": failure.maybe_committed,
            "sqlstate": failure.sqlstate,
            "retry_after": failure.retry_after,
            "method": request.method,
            "path": request.path,
            "route": _route(request),
            "streamed": streamed,
            "request": request,
            "status_code": 200 if streamed else 503,
            **{name: getattr(error, name, None) for name in _NUMBERS},
        },
    )


def _text(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, PoolError) and error.__cause__ is not None:
        words = str(error.__cause__).strip()
        text += f" Cause: {type(error.__cause__).__name__}"
        text += f": {words}" if words not in text else ""  # most errors quote the driver
    return text


def _route(request: HttpRequest) -> Any:
    """None before the path was resolved, as in another middleware."""
    match = request.resolver_match
    return None if match is None else match.route


def _escaped(text: str) -> str:
    """No line of the log may be of a visitor's making."""
    return text.encode("unicode_escape").decode("ascii")
