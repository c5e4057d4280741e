"""What the address of a page asks for: filters, pages of lists, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import reports
from ..core.words import one_line

LONGEST_KEY = 1000
"""Characters by which a page names a lease, a process or a run; more than that is not read."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several in a filter."""

    value: str
    label: Any
    chosen: bool


def chosen(request: HttpRequest, name: str, values: Mapping[str, Any]) -> tuple[Choice, ...]:
    """The options of a filter, "all" first. An unknown value in the address stays, and finds nothing: no surprise."""
    now = text(request, name)
    options = {"": _("all"), **values}
    if now not in options:
        options[now] = now
    return tuple(Choice(value, label, value == now) for value, label in options.items())


def text(request: HttpRequest, name: str) -> str:
    return one_line(request.GET.get(name, ""), 200)


def number(request: HttpRequest, name: str = "page") -> int:
    """Of a page. What is none is the first."""
    given = request.GET.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 9 else 1


def link(request: HttpRequest, name: str, page: int) -> str:
    """The same address with another number of a page."""
    query = request.GET.copy()
    query[name] = str(page)
    return f"?{query.urlencode()}"


def paged(request: HttpRequest, page: reports.Page[Any], name: str = "page") -> dict[str, Any]:
    """A page of a list with its neighbours' addresses."""
    return {
        "items": page.items,
        "page": page,
        "previous": link(request, name, page.number - 1) if page.has_previous else None,
        "next": link(request, name, page.number + 1) if page.has_next else None,
    }
