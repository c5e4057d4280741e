"""Campaigns and their recipients, the same at every run."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from testproject.campaigns.models import Campaign, Recipient


class Command(BaseCommand):
    help = "Replaces the data of the campaigns app by campaigns that nobody has got yet."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--campaigns", type=int, default=10)
        parser.add_argument("--recipients", type=int, default=60)

    def handle(self, *args: Any, campaigns: int, recipients: int, **options: Any) -> None:
        with transaction.atomic():
            Campaign.objects.all().delete()
            made = Campaign.objects.bulk_create(
                Campaign(pk=number, subject=f"News {number}") for number in range(1, campaigns + 1)
            )
            Recipient.objects.bulk_create(
                Recipient(campaign=campaign, address=f"{campaign.pk}-{number}@customer.example")
                for campaign in made
                for number in range(recipients)
            )
        self.stdout.write(f"{len(made)} campaigns")
