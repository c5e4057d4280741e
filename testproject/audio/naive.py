"""
The nightly task as it was when the incident happened: an open cursor and one transaction for the whole operation.
"""

from __future__ import annotations

import time

from celery import shared_task
from django.db import transaction

from testproject.audio import store
from testproject.audio.models import Recording
from testproject.audio.rhythm import PAUSE, SIZE


@shared_task(name="audio.clean_up_naively", acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def clean_up(shelf: int) -> int:
    """Returns how many recordings were removed."""
    with transaction.atomic():
        number = 0
        expired = Recording.objects.filter(shelf=shelf, expired=True)
        for number, recording in enumerate(expired.iterator(), start=1):
            store.remove([recording.file])
            recording.delete()
            if number % SIZE == 0:
                time.sleep(PAUSE)
        return number
