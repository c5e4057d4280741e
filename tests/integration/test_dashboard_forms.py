"""What the address of actions makes of forms that no page has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.test import Client

from django_dbpool import acting, reports
from django_dbpool.admin import verbs
from tests.fixtures.dashboard import client_of, site, url

pytestmark = pytest.mark.django_db(databases=["default", "other"])

KEY = reports.key_of("a" * 16, "default", 1, 1)


@pytest.fixture(autouse=True)
def pages() -> Iterator[None]:
    with site(FLEET=None):
        yield


@pytest.fixture
def operator() -> Client:
    return client_of("operator")


def told(answer: Any) -> list[str]:
    """What the next page will say."""
    assert answer.status_code == 302
    return [str(message) for message in get_messages(answer.wsgi_request)]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"confirmed": "yes"},
        {"terminate": ""},
        {"terminate": "nonsense"},
        {"terminate": "a:b:c:d"},
        {"terminate": KEY.replace("1", "\u0661")},
        {"terminate": "a" * 16 + ":1:1:"},
        {"cancel": KEY, "terminate": KEY},
        {"terminate": "a" * 100_000},
        {"terminate": "selected", "selected": [KEY, "nonsense"]},
    ],
    ids=["nothing", "no verb", "empty", "no key", "no numbers", "other digits", "no alias", "two verbs", "long", "one"],
)
def test_what_is_no_action(data: dict[str, Any], operator: Client) -> None:
    answer = operator.post(url("action"), data)
    assert answer.status_code == 400
    assert answer["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([], "Nothing was selected"),
        ([reports.key_of("a" * 16, "default", number, 1) for number in range(51)], "At most 50"),
    ],
    ids=["nobody", "too many"],
)
def test_how_many_may_be_selected(
    keys: Sequence[str], text: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "read", None)  # they are not even looked for
    answer = operator.post(url("action"), {"terminate": "selected", "selected": keys, "confirmed": "yes"})
    (message,) = told(answer)
    assert text in message


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/", "//evil.example", "?x=1&y=2", "x=\r\nSet-Cookie: a", "\\x"],
    ids=["address", "host", "query", "header", "back slash"],
)
def test_nobody_is_sent_elsewhere(back: str, operator: Client) -> None:
    answer = operator.post(url("action"), {"terminate": KEY, "back": back})
    assert answer["Location"].startswith(url("holders"))
    assert "\n" not in answer["Location"]


def test_every_outcome_and_every_verb_has_words() -> None:
    assert set(verbs.OUTCOMES) == set(acting.OUTCOMES)
    assert set(verbs.VERBS) == set(acting.ACTIONS)
