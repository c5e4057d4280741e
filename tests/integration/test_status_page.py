"""The page that needs no database: who gets it, how a browser gets it, and what stands in it."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import connections
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from django_dbpool import reports
from tests.fixtures.api import MIDDLEWARE, NON_ASCII, POOL, ROLES, TOKEN, client_of, hostile, publish, site

pytestmark = pytest.mark.django_db(databases=["default", "other"])

URL = "/dbpool/status"


@pytest.fixture(autouse=True)
def endpoints() -> Iterator[None]:
    with site():
        yield


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, and the text that is read."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.style = ""
        self._inside: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["style"]:
            self.style += data
        else:
            self.text += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def page(response: Any) -> Page:
    return Page(response.content)


def send(token: str | bytes, **options: Any) -> Any:
    """As a browser sends the form."""
    body = token if isinstance(token, bytes) else token.encode()
    quoted = "".join(f"%{byte:02x}" for byte in body)
    client = Client(enforce_csrf_checks=True)
    return client.post(URL, f"token={quoted}", content_type="application/x-www-form-urlencoded", **options)


def test_without_a_token_there_is_a_form() -> None:
    response = Client().get(URL)
    found = page(response)
    assert response.status_code == 401
    assert ("form", {"method": "post"}) in found.elements, "to this very address"
    (field,) = [attributes for tag, attributes in found.elements if tag == "input"]
    assert (field["name"], field["type"], field["autocomplete"]) == ("token", "password", "current-password")
    assert "table" not in found.tags and "role" not in field


@pytest.mark.parametrize("token", [TOKEN, NON_ASCII, f" {TOKEN}\n"])
def test_the_form_is_answered_with_the_page(token: str) -> None:
    publish()
    reports.read()
    response = send(token)
    found = page(response)
    assert response.status_code == 200
    assert "This process" in found.text and "All processes, as last read" in found.text
    assert "form" not in found.tags
    assert TOKEN not in response.content.decode(), "who reads over a shoulder, or saves the page, doesn't get it"
    assert not response.cookies


@pytest.mark.parametrize(
    "token",
    ["", "wrong", TOKEN + "x", f"Bearer {TOKEN}", b"\xff\xfe", b"\0", "x" * 5000, b"%" * 100],
    ids=lambda token: repr(token[:10]),
)
def test_another_token_is_refused(token: str | bytes) -> None:
    response = send(token)
    found = page(response)
    assert response.status_code == 401
    assert "That is no valid token." in found.text and "form" in found.tags and "table" not in found.tags
    assert "wrong" not in found.text


def test_a_form_of_another_kind() -> None:
    client = Client()
    assert client.post(URL, {"token": TOKEN}).status_code == 415, "multipart would be written to files"
    assert client.post(URL, {"token": TOKEN}, content_type="application/json").status_code == 415
    assert client.post(URL, TOKEN, content_type="text/plain").status_code == 415
    form = "application/x-www-form-urlencoded"
    assert client.post(URL, "token=" + "x" * 20_000, content_type=form).status_code == 413
    assert client.post(URL, "x=", content_type=form).status_code == 401
    assert client.post(URL, "x=", content_type=form, CONTENT_LENGTH="many").status_code == 413
    assert client.post(f"{URL}?token={TOKEN}", "x=", content_type=form).status_code == 401
    assert client.post(URL, f"other={TOKEN}", content_type=form).status_code == 401


@pytest.mark.parametrize("role", ROLES)
def test_a_session_is_never_enough(role: str) -> None:
    """Nor is it looked at: the database may be away."""
    client = client_of(role)
    with CaptureQueriesContext(connections["default"]) as queries:
        response = client.get(URL)
    assert response.status_code == (200 if role == "token" else 401)
    assert len(queries) == 0
    assert not response.wsgi_request.session.accessed
    assert client.post(URL, "token=", content_type="application/x-www-form-urlencoded").status_code == 401


def test_another_site_can_do_nothing_with_it() -> None:
    """It needs no CSRF token, and with CSRF_USE_SESSIONS would need a session."""
    with override_settings(CSRF_USE_SESSIONS=True):
        response = send(TOKEN, headers={"Origin": "https://evil.example", "Referer": "https://evil.example/"})
        assert response.status_code == 200, "whoever has the token can just ask"
        assert response["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
        assert response["Cross-Origin-Resource-Policy"] == "same-origin"
    for role in ("superuser", "viewer"):
        response = client_of(role).post(URL, "token=", content_type="application/x-www-form-urlencoded")
        assert response.status_code == 401


def test_its_policy_allows_its_style_and_nothing_else() -> None:
    for response in (Client().get(URL), send(TOKEN)):
        found = page(response)
        digest = base64.b64encode(sha256(found.style.encode()).digest()).decode()
        policy = response["Content-Security-Policy"]
        assert policy == (
            f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; "
            "frame-ancestors 'none'"
        )
        assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "svg", "a"}
        for tag, attributes in found.elements:
            assert not {"style", "src", "href", "action", "srcdoc"} & set(attributes), (tag, attributes)
            assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert "url(" not in found.style and "@import" not in found.style


def test_what_it_shows() -> None:
    publish()
    reports.read()
    text = " ".join(page(send(TOKEN)).text.split())
    for shown in (
        "web-1:7",
        "GET /a/<int:pk>/",
        "SELECT %s",
        "idle in transaction",
        "pinned: SET",
        "2 / 4",
        "Stale: this",
    ):
        assert shown in text, text
    with override_settings(DBPOOL={"FLEET": None, "SOCKET": False, "TOKENS": [sha256(TOKEN.encode()).hexdigest()]}):
        assert "Stale" in page(send(TOKEN)).text, "it is what was read last"


def test_a_healthy_fleet_is_healthy() -> None:
    """Though what is shown is remembered: nobody has tried to read it for this page."""
    publish(pools=[{**POOL, "waiting": 0, "in_use": 0}], holders=[], sections={}, missed=None)
    reports.read()
    found = page(send(TOKEN))
    badges = [attributes["class"] for tag, attributes in found.elements if "badge" in (attributes.get("class") or "")]
    assert badges == ["badge healthy", "badge healthy"], found.text
    assert "can't be read" not in found.text and "Stale" in found.text


def test_long_lists_are_cut() -> None:
    for number in range(120):
        publish(f"{number:016}", host=f"web-{number}")
    reports.read()
    found = page(send(TOKEN))
    assert len([tag for tag, _ in found.elements if tag == "tr"]) < 400
    assert "and 70 more" in found.text and "and 20 more" in found.text
    assert len(send(TOKEN).content) < 300_000


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "'\"><img src=x onerror=alert(1)>",
        "</style></p><style>*{display:none}</style>",
        "{{ 7|add:7 }}{% debug %}",
        "&lt;b&gt;",
        "\u202e\u2028\0\x1b[2J\n",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_whatever_things_are_called(text: str) -> None:
    plain = page(send(TOKEN)).tags
    publish(**hostile(text))
    reports.read()
    response = send(TOKEN)
    found = page(response)
    assert response.status_code == 200
    added = {"h2", "h3", "ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "code", "meter", "strong"}
    assert found.tags - plain <= added
    shown = text if text.isprintable() else text[:0]
    assert shown in found.text
    assert not re.search("[\x00\x1b\u202e\u2028]", response.content.decode())
    assert len([tag for tag, _ in found.elements if tag == "style"]) == 1


def test_numbers_are_for_the_browser_whatever_the_language() -> None:
    publish(pools=[{**hostile("x")["pools"][0], "max_size": 3, "in_use": 1}])
    reports.read()
    with override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de"), translation.override("de"):
        found = page(send(TOKEN))
    values = [attributes["value"] for tag, attributes in found.elements if tag == "meter"]
    assert values and all(re.fullmatch(r"\d+(\.\d+)?", value or "") for value in values), values
    assert ("html", {"lang": "de"}) in found.elements


def test_a_project_without_templates_sessions_and_users() -> None:
    with override_settings(TEMPLATES=[], MIDDLEWARE=[], INSTALLED_APPS=["django_dbpool"]):
        assert send(TOKEN).status_code == 200
        assert Client().get(URL).status_code == 401
    assert MIDDLEWARE


def test_the_token_is_in_no_log_and_no_report(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an error while the page is made, with what Django mails to the admins."""
    from django.views.debug import ExceptionReporter

    def broken() -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(reports, "own", broken)
    client = Client(raise_request_exception=False)
    with caplog.at_level(logging.DEBUG):
        failed = client.post(URL, f"token={TOKEN}", content_type="application/x-www-form-urlencoded")
        header = client.get(URL, headers={"Authorization": f"Bearer {TOKEN}"})
    assert failed.status_code == header.status_code == 500
    assert TOKEN not in caplog.text + failed.content.decode() + header.content.decode()
    records = [record for record in caplog.records if record.exc_info]
    assert len(records) == 2
    for record in records:
        assert record.exc_info is not None
        text = ExceptionReporter(record.request, *record.exc_info).get_traceback_text()
        assert TOKEN not in text
