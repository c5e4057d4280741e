from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from testproject.audio import cleaning


class Command(BaseCommand):
    help = "Removes the recordings of a shelf whose time is up. Interrupted, it goes on where it was."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("shelf", type=int)

    def handle(self, *args: Any, shelf: int, **options: Any) -> None:
        result = cleaning.clean_up(shelf)
        self.stdout.write(f"shelf {shelf}: {result.done} removed, {result.reason}")
