"""Units of work: on behalf of which request does this code run? Only named when a report asks."""

from __future__ import annotations

from typing import Any

from django.core.signals import request_finished, request_started
from django.urls import Resolver404, resolve

from .core.ledger import current_unit


class RequestUnit:
    """A request, kept as method and path; its route is looked up when a report needs it."""

    __slots__ = ("method", "path")

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path

    def label(self) -> str:
        """For example ``GET /reports/7/ (reports/<int:pk>/)``."""
        try:
            route = resolve(self.path).route
        except Resolver404:
            route = ""
        return f"{self.method} {self.path} ({route})" if route else f"{self.method} {self.path}"


def _begin(environ: dict[str, Any] | None = None, scope: dict[str, Any] | None = None, **_: Any) -> None:
    if environ is not None:
        unit = RequestUnit(environ.get("REQUEST_METHOD", "?"), environ.get("PATH_INFO", "/"))
    elif scope is not None:
        unit = RequestUnit(scope.get("method", "?"), scope.get("path", "/"))
    else:
        return
    current_unit.set(unit)


def _end(**_: Any) -> None:
    current_unit.set(None)


def track_requests() -> None:
    """Label leases with the request they serve. Idempotent."""
    request_started.connect(_begin, dispatch_uid="django_dbpool.units.begin")
    request_finished.connect(_end, dispatch_uid="django_dbpool.units.end")
