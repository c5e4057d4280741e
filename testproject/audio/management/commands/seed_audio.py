"""Recordings and their files, the same at every run."""

from __future__ import annotations

import shutil
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from testproject.audio.models import Recording
from testproject.audio.store import files
from testproject.campaigns.folder import folder


class Command(BaseCommand):
    help = "Replaces the recordings: on each shelf there are so many that are to be removed, and one that is not."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--shelves", type=int, default=2)
        parser.add_argument("--recordings", type=int, default=300)

    def handle(self, *args: Any, shelves: int, recordings: int, **options: Any) -> None:
        where = files(folder())
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        with transaction.atomic():
            Recording.objects.all().delete()
            made = Recording.objects.bulk_create(
                Recording(shelf=shelf, file=f"{shelf}-{number}.ogg", expired=number < recordings)
                for shelf in range(shelves)
                for number in range(recordings + 1)
            )
        for each in made:
            (where / each.file).touch()
        self.stdout.write(f"{len(made)} recordings")
