"""The task as it is now: a connection for one batch at a time, and none while letters are sent."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db.models import F

from django_dbpool.batch import BatchRunTaken, Message, idempotency_key, outbox, run_batches
from testproject.campaigns.models import Campaign, Recipient
from testproject.campaigns.post import letter
from testproject.campaigns.rhythm import PAUSE, SIZE

TOPIC = "campaigns.letter"
CLAIM = 5
"""Seconds: after that somebody else may send a letter whose sender was killed."""


@shared_task(name="campaigns.send", bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=None)  # type: ignore[untyped-decorator]
def send_campaign(self: Any, campaign: int) -> int:
    """Returns how many letters were sent."""
    subject = Campaign.objects.get(pk=campaign).subject

    def send(recipients: list[Recipient]) -> None:
        Recipient.objects.filter(pk__in=[each.pk for each in recipients]).update(sent=F("sent") + 1)
        for each in recipients:
            payload = {"campaign": campaign, "subject": subject, "address": each.address}
            outbox.put(TOPIC, payload, key=idempotency_key(each))

    try:
        return run_batches(
            Recipient.objects.filter(campaign=campaign, sent=0),
            send,
            checkpoint=f"campaign {campaign}",
            size=SIZE,
            pause=PAUSE,
            takeover_after=2,
            on_progress=lambda progress: deliver_letters(),
        ).done
    except BatchRunTaken as error:
        raise self.retry(exc=error, countdown=1) from error


@shared_task(name="campaigns.deliver")  # type: ignore[untyped-decorator]
def deliver_letters() -> int:
    """What is committed and not sent yet; to be called every minute, for what a process that was killed has left."""
    return outbox.deliver(TOPIC, _post, claim=CLAIM).delivered


def _post(message: Message) -> None:
    letter(**message.payload, key=message.key).send()
