"""
The task as it was when the incident happened: one transaction, and with it one connection, for the whole campaign,
also while letters are sent and in the pauses.
"""

from __future__ import annotations

import time

from celery import shared_task
from django.db import transaction

from testproject.campaigns.models import Campaign, Recipient
from testproject.campaigns.post import letter
from testproject.campaigns.rhythm import PAUSE, SIZE


@shared_task(name="campaigns.send_naively", acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def send_campaign(campaign: int) -> int:
    """Returns how many letters were sent."""
    with transaction.atomic():  # everybody gets it, or nobody
        subject = Campaign.objects.get(pk=campaign).subject
        recipients = Recipient.objects.filter(campaign=campaign, sent=0).iterator(chunk_size=SIZE)
        number = 0
        for number, recipient in enumerate(recipients, start=1):
            letter(campaign, subject, recipient.address).send()
            recipient.sent += 1
            recipient.save(update_fields=["sent"])
            if number % SIZE == 0:
                time.sleep(PAUSE)  # the post office wants no more at a time
        return number
