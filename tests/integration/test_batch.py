"""Runs of batches: which rows, how often, and what is held."""

from __future__ import annotations


import pytest
from django.db.models import F

from django_dbpool.batch import run_batches
from django_dbpool.models import BatchCheckpoint, BatchRun
from tests.app.models import Item, Log

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


def fill(number: int) -> None:
    Item.objects.bulk_create(Item(name=f"item {n}") for n in range(number))


def count_up(items: list[Item]) -> None:
    Item.objects.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)
    Log.objects.bulk_create(Log(key=str(item.pk)) for item in items)


def assert_once(number: int) -> None:
    assert list(Item.objects.exclude(n=1)) == []
    assert Log.objects.count() == number


def test_every_row_once() -> None:
    fill(120)
    result = run_batches(Item.objects.all(), count_up)
    assert (result.reason, result.done, result.batches, result.total) == ("done", 120, 3, 120)
    assert_once(120)


def test_with_checkpoint() -> None:
    fill(120)
    result = run_batches(Item.objects.all(), count_up, checkpoint="a")
    assert (result.reason, result.done, result.batches) == ("done", 120, 3)
    assert_once(120)
    again = run_batches(Item.objects.all(), count_up, checkpoint="a")
    assert (again.reason, again.done, again.handled, again.resumed) == ("done", 120, 0, True)
    assert_once(120)
    assert BatchRun.objects.get().state == "done"
    assert BatchCheckpoint.objects.get().finished
