"""The page for people: what is on it, and in which language. No server."""

from __future__ import annotations

import base64
import gettext
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.utils import translation

from django_dbpool.core.errors import Loss
from django_dbpool.errors import CommitUnknown, ConnectionLost, DatabaseUnavailable, PoolExhausted
from django_dbpool.middleware import DatabasePoolMiddleware
from django_dbpool.middleware.failures import failure
from django_dbpool.middleware.failures.failure import Kind
from tests.fixtures.answers import HTML, REFUSAL, answer

pytestmark = pytest.mark.usefixtures("templates")

KINDS = {kind.slug: kind for kind in vars(failure).values() if isinstance(kind, Kind)}


class Page(HTMLParser):
    """Tags with their attributes, and the text by the tag around it."""

    def __init__(self, response: HttpResponse) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.tags[-1][0] if self.tags else ""
        self.texts[tag] = self.texts.get(tag, "") + data


@pytest.mark.parametrize("error", [PoolExhausted(REFUSAL), DatabaseUnavailable(REFUSAL)], ids=repr)
def test_page_is_one_that_everybody_can_read(error: Exception) -> None:
    """One heading, a title, a language, light and dark; no script, nothing to be fetched."""
    response = answer(error, accept=HTML)
    page = Page(response)
    names = [tag for tag, _ in page.tags]
    assert (names[0], page.tags[0][1]["lang"]) == ("html", "en-us")
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert page.texts["h1"].strip() == page.texts["title"].strip() != ""
    assert page.texts["code"].strip().startswith(response["Error-Reference"])
    metas = {attributes.get("name"): attributes.get("content") for tag, attributes in page.tags if tag == "meta"}
    assert metas["color-scheme"] == "light dark"
    assert "width=device-width" in str(metas["viewport"])
    assert not {"script", "img", "link", "iframe", "form"} & set(names)
    assert not any(key in attributes for _, attributes in page.tags for key in ("src", "href", "onload", "style"))
    assert b"http" not in response.content


def test_page_warns_those_who_were_sending_something() -> None:
    notice = b"check whether it has arrived"
    assert notice not in answer(PoolExhausted(REFUSAL), "get").content
    assert notice in answer(PoolExhausted(REFUSAL), "post").content


@pytest.mark.parametrize("method", ["get", "post"])
def test_page_asks_nobody_to_load_again_what_may_have_been_done(method: str) -> None:
    """To load the answer to a form again sends the form again."""
    page = answer(CommitUnknown(REFUSAL, Loss("commit")), method).content
    assert b"Please look before you send it again" in page
    assert b"load this page again" not in page
    assert b"load this page again" in answer(ConnectionLost(REFUSAL, Loss("transaction")), method).content


def test_page_brings_the_policy_that_it_needs() -> None:
    """Its style is inline, which many projects forbid."""
    response = answer(PoolExhausted(REFUSAL))
    style = response.content.partition(b"<style>")[2].partition(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'"
    assert response["Content-Security-Policy"] == policy


def test_page_needs_no_template_settings_at_all() -> None:
    expected = answer(PoolExhausted(REFUSAL))
    with override_settings(TEMPLATES=[]):
        response = answer(PoolExhausted(REFUSAL))
    old, new = expected["Error-Reference"].encode(), response["Error-Reference"].encode()
    assert response.content == expected.content.replace(old, new)


def failing_processor(request: HttpRequest) -> dict[str, Any]:
    raise AssertionError("context processors read the session and the user, that is, the database")


def project_with(directory: Path, **pages: str) -> Any:
    for name, source in pages.items():
        (directory / f"{name}.html").write_text(source)
    return override_settings(
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [directory],
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": [f"{__name__}.failing_processor"]},
            }
        ]
    )


def test_project_may_have_a_page_of_its_own(tmp_path: Path) -> None:
    source = "{{ title }}|{{ retry_after }}|{{ reference }}|{{ kind }}|{{ request.user }}"
    with project_with(tmp_path, **{"503": source}):
        response = answer(PoolExhausted(REFUSAL))
    assert response.content.decode() == f"Very busy just now|1|{response['Error-Reference']}|busy|"
    assert "Content-Security-Policy" not in response


def test_projects_page_that_fails_is_replaced_by_ours(tmp_path: Path) -> None:
    with project_with(tmp_path, **{"503": "{% include 'no_such_template.html' %}"}):
        assert b"Very busy just now" in answer(PoolExhausted(REFUSAL)).content


# -- languages -------------------------------------------------------------------------------------------------------

LOCALE = override_settings(MIDDLEWARE=["django.middleware.locale.LocaleMiddleware"], LANGUAGE_CODE="en")


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.slug)
def test_german(kind: Kind) -> None:
    with translation.override("en"):
        english = (str(kind.title), str(kind.detail))
    with translation.override("de"):
        german = (str(kind.title), str(kind.detail))
    assert not set(english) & set(german)


def test_compiled_catalogue_is_the_one_that_people_edit() -> None:
    """Each text of django.po is in django.mo."""
    folder = Path(failure.__file__).parents[2] / "locale/de/LC_MESSAGES"
    with (folder / "django.mo").open("rb") as file:
        compiled = set(gettext.GNUTranslations(file)._catalog.values())
    source = (folder / "django.po").read_text(encoding="utf-8")
    texts = re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', source, re.MULTILINE)
    edited = {"".join(re.findall(r'"(.*)"', text)).replace("\\n", "\n") for text in texts}
    assert len(edited) > 15
    assert edited == compiled


def test_language_of_the_visitor_before_localemiddleware_had_its_turn() -> None:
    with LOCALE, translation.override("fr"):  # left over from another request in this thread
        response = answer(PoolExhausted(REFUSAL), "post", accept_language="de")
        assert translation.get_language() == "fr"
    text = response.content.decode()
    assert '<html lang="de">' in text
    for german in ("Gerade ist sehr viel los", "Bitte warten Sie", "Kennung", "bevor Sie es noch einmal senden"):
        assert german in text
    assert "Please" not in text


def test_language_that_localemiddleware_has_chosen() -> None:
    with LOCALE:
        request = RequestFactory().get("/", headers={"Accept-Language": "en"})
        request.LANGUAGE_CODE = "de"  # type: ignore[attr-defined]
        response = DatabasePoolMiddleware(lambda r: HttpResponse()).process_exception(request, PoolExhausted(REFUSAL))
    assert response is not None
    assert b'lang="de"' in response.content


def test_without_localemiddleware_the_visitor_is_not_asked() -> None:
    assert b'lang="en-us"' in answer(PoolExhausted(REFUSAL), accept_language="de").content


def test_right_to_left() -> None:
    with LOCALE:
        assert b'<html lang="ar" dir="rtl">' in answer(PoolExhausted(REFUSAL), accept_language="ar").content
