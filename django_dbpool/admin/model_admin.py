"""The pages' addresses, and who may see them."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import django
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.clickjacking import xframe_options_deny

from ..conf import fleet_config
from ..core.fleet import FleetConfig
from ..models import ConnectionPool
from ..reports import Fleet, read
from ..transaction import deadline
from . import actions, batch_actions, pages
from .reserving import View, reserved_view

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[ConnectionPool]
else:  # generic for the type checker alone
    ModelAdmin = admin.ModelAdmin

TEMPLATES = "admin/django_dbpool/connectionpool/"

PATIENCE = 8.0
"""
Seconds that databases have for a page, from the session on: less than live.js waits for one. Where a server is frozen
each look of each reader would else keep a thread, and the reserve, until it thaws.
"""

PATIENCE_OF_ACTIONS = 40.0
"""Longer than ``actions.LONGEST`` and what comes behind."""


class ConnectionPoolAdmin(ModelAdmin):
    """
    The dashboard. All that it shows has been published by the processes: beside the log-in there is one query.

    To see it needs ``django_dbpool.view_connectionpool``, to act ``django_dbpool.operate_connectionpool``.
    """

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("django_dbpool.view_connectionpool")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether this user may stop what others do."""
        return self.has_view_permission(request) and request.user.has_perm("django_dbpool.operate_connectionpool")

    def has_strangers_permission(self, request: HttpRequest) -> bool:
        """Whether this user may see the sessions of other programs."""
        return request.user.has_perm("django_dbpool.view_strangers")

    def get_urls(self) -> list[URLPattern]:
        return [
            path("", self._guarded(self.changelist_view), name="django_dbpool_connectionpool_changelist"),
            *(
                path(f"{name}/", self._guarded(self._view_of(name)), name=f"django_dbpool_connectionpool_{name}")
                for name in (*pages.PAGES, *pages.BEHIND)
                if name != "overview"
            ),
            path("action/", self._guarded(self.action_view, acts=True), name="django_dbpool_connectionpool_action"),
            path(
                "batches/do/",
                self._guarded(self.batch_action_view, acts=True),
                name="django_dbpool_connectionpool_batch_action",
            ),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return self._page(request, "overview", extra_context)

    def action_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a confirmation, or act."""
        return actions.respond(self, request)

    def batch_action_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a confirmation, or pause, resume or cancel a run of batches."""
        return batch_actions.respond(self, request)

    def _view_of(self, name: str) -> View:
        def view(request: HttpRequest) -> HttpResponse:
            return self._page(request, name)

        return view

    def _page(self, request: HttpRequest, name: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "HEAD"):
            return HttpResponseNotAllowed(["GET", "HEAD"])
        page = pages.PAGES.get(name) or pages.BEHIND[name]
        fleet = read(servers=page.asks_servers(request)) if page.about_fleet else None
        context = {**page.context(request, fleet), **(extra_context or {})}
        status = context.pop("status", 200)
        return self.render(request, name, page.title, context, fleet=fleet, live=True, tab=page.tab, status=status)

    def render(
        self,
        request: HttpRequest,
        name: str,
        title: Any,
        context: dict[str, Any],
        *,
        fleet: Fleet | None = None,
        live: bool = False,
        tab: str = "",
        status: int = 200,
    ) -> HttpResponse:
        """
        A page, finished.

        Args:
            name: of the page and its template.
            context: what the template shows beside tabs and breadcrumbs.
            fleet: whose source and age are told.
            live: whether the script keeps it up to date.
            tab: of a page behind another one: that one's name.
        """
        whole = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "is_nav_sidebar_enabled": False,  # tables need its width, and whoever is here is not on the way to a model
            "page": name,
            "tabs": self._tabs(),
            "above": next((each for each in self._tabs() if each["name"] == tab), None),
            "fleet": fleet,
            "live": live,
            "interval": _interval(),
            "holders_url": self.url_of("holders"),
            "action_url": self.url_of("action"),
            "batch_url": self.url_of("batch"),
            "batch_action_url": self.url_of("batch_action"),
            "back": request.GET.urlencode(),
            "listed_breadcrumbs": django.VERSION >= (6, 1),
            "may_operate": self.has_operate_permission(request),
            "may_see_strangers": self.has_strangers_permission(request),
            **context,
        }
        return TemplateResponse(request, f"{TEMPLATES}{name}.html", whole, status=status)

    def _tabs(self) -> list[dict[str, Any]]:
        return [{"name": name, "label": page.label, "url": self.url_of(name)} for name, page in pages.PAGES.items()]

    def url_of(self, name: str) -> str:
        """The address of a page on this site."""
        end = "changelist" if name == "overview" else name
        return reverse(f"admin:django_dbpool_connectionpool_{end}", current_app=self.admin_site.name)

    def _guarded(self, view: View, *, acts: bool = False) -> View:
        """As the admin guards its views, and so that they work when no ordinary connection is left, or end in time."""
        in_reserve = reserved_view(xframe_options_deny(self.admin_site.admin_view(view)))

        @wraps(in_reserve)
        def guarded(request: HttpRequest) -> HttpResponseBase:
            with deadline(PATIENCE_OF_ACTIONS if acts else PATIENCE):
                return in_reserve(request)

        # LoginRequiredMiddleware would load the user before, without the reserve. The admin sends to its own log-in.
        guarded.login_required = False  # type: ignore[attr-defined]
        # What is done in the middle of a transaction of the request would be undone with it: also the log of actions.
        guarded._non_atomic_requests = set(connections)  # type: ignore[attr-defined]
        return guarded


def _interval() -> float:
    """Seconds between two looks of the script; no faster than the processes publish."""
    try:
        return max(2.0, fleet_config().interval)
    except ImproperlyConfigured:  # the page says so with the processes
        return FleetConfig().interval
