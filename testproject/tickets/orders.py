"""Where the shop writes: a command and its handler."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import F

from django_dbpool.errors import CommitUnknown
from testproject.tickets.models import Event, Order
from testproject.tickets.resilience import resilient


class SoldOut(Exception):
    """The event has fewer seats left than were ordered."""


@dataclass(frozen=True)
class PlaceOrder:
    key: UUID
    event_id: int
    seats: int


def place_order(command: PlaceOrder) -> Order:
    """Take the seats and save the order, in one transaction; a key that is known returns its order.

    Raises:
        SoldOut: nothing was saved.
    """
    try:
        return _place(command)
    except CommitUnknown:
        # Nobody repeats that for us, since nobody knows whether it is there. The key does.
        return _place(command)


@resilient
def _place(command: PlaceOrder) -> Order:
    order, is_new = Order.objects.get_or_create(
        key=command.key, defaults={"event_id": command.event_id, "seats": command.seats}
    )
    if is_new:
        _take_seats(command)
    return order


def _take_seats(command: PlaceOrder) -> None:
    # Last, since it locks the row for which all buyers of the event wait.
    free = Event.objects.filter(pk=command.event_id, sold__lte=F("seats") - command.seats)
    if not free.update(sold=F("sold") + command.seats):
        raise SoldOut
