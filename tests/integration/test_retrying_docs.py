"""The samples of docs/retrying.md work; its lists are those of the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import RequestFactory

from django_dbpool import errors, transaction
from django_dbpool.core import sqlstate
from django_dbpool.transaction.verdict import is_harmless
from tests.app import booking
from tests.app.models import Item, Log

PAGE = (Path(__file__).resolve().parents[2] / "docs/retrying.md").read_text()


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}")[2].partition("\n## ")[0]


@pytest.mark.django_db(transaction=True)
def test_samples_run() -> None:
    seat = Item.objects.create(name="a").pk
    request = RequestFactory().post("/")
    calls: list[Callable[[], Any]] = [
        lambda: booking.book(seat),
        lambda: booking.book_all([seat]),
        lambda: booking.booking(request, seat),
        lambda: booking.Booking.as_view()(request, seat=seat),
        lambda: async_to_sync(booking.book_later)(seat),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert Item.objects.get().n == number
    booking.rename(seat, "b")
    booking.vacuum("app_item")
    assert async_to_sync(booking.count)() == 1
    assert [item.name for item in booking.front_page()] == ["b"]
    booking.refresh()
    assert Item.objects.get().n == 0
    assert [booking.book_from_form(seat, "key") for _ in range(2)] == [True, False]
    assert (Item.objects.get().n, Log.objects.count()) == (1, 1)


def test_signature() -> None:
    documented = re.search(r"`retrying\((.*)\)`\n", PAGE)
    assert documented is not None
    actual = inspect.signature(transaction.retrying).parameters.values()
    parts = [f"{each.name}={each.default!r}" for each in actual if each.name not in ("clock", "sleep", "random")]
    assert documented[1] == ", ".join([parts[0], "*", *parts[1:]])
    rows = re.findall(r"^\| (`.*?`) \|", section("`retrying`"), re.MULTILINE)
    assert [name.strip("`") for row in rows for name in row.split(", ")] == [each.name for each in actual]


def test_codes() -> None:
    documented = set(re.findall(r"\b[0-9][0-9A-Z]{4}\b", section("What is repeated"))) - {"08P01"}
    assert documented == sqlstate._TRANSIENT
    refused = set(re.findall(r"\b[0-9][0-9A-Z]{4}\b", section("What is never repeated")))
    assert not any(map(sqlstate.is_transient, refused))


def test_errors_exist() -> None:
    for name in re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", section("What")):
        assert hasattr(errors, name) or name in ("KeyboardInterrupt", "TestCase")


def test_harmless_statements() -> None:
    paragraph = re.search(r"committed\. (SELECT.*?) count", section("Without a transaction"), re.DOTALL)
    assert paragraph is not None
    for word in re.split(r", | and ", paragraph[1].replace("\n", " ")):
        assert is_harmless(word.replace("TO", "t TO STDOUT") + " x")
