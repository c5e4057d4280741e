"""What is posted by those who act: who may, what counts as asking, where it leads back to, and how it is noted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import PermissionDenied
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    QueryDict,
)
from django.utils.translation import gettext as _

from ..models import ConnectionPool

if TYPE_CHECKING:
    from .model_admin import ConnectionPoolAdmin

Wanted = TypeVar("Wanted")

LONGEST_QUERY = 2000


def respond(
    admin: ConnectionPoolAdmin,
    request: HttpRequest,
    page: str,
    read: Callable[[QueryDict], Wanted],
    do: Callable[[ConnectionPoolAdmin, HttpRequest, Wanted], HttpResponse],
) -> HttpResponse:
    """
    The answer to a request for an action.

    Args:
        page: to which one is sent who has posted nothing.
        read: what the form asks for; a ValueError means that it asks for nothing.
        do: that, if it comes from somebody who may ask for it.
    """
    if not admin.has_operate_permission(request):
        raise PermissionDenied
    if request.method in ("GET", "HEAD"):  # behind a log-in, or typed: nobody has confirmed anything
        return HttpResponseRedirect(admin.url_of(page))
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        wanted = read(request.POST)
    except ValueError:
        return HttpResponseBadRequest(_("This is no action."), content_type="text/plain; charset=utf-8")
    return do(admin, request, wanted)


def back_to(admin: ConnectionPoolAdmin, page: str, filters: str) -> HttpResponseRedirect:
    """To the page it was asked for on, with its filters; never to another site."""
    query = urlsplit(f"?{filters.lstrip('?')}").query
    url = admin.url_of(page)
    return HttpResponseRedirect(f"{url}?{QueryDict(query).urlencode()}" if query else url)


def write_log_entry(user: Any, key: str, title: str, change: str) -> None:
    """A line of the history of changes, in the admin's index."""
    # Imported here: this module may be imported also where django.contrib.admin is no app, and has no models.
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=user,
        content_type_id=ContentType.objects.get_for_model(ConnectionPool).pk,
        object_id=key,
        object_repr=title[:200],
        action_flag=CHANGE,
        change_message=change,
    )
