"""The code of docs/batches.md."""

from __future__ import annotations

from typing import Literal

from django.db.models import F

from django_dbpool.batch import (
    BatchResult,
    FailedItem,
    Message,
    arun_batches,
    idempotency_key,
    outbox,
    run_batches,
    split,
)
from tests.app.models import Item


def count_up(items: list[Item]) -> None:
    Item.objects.filter(pk__in=[item.pk for item in items]).update(n=F("n") + 1)


def count_all() -> None:
    run_batches(Item.objects.filter(n=0), count_up, size=50, pause=0.1)


def count_once() -> BatchResult:
    return run_batches(Item.objects.all(), count_up, checkpoint="count items, November 2026")


def divide() -> int:
    return split(Item.objects.all(), 4, checkpoint="count items in parts")


def count_part(part: int) -> BatchResult:
    return run_batches(Item.objects.all(), count_up, checkpoint="count items in parts", part=part)


def decide(failed: FailedItem[Item]) -> Literal["raise", "skip"]:
    return "skip" if isinstance(failed.error, ValueError) else "raise"


def announce(items: list[Item]) -> None:
    for item in items:
        item.n += 1
        outbox.put("letter", {"name": item.name}, key=idempotency_key(item))
    Item.objects.bulk_update(items, ["n"])


def send(message: Message) -> None:
    print(message.payload["name"], message.key)


def announce_all() -> None:
    run_batches(
        Item.objects.all(),
        announce,
        checkpoint="letters 7",
        on_progress=lambda progress: outbox.deliver("letter", send),
    )


async def count_later() -> BatchResult:
    return await arun_batches(Item.objects.filter(n=0), count_up, pause=0.1)
