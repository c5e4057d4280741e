"""
The services through one door: the ORM, whose connections are leased and given back whatever happens.

Each event is worked off exactly once, or is recorded as failed. Events have keys, so all may be repeated.
"""

from __future__ import annotations

import logging

from django.db.models import F

from django_dbpool import threads, transaction
from testproject.webhooks import mail
from testproject.webhooks.deliveries import Delivery, UnknownOrder
from testproject.webhooks.models import Booking, Event, Notice, Order
from testproject.webhooks.switches import has

logger = logging.getLogger(__name__)

retrying = transaction.retrying(attempts=16 if has("retry") else 1)
"""For ten seconds: as long as the database may be away, as one that sleeps is until it has woken up."""


def accept(delivery: Delivery) -> bool:
    """
    Save the event and book it, in one transaction; an event that can't be booked is recorded as failed.

    Returns:
        Whether something is left to do for it. So it may be after it was delivered before: nobody knows then whether
        its follow-up was started.
    """
    event = _accept(delivery)
    if event.state == Event.State.FAILED:
        logger.error("event %s failed: %s", event.key, event.error, extra={"event": event.key, "kind": event.kind})
    return event.state == Event.State.RECEIVED


def start_follow_up(delivery: Delivery) -> None:
    """After the answer: give back what it leases, and log what it raises with the tags."""
    threads.spawn(
        follow_up, delivery.key, name="webhooks.follow_up", tags={"event": delivery.key, "kind": delivery.kind}
    )


def follow_up(key: str) -> None:
    try:
        delivery = Event.objects.get(key=key).delivery
        mail.tell(delivery.receiver, f"{delivery.kind} for {delivery.order}")  # nothing is leased meanwhile
        _finish(key)
    except Exception as error:
        _record_failure(key, error)
        raise


@retrying
def _accept(delivery: Delivery) -> Event:
    event, is_new = Event.objects.get_or_create(
        key=delivery.key,
        defaults={
            "kind": delivery.kind,
            "order": delivery.order,
            "receiver": delivery.receiver,
            "amount": delivery.amount,
        },
    )
    if is_new:
        try:
            with transaction.atomic():
                _book(event)
        except UnknownOrder as error:
            _fail(event, error)
    return event


def _book(event: Event) -> None:
    Booking.objects.create(event=event.key, amount=event.amount)
    if not Order.objects.filter(number=event.order).update(paid=F("paid") + event.amount):
        raise UnknownOrder(event.order)


@retrying
def _finish(key: str) -> None:
    event = Event.objects.select_for_update().get(key=key)
    if event.state == Event.State.RECEIVED:
        Notice.objects.create(event=key)
        event.state = Event.State.DONE
        event.save(update_fields=["state"])


@retrying
def _record_failure(key: str, error: Exception) -> None:
    event = Event.objects.select_for_update().get(key=key)
    if event.state == Event.State.RECEIVED:
        _fail(event, error)


def _fail(event: Event, error: Exception) -> None:
    event.state = Event.State.FAILED
    event.error = f"{type(error).__name__}: {error}"
    event.save(update_fields=["state", "error"])
