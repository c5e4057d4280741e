"""One declaration of an endpoint, from which its view and its part of the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ..transaction import deadline, reserved
from . import parameters
from .access import Denied, Viewer, viewer_of
from .answers import answer, denied, not_allowed, problem
from .parameters import Parameter

View = Callable[[HttpRequest], HttpResponse]

SAFE = ("GET", "HEAD")

PATIENCE = 8.0
"""Seconds that the store and all servers have together. Each has less; but there may be many, and all be frozen."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to know who may."""

    viewer: Viewer
    values: Mapping[str, Any]
    """Of every declared parameter."""
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    """Of the URL, in namespace ``django_dbpool``."""
    path: str
    summary: str
    answer: Mapping[str, Any]
    """The type of each field; ``schema`` knows which there are."""
    read: Callable[[Asked], Mapping[str, Any] | HttpResponse]
    """Gives exactly these fields, as JSON values; or an answer in another format."""
    parameters: tuple[Parameter, ...] = ()
    description: str = ""
    tag: str = "pools"


class _Every(Container[str]):
    """The aliases for which ATOMIC_REQUESTS is not meant, in a form that also has those that nobody thinks of."""

    def __contains__(self, alias: object) -> bool:
        return True


def open_to_all(view: View, *methods: str) -> View:
    """
    The view as Django and its middleware should take it: it does its own access control, needs no transaction, and
    changes nothing, so that there is nothing to be forged.

    Args:
        methods: those that it answers; GET and HEAD if none is given.
    """
    allowed = methods or SAFE

    @wraps(view)
    def checked(request: HttpRequest) -> HttpResponse:
        response = view(request) if request.method in allowed else not_allowed(*allowed)
        if request.method == "HEAD":  # else gunicorn logs a warning for each
            response["Content-Length"] = str(len(response.content))
            response.content = b""
        return response

    checked._non_atomic_requests = _Every()  # type: ignore[attr-defined]
    # Without it LoginRequiredMiddleware would ask the database who it is, and send programs to a log-in form.
    return csrf_exempt(login_not_required(checked))


def view_of(endpoint: Endpoint) -> View:
    def view(request: HttpRequest) -> HttpResponse:
        try:
            viewer = viewer_of(request)
            values = parameters.read(request.GET, endpoint.parameters)
        except Denied as refusal:
            return denied(refusal.status)
        except parameters.Invalid as invalid:
            return problem(400, "Some query parameters can't be used.", errors=dict(invalid.errors))
        with reserved(), deadline(PATIENCE):
            found = endpoint.read(Asked(viewer, values, request))
        return found if isinstance(found, HttpResponse) else answer(found)

    view.__name__ = view.__qualname__ = endpoint.name.replace("-", "_")
    view.__doc__ = endpoint.summary
    return open_to_all(view)
