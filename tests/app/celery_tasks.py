"""The code of docs/celery.md."""

from __future__ import annotations

from typing import Any

from celery import Celery
from django.db import models
from django.db.models import F

from django_dbpool.batch import BatchProgress, RunStatus, outbox
from django_dbpool.contrib.celery import BatchTask, DatabaseTask, batch_task
from tests.app.models import Item, Log

app = Celery("shop", set_as_current=False)


@app.task(base=DatabaseTask, idempotent=True)
def recount(item_id: int) -> int:
    return Item.objects.filter(pk=item_id, n=0).update(n=7)


class CountItems(BatchTask):
    name = "shop.count_items"
    size, pause = 100, 0.1

    def get_queryset(self, name: str = "") -> models.QuerySet[Item]:
        return Item.objects.filter(name__startswith=name)

    def process_batch(self, items: list[Item], **kwargs: Any) -> None:
        Item.objects.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)


count_items = app.register_task(CountItems())


@batch_task(lambda name: Item.objects.filter(name__startswith=name), size=100)
def log_items(items: list[Item], name: str) -> None:
    Log.objects.bulk_create(Log(key=f"{name} {item.pk}") for item in items)


def count_together(parts: int) -> RunStatus:
    return count_items.fan_out(parts, name="item").get(timeout=3600)


class Announce(BatchTask):
    name = "shop.announce"

    def get_queryset(self, **kwargs: Any) -> models.QuerySet[Item]:
        return Item.objects.filter(n=0)

    def process_item(self, item: Item, **kwargs: Any) -> None:
        outbox.put("letter", {"name": item.name}, key=str(item.pk))

    def on_progress(self, progress: BatchProgress, **kwargs: Any) -> None:
        outbox.deliver("letter", print)
