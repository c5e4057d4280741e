"""The samples of docs/celery.md run, and it has every public name."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_dbpool.contrib import celery
from tests.app import celery_tasks
from tests.app.models import Item, Log
from tests.fixtures.batches import fill

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "celery.md").read_text()


@pytest.mark.django_db(transaction=True)
def test_samples() -> None:
    fill(3)
    assert celery_tasks.count_items(name="item 1")["done"] == 1
    assert celery_tasks.log_items.apply(kwargs={"name": "item"}).get()["done"] == 3
    assert Log.objects.count() == 3
    assert celery_tasks.recount(Item.objects.get(name="item 0").pk) == 1
    assert sorted(Item.objects.values_list("n", flat=True)) == [0, 1, 7]


def test_every_public_name_and_attribute_is_there() -> None:
    names = [name for name in celery.__all__ if f"{name}" not in PAGE and name != "reap"]
    attributes = [name for name in celery.BatchTask.__annotations__ if f"`{name}`" not in PAGE]
    assert (names, attributes) == ([], [])
