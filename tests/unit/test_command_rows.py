"""
Which row is a command: one that is signed, for this process, in time, and new. Everything that its signature covers
makes a difference, nothing else does.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from django_dbpool.fleet import signing
from django_dbpool.fleet.commands import Inbox
from tests.fixtures.command_rows import FIELDS, NOW, TARGET, genuine, ids, judged


@pytest.mark.parametrize(
    ("row", "now", "reason"),
    [
        ({}, 1000, ""),
        ({"issued": NOW - 59_000, "expires": NOW + 1000}, 0, ""),
        ({"target": "f" * 16}, 1000, "for another process"),
        ({"verb": "holders"}, 1000, "no such command"),
        ({"verb": "status"}, 1000, "no such command"),
        ({"verb": "shell"}, 1000, "no such command"),
        ({}, 30_000, "expired"),
        ({}, 10**9, "expired"),
        ({"expires": NOW + 60_001}, 1000, "times are impossible"),
        ({"expires": NOW}, 0, "times are impossible"),
        ({"expires": NOW - 1}, 0, "times are impossible"),
        ({"issued": -(2**63), "expires": 2**63 - 1}, 1000, "times are impossible"),
        ({"issued": NOW + 5000}, 1000, "times are impossible"),
    ],
)
def test_what_is_signed_is_looked_at_nevertheless(row: dict[str, Any], now: int, reason: str) -> None:
    assert reason in judged(genuine(**row), NOW + now)
    assert bool(judged(genuine(**row), NOW + now)) is bool(reason)


def test_the_secret_and_its_predecessors() -> None:
    row = genuine()
    with override_settings(SECRET_KEY="another"):
        assert "not signed with our secret" in judged(row)
        mine = genuine()
        assert judged(mine) == ""
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=["old", "only-for-tests"]):
        assert judged(row) == "", "SECRET_KEY was changed while it was on its way"
    with override_settings(DBPOOL={"SECRET": "of-commands-alone-0123456789"}):
        assert "not signed" in judged(row)
        assert judged(own := genuine()) == ""
        assert "not signed" in judged(mine)
    assert "not signed" in judged(own)


def test_a_nonce_is_good_once_and_for_no_other_process() -> None:
    inbox, row = Inbox(TARGET), genuine()
    assert judged(row, inbox=inbox) == ""
    assert judged(row, inbox=inbox) == "", "the very row: its answer may not have been written"
    assert "obeyed already" in judged(row._replace(id=next(ids)), inbox=inbox)
    assert "for another process" in judged(row, inbox=Inbox("f" * 16))


def test_a_clock_that_goes_back_makes_nothing_valid_again() -> None:
    inbox, row = Inbox(TARGET), genuine()
    assert judged(row, NOW + 1000, inbox) == ""
    assert "expired" in judged(row._replace(id=next(ids)), NOW + 31_000, inbox)
    judged(genuine(issued=NOW + 40_000, expires=NOW + 60_000), NOW + 41_000, inbox)
    assert row.nonce not in inbox._known, "it is forgotten"
    assert "expired" in judged(row._replace(id=next(ids)), NOW + 1000, inbox)


def test_a_signature_of_something_else_is_none() -> None:
    """Of an answer, of the same characters with other borders, of another salt."""
    row = genuine()
    for forged in (
        signing.signature("answer", *row.signed()),
        signing.signature("command", row.target + row.verb, "", *row.signed()[2:]),
        signing.signature("command", *row.signed()[:-1]),
        signing.signature("command", *map(str, row.signed())),
        "",
        "é" * 64,
        "\ud800",
        row.signature.upper(),
        row.signature[:-1],
        row.signature + "\n",
    ):
        assert "not signed" in judged(row._replace(signature=forged)), forged


def nearly(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, near and far."""
    if isinstance(value, int):
        return st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-70_000, 70_000).map(lambda n: value + n))
    others = ["drain", "cancel", "terminate", "status", TARGET, "f" * 16, "{}", value[:-1], value * 2]
    return st.one_of(
        st.sampled_from(others),
        st.text(max_size=70),
        st.integers(0, max(0, len(value) - 1)).map(
            lambda at: value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :] if value else "x"
        ),
    )


@settings(max_examples=500)
@given(st.data())
def test_whatever_is_altered_it_is_genuine_no_more(data: st.DataObject) -> None:
    inbox, row = Inbox(TARGET), genuine()
    altered = row
    for name in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
        altered = altered._replace(**{name: data.draw(nearly(getattr(row, name)))})
    if altered == row:
        return
    assert judged(altered, inbox=inbox)
    assert judged(row, inbox=inbox) == ""
