"""What of a request has the reserve."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import RequestFactory

from django_dbpool.admin import reserved_view
from django_dbpool.core.admission import admission

pytestmark = pytest.mark.usefixtures("templates")


def has_reserve() -> bool:
    return admission.get().reserved


class Session(SessionBase):
    saved_with_reserve: bool | None = None

    def save(self, must_create: bool = False) -> None:
        self.saved_with_reserve = has_reserve()


def test_view_its_template_and_its_session_have_it() -> None:
    seen: dict[str, Any] = {}

    def view(request: HttpRequest) -> HttpResponse:
        seen["view"] = has_reserve()
        template = engines["django"].from_string("{{ asked }}")
        return TemplateResponse(request, template, {"asked": has_reserve})

    request = RequestFactory().get("/")
    request.session = Session()
    response = reserved_view(view)(request)
    assert seen["view"]
    assert response.content == b"True"
    request.session.save()  # as the middleware does behind the view
    assert request.session.saved_with_reserve
    assert not has_reserve()


def test_request_without_a_session() -> None:
    assert reserved_view(lambda request: HttpResponse())(RequestFactory().get("/")).status_code == 200


def test_view_keeps_what_it_is_marked_with() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    view.login_required = False  # type: ignore[attr-defined]
    assert reserved_view(view).login_required is False
    assert reserved_view(view).__name__ == "view"
