"""The task as it is now: a connection for one batch at a time, and none while letters are sent or in the pauses."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db.models import F, QuerySet

from django_dbpool.batch import BatchProgress, Message, idempotency_key, outbox
from django_dbpool.contrib.celery import BatchTask, DatabaseTask
from testproject.campaigns import rhythm, switches
from testproject.campaigns.models import Recipient
from testproject.campaigns.post import letter
from testproject.celery import app

TOPIC = "campaigns.letter"
CLAIM = 5
"""Seconds: after that somebody else may send a letter whose sender was killed."""


class SendCampaign(BatchTask):
    name = "campaigns.send"
    size, pause = rhythm.SIZE, rhythm.PAUSE
    takeover_after = rhythm.TAKEOVER_AFTER

    def get_checkpoint(self, campaign: int, **kwargs: Any) -> str:
        return f"campaign {campaign}"  # whoever starts it a second time starts nothing

    def get_queryset(self, campaign: int, **kwargs: Any) -> QuerySet[Recipient]:
        return Recipient.objects.filter(campaign=campaign, sent=0).select_related("campaign")

    def process_batch(self, items: list[Recipient], **kwargs: Any) -> None:
        Recipient.objects.filter(pk__in=[each.pk for each in items]).update(sent=F("sent") + 1)
        for each in items:
            if switches.has("outbox"):
                outbox.put(TOPIC, contents(each), key=idempotency_key(each))
            else:
                letter(**contents(each)).send()

    def on_progress(self, progress: BatchProgress, **kwargs: Any) -> None:
        deliver()


send_campaign = app.register_task(SendCampaign())


def deliver() -> int:
    """What is committed and not sent yet."""
    return outbox.deliver(TOPIC, send, claim=CLAIM).delivered


@shared_task(base=DatabaseTask, idempotent=True, name="campaigns.deliver")  # type: ignore[untyped-decorator]
def deliver_letters() -> int:
    """Beat calls it every minute, for what a process that was killed has left."""
    return deliver()


def send(message: Message) -> None:
    """At least once, and always with the same Message-ID: whoever gets it twice keeps one."""
    letter(**message.payload, key=message.key).send()


def contents(recipient: Recipient) -> dict[str, Any]:
    campaign = recipient.campaign
    return {"campaign": campaign.pk, "subject": campaign.subject, "address": recipient.address}
