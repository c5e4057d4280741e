"""
What is done with recordings whose time is up, whoever asks for it: a Celery task, a command, cron, a task of Django's.
"""

from __future__ import annotations

from django.db.models import QuerySet
from django.utils.timezone import localdate

from django_dbpool.batch import BatchResult, Message, idempotency_key, outbox, run_batches
from testproject.audio import store
from testproject.audio.models import Recording
from testproject.audio.rhythm import PAUSE, SIZE, TAKEOVER_AFTER
from testproject.campaigns import switches

TOPIC = "audio.remove"
CLAIM = 5
"""Seconds: after that somebody else may remove files whose remover was killed."""


def expired(shelf: int) -> QuerySet[Recording]:
    return Recording.objects.filter(shelf=shelf, expired=True)


def forget(recordings: list[Recording]) -> None:
    """A batch."""
    Recording.objects.filter(pk__in=[each.pk for each in recordings]).delete()
    files = [each.file for each in recordings]
    if switches.has("outbox"):
        # They go once it is certain that nobody will ask for them any more.
        outbox.put(TOPIC, {"files": files}, key=idempotency_key(recordings[0]))
    else:
        store.remove(files)


def remove_files() -> int:
    """Those of recordings that were forgotten."""
    return outbox.deliver(TOPIC, _remove, claim=CLAIM).delivered


def _remove(message: Message) -> None:
    """At least once; a file that is gone can't go again."""
    store.remove(message.payload["files"])


def clean_up(shelf: int) -> BatchResult:
    """Once a day; what a killed process has begun, the same call goes on with."""
    return run_batches(
        expired(shelf),
        forget,
        checkpoint=f"clean up shelf {shelf}, {localdate()}",
        size=SIZE,
        pause=PAUSE,
        takeover_after=TAKEOVER_AFTER,
        on_progress=lambda progress: remove_files(),
    )
