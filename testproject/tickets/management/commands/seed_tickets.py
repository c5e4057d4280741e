"""Fill the ticket shop with the same events at every run."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from testproject.tickets.models import Event, Order

NAMES = ["Brass Quartet", "Choir of the North", "Circus", "Comedy Night", "Jazz Trio", "Opera", "Poetry", "Puppets"]


class Command(BaseCommand):
    help = "Replaces the data of the ticket shop by eight events without orders."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seats", type=int, default=100_000, help="of each event (default: %(default)s)")

    def handle(self, *args: Any, seats: int, **options: Any) -> None:
        with transaction.atomic():
            Order.objects.all().delete()
            Event.objects.all().delete()
            made = Event.objects.bulk_create(Event(name=name, seats=seats) for name in NAMES)
        self.stdout.write(f"{len(made)} events")
