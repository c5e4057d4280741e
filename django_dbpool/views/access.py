"""
Who may see what: everybody a status word; details a member of staff with the permission, or whoever has a bearer token.

A token is looked for first and needs neither a session nor a query, so it works with the database away. Where one is
sent it alone counts: a wrong one is refused though a member of staff sends it, or nobody would notice that it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest

from ..conf import project_config
from ..core.tokens import LONGEST, matches
from ..transaction import deadline, reserved

VIEW = "django_dbpool.view_connectionpool"
STRANGERS = "django_dbpool.view_strangers"

PATIENCE = 2.0
"""Seconds in which the database has to say who a session belongs to."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who may see details."""

    strangers: bool
    """Also sessions on the server that are none of this project's."""


class Denied(Exception):
    """
    Args:
        status: 401, nobody is known; 403, somebody is, and may not; 503, it can't be found out now.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def viewer_of(request: HttpRequest) -> Viewer:
    """
    Raises:
        Denied: it is nobody who may see details.
    """
    if sends_token(request):
        if has_token(request):
            return Viewer(strangers=True)
        raise Denied(401)
    try:
        # The pool may be exhausted, and the server may not answer: then a page says so, and soon.
        with reserved(), deadline(PATIENCE):
            return _of_staff(getattr(request, "user", None))
    except DatabaseError as error:
        raise Denied(503) from error


def _of_staff(user: Any) -> Viewer:
    if user is None or not user.is_authenticated:
        raise Denied(401)
    if not (user.is_active and getattr(user, "is_staff", False) and user.has_perm(VIEW)):
        raise Denied(403)
    return Viewer(strangers=user.has_perm(STRANGERS))


def sends_token(request: HttpRequest) -> bool:
    """Whether there is a header for bearer tokens, whatever is in it. Another scheme's belongs to somebody else."""
    return _header(request)[0].lower() == "bearer"


def has_token(request: HttpRequest) -> bool:
    """Whether the header has a token that DBPOOL["TOKENS"] knows."""
    scheme, token = _header(request)
    return scheme.lower() == "bearer" and is_known(token)


def _header(request: HttpRequest) -> tuple[str, str]:
    header = request.META.get("HTTP_AUTHORIZATION", "")
    scheme, _, rest = header[: 2 * LONGEST].partition(" ")
    return scheme, rest.strip(" ")


def is_known(token: str, encoding: str = "latin-1") -> bool:
    """
    Args:
        token: as somebody sent it.
        encoding: which gives back the bytes that were sent; WSGI and ASGI servers read headers as Latin-1.
    """
    try:
        sent = token.encode(encoding)
    except UnicodeEncodeError:
        return False
    return matches(sent, project_config().tokens)
