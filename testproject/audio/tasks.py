"""The nightly task as it is now: batches of 50, each with a connection of its own, and only keys kept between them."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db.models import QuerySet

from django_dbpool.batch import BatchProgress
from django_dbpool.contrib.celery import BatchTask, DatabaseTask
from testproject.audio import cleaning, rhythm
from testproject.audio.models import Recording
from testproject.celery import app


class CleanUp(BatchTask):
    """Each message is a run of its own: every night there is one."""

    name = "audio.clean_up"
    size, pause = rhythm.SIZE, rhythm.PAUSE
    takeover_after = rhythm.TAKEOVER_AFTER

    def get_queryset(self, shelf: int, **kwargs: Any) -> QuerySet[Recording]:
        return cleaning.expired(shelf)

    def process_batch(self, items: list[Recording], **kwargs: Any) -> None:
        cleaning.forget(items)

    def on_progress(self, progress: BatchProgress, **kwargs: Any) -> None:
        cleaning.remove_files()


clean_up = app.register_task(CleanUp())


@shared_task(base=DatabaseTask, idempotent=True, name="audio.remove_files")  # type: ignore[untyped-decorator]
def remove_files() -> int:
    """Beat calls it every minute, for what a process that was killed has left."""
    return cleaning.remove_files()
