"""Every role at every page of the dashboard by every method."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from django_dbpool import reports
from django_dbpool.models import BatchRun
from django_dbpool.reports import key_of
from tests.fixtures.api import publish
from tests.fixtures.dashboard import LET_IN, MAY_ACT, PAGES, REDIRECTED, ROLES, client_of, site, url

pytestmark = pytest.mark.django_db(databases=["default", "other"])

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
ACTIONS = ("action", "batch_action")
SITES = ("admin", "operators")
VICTIM = key_of("a" * 16, "default", 11, 3)
"""Of the process that `publish` puts into the table; it doesn't exist, and must not be looked for."""


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    with site():
        publish()
        yield


def expected(role: str, page: str, method: str) -> int:
    if role in REDIRECTED:
        return 302
    if role not in (MAY_ACT if page in ACTIONS else LET_IN):
        return 403
    if page == "batch" and method in ("GET", "HEAD"):
        return 404  # there is none of that name
    if page in ACTIONS:
        return {"GET": 302, "HEAD": 302, "POST": 200}.get(method, 405)
    return 200 if method in ("GET", "HEAD") else 405


@pytest.mark.parametrize("role", ROLES)
def test_who_gets_what(role: str) -> None:
    client = client_of(role)
    found, wanted = {}, {}
    BatchRun.objects.create(name="job", model="app.Item", key="id")
    forms = {"batch_action": urlencode({"cancel": reports.key_of_batch("default", "job")})}
    for page in (*PAGES, "batch", *ACTIONS):
        for method in METHODS:
            form = forms.get(page, f"terminate={VICTIM}")
            answer = client.generic(method, url(page), form, content_type="application/x-www-form-urlencoded")
            found[page, method] = answer.status_code
            wanted[page, method] = expected(role, page, method)
            if role in REDIRECTED:
                assert answer["Location"].startswith(reverse("admin:login"))
            elif answer.status_code != 403:
                assert "no-store" in answer["Cache-Control"]
    assert found == wanted


@pytest.mark.parametrize("role", ["viewer", "operate without view", "staff"])
def test_who_may_not_act_is_not_offered_to(role: str) -> None:
    client = client_of(role)
    for page in ("changelist", "holders", "processes"):
        assert b"data-action" not in client.get(url(page)).content


@pytest.mark.parametrize("page", ["changelist", "holders", "processes"])
def test_operators_are_offered_actions(page: str) -> None:
    assert b"data-action" in client_of("operator").get(url(page)).content


def test_index_shows_the_pages_to_those_who_may_see_them() -> None:
    index = reverse("admin:index")
    assert url().encode() in client_of("viewer").get(index).content
    assert url().encode() not in client_of("staff").get(index).content
    assert reverse("admin:app_list", args=["django_dbpool"]).encode() in client_of("superuser").get(index).content


def test_action_without_token_is_refused() -> None:
    client = client_of("superuser", csrf=True)
    client.get(url("holders"))
    for data in ({"terminate": VICTIM}, {"terminate": VICTIM, "confirmed": "yes"}):
        assert client.post(url("action"), data).status_code == 403
        assert client.post(url("action"), {**data, "csrfmiddlewaretoken": "x" * 64}).status_code == 403


def test_action_with_the_token_of_the_page_is_taken() -> None:
    client = client_of("superuser", csrf=True)
    token = client.get(url("holders")).context["csrf_token"]
    answer = client.post(url("action"), {"terminate": VICTIM, "csrfmiddlewaretoken": str(token)})
    assert answer.status_code == 200
    assert b'data-page="confirm"' in answer.content


@pytest.mark.parametrize("page", [*PAGES, "action"])
def test_pages_are_not_framed(page: str) -> None:
    """Also where the project has not installed the middleware that would say so."""
    client = client_of("superuser")
    answer = client.post(url(page), {"terminate": VICTIM}) if page == "action" else client.get(url(page))
    assert answer["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("name", SITES)
def test_links_stay_on_their_site(name: str) -> None:
    client = client_of("superuser")
    other = "/admin/" if name == "operators" else "/operators/"
    for page in PAGES:
        answer = client.get(url(page, name))
        assert answer.status_code == 200
        assert f'href="/{name}/django_dbpool/connectionpool/holders/'.encode() in answer.content
        assert f'="{other}'.encode() not in answer.content
    answer = client.post(url("action", name), {"terminate": VICTIM})
    assert f'="/{name}/django_dbpool/connectionpool/action/'.encode() in answer.content
    assert f'="{other}'.encode() not in answer.content
    assert client.get(url("action", name))["Location"] == url("holders", name)


def test_anonymous_come_back_after_the_log_in() -> None:
    User.objects.create_superuser("root", password="a password")
    client = Client()
    wanted = url("holders", q="reports")
    answer = client.get(wanted)
    answer = client.post(answer["Location"], {"username": "root", "password": "a password", "next": wanted})
    assert answer["Location"] == wanted
    assert client.get(wanted).status_code == 200


def test_there_are_no_other_pages_of_the_model() -> None:
    """Nothing is added, changed or deleted, and there is no history of rows that don't exist."""
    client = client_of("superuser")
    for path in ("add/", "1/change/", "1/delete/", "1/history/"):
        assert client.get(url() + path).status_code == 404
