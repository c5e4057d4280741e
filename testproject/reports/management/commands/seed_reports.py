"""Fill the reports app with the same data at every run."""

from __future__ import annotations

import datetime as dt
import itertools
import random
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection, transaction

from testproject.reports.models import Entry, Region, Report

FIRST_WORDS = ["Upper", "Lower", "North", "South", "East", "West"]
SECOND_WORDS = ["Alder", "Birch", "Ford", "Heath", "Lake", "Marsh", "Mill", "Quarry", "Ridge", "Vale"]
QUARTERS = [dt.date(2025, month, 1) for month in (1, 4, 7, 10)]
CURRENCIES = ["EUR", "USD", "GBP", "SEK"]


class Command(BaseCommand):
    help = "Replaces the data of the reports app by sixty regions with four quarterly reports each."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--entries", type=int, default=25, help="entries of each report (default: %(default)s)")

    def handle(self, *args: Any, entries: int, **options: Any) -> None:
        with transaction.atomic():
            _empty_tables()
            regions = Region.objects.bulk_create(
                Region(name=" ".join(words)) for words in itertools.product(FIRST_WORDS, SECOND_WORDS)
            )
            reports = Report.objects.bulk_create(
                Report(region=region, quarter=quarter, currency=CURRENCIES[number % len(CURRENCIES)])
                for number, region in enumerate(regions)
                for quarter in QUARTERS
            )
            made = Entry.objects.bulk_create(_entries_of(reports, entries), batch_size=2000)
        self.stdout.write(f"{len(regions)} regions, {len(reports)} reports, {len(made)} entries")


def _empty_tables() -> None:
    """Start the identities again as well: a report has the same address after every seed."""
    tables = [connection.ops.quote_name(model._meta.db_table) for model in (Entry, Report, Region)]
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY")


def _entries_of(reports: list[Report], number: int) -> list[Entry]:
    chance = random.Random(0)
    return [
        Entry(
            report=report,
            booked_on=report.quarter + dt.timedelta(days=chance.randrange(90)),
            amount=Decimal(chance.randrange(100, 1_000_000)) / 100,
        )
        for report in reports
        for _ in range(number)
    ]
