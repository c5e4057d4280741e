"""The nightly task as it is now: batches of 50, each with a connection of its own, and only keys kept between them."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from django_dbpool.batch import BatchRunTaken, Message, idempotency_key, outbox, run_batches
from testproject.audio import store
from testproject.audio.models import Recording
from testproject.audio.rhythm import PAUSE, SIZE

TOPIC = "audio.remove"
CLAIM = 5
"""Seconds: after that somebody else may remove files whose remover was killed."""


@shared_task(name="audio.clean_up", bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=None)  # type: ignore[untyped-decorator]
def clean_up(self: Any, shelf: int) -> int:
    """Returns how many recordings were removed."""

    def remove(recordings: list[Recording]) -> None:
        Recording.objects.filter(pk__in=[each.pk for each in recordings]).delete()
        # The files go once it is certain that nobody will ask for them any more.
        outbox.put(TOPIC, {"files": [each.file for each in recordings]}, key=idempotency_key(recordings[0]))

    try:
        return run_batches(
            Recording.objects.filter(shelf=shelf, expired=True),
            remove,
            checkpoint=f"audio shelf {shelf}",
            size=SIZE,
            pause=PAUSE,
            takeover_after=2,
            on_progress=lambda progress: remove_files(),
        ).done
    except BatchRunTaken as error:
        raise self.retry(exc=error, countdown=1) from error


@shared_task(name="audio.remove_files")  # type: ignore[untyped-decorator]
def remove_files() -> int:
    """Files of recordings that are gone; to be called every minute, for what a process that was killed has left."""
    return outbox.deliver(TOPIC, _remove, claim=CLAIM).delivered


def _remove(message: Message) -> None:
    store.remove(message.payload["files"])
