"""The base of what follows ``manage.py dbpool``."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any, ClassVar

from django.core.management.base import BaseCommand


class Subcommand:
    """
    One word after ``manage.py dbpool``. Output goes through the command, so that ``call_command(stdout=...)``,
    ``--no-color`` and a pipe are respected.
    """

    help: ClassVar[str]
    """One line for the list, and the first of its own help."""
    description: ClassVar[str] = ""
    """What follows the line in its own help."""

    def __init__(self, command: BaseCommand) -> None:
        self.stdout = command.stdout
        self.stderr = command.stderr
        self.style = command.style

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the sub-command's own options."""

    def run(self, **options: Any) -> int:
        """Do it; returns the exit code."""
        raise NotImplementedError
