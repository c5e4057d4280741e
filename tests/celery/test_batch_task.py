"""``BatchTask`` where no worker is needed: called eagerly, as tests of a project do."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.db import transaction

from django_dbpool.batch import BatchRefused
from django_dbpool.contrib.celery import BatchTask, batch_task
from django_dbpool.models import BatchRun
from tests.app.models import Item, Log
from tests.fixtures.batches import assert_once, count_up, fill

pytestmark = pytest.mark.django_db(transaction=True)


class CountUp(BatchTask):
    name = "count_up"
    size = 10

    def get_queryset(self, **kwargs: int) -> Any:
        return Item.objects.filter(**kwargs)

    def process_batch(self, items: list[Item], **kwargs: Any) -> None:
        count_up(items)


@pytest.fixture
def app() -> Celery:
    app = Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    return app


def test_a_class_with_get_queryset_and_process_batch(app: Celery) -> None:
    """Its arguments go to both; what it returns a result backend can keep."""
    fill(25)
    Item.objects.create(name="not meant", n=7)
    task = app.register_task(CountUp())
    answer = task.delay(n=0).get()
    assert (answer["reason"], answer["done"], answer["batches"], answer["total"]) == ("done", 25, 3, 25)
    assert Item.objects.get(name="not meant").n == 7
    Item.objects.filter(n=7).delete()
    assert_once(25)


def test_each_message_is_a_run_and_a_name_is_one(app: Celery) -> None:
    """Two calls do the rows twice; two of the same name once, whoever delivers the second."""
    fill(3)
    task = app.register_task(CountUp())
    task.delay()
    task.delay()
    assert set(Item.objects.values_list("n", flat=True)) == {2}
    task.delay(run="letters 7")
    again = task.delay(run="letters 7").get()
    assert (again["reason"], again["handled"], again["done"]) == ("done", 0, 3)
    assert set(Item.objects.values_list("n", flat=True)) == {3}
    assert BatchRun.objects.filter(state="done").count() == 3


def test_functions_that_are_decorated(app: Celery) -> None:
    fill(5)

    @app.task(shared=False, base=BatchTask, bind=True, get_queryset=lambda self, **kwargs: Item.objects.all(), size=2)
    def bound(self: BatchTask, items: list[Item], word: str = "") -> None:
        Log.objects.bulk_create(Log(key=f"{self.name} {word} {len(items)}") for _ in range(1))

    @batch_task(lambda word: Item.objects.filter(n=0), name="plain", size=3)
    def plain(items: list[Item], word: str) -> None:
        Log.objects.create(key=f"{word} {len(items)}")

    bound.apply(kwargs={"word": "a"}, throw=True)
    plain.apply(kwargs={"word": "b"}, throw=True)
    keys = list(Log.objects.order_by("pk").values_list("key", flat=True))
    assert keys == [f"{bound.name} a 2"] * 2 + [f"{bound.name} a 1", "b 3", "b 2"]


def test_items_one_by_one(app: Celery) -> None:
    class Each(BatchTask):
        name = "each"

        def get_queryset(self) -> Any:
            return Item.objects.all()

        def process_item(self, item: Item) -> None:
            count_up([item])

    fill(4)
    assert app.register_task(Each()).delay().get()["done"] == 4
    assert_once(4)


def test_refused_in_a_transaction(app: Celery) -> None:
    fill(1)
    task = app.register_task(CountUp())
    with transaction.atomic(), pytest.raises(BatchRefused):
        task.delay()
    assert task(run="by hand")["done"] == 1
    assert_once(1)
