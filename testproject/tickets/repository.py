"""Where the shop reads."""

from __future__ import annotations

from django.db.models import F, FloatField
from django.db.models.expressions import RawSQL

from testproject.tickets.models import Event


class EventRepository:
    def on_sale(self) -> list[Event]:
        return list(Event.objects.filter(sold__lt=F("seats")))

    def seats_sold(self, *, seconds: float = 0.0) -> int:
        """The sum over all events; `seconds` make it as slow as a report over a large table."""
        slow = RawSQL("SELECT 0.0 FROM pg_sleep(%s)", [seconds], output_field=FloatField())
        events = Event.objects.annotate(slow=slow).values_list("sold", "slow")
        return sum(sold for sold, _ in events)
