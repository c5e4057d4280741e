"""The orders that the webhooks' events are about, the same at every run."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from testproject.webhooks.deliveries import ORDERS, number_of
from testproject.webhooks.models import Booking, Event, Notice, Order


class Command(BaseCommand):
    help = "Replaces the data of the webhooks app by orders without events."

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            for model in (Notice, Booking, Event, Order):
                model._default_manager.all().delete()  # noqa: DBP301  # four of them
            made = Order.objects.bulk_create(Order(number=number_of(number)) for number in range(ORDERS))
        self.stdout.write(f"{len(made)} orders")
