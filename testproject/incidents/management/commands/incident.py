"""Reproduce an incident on Django's stock engine, or show that it is gone on ours."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from testproject.harness.interrupts import Interrupts, Stopped

# An app of the project per incident, with a module `incident` that has add_arguments() and run().
INCIDENTS = ["reports"]


class Command(BaseCommand):
    help = (
        "Reproduces an incident against a throw-away PostgreSQL of its own. Exit code 0: the stock engine "
        "failed by the error that was reported, or ours met its numbers; 1: it did not."
    )
    # The incident's processes use a server that does not run yet; this one asks no database at all.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("incident", choices=INCIDENTS)
        parser.add_argument("--engine", choices=["stock", "dbpool"], required=True)
        parser.add_argument("--json", action="store_true", help="print the measured numbers as JSON")

    def handle(self, *args: Any, incident: str, engine: str, **options: Any) -> None:
        module = importlib.import_module(f"testproject.{incident}.incident")

        def say(line: str) -> None:
            if not options["json"]:
                self.stderr.write(line)

        try:
            with Interrupts() as interrupts:
                outcome = module.run(engine, interrupts, say)
        except Stopped as stopped:
            sys.exit(stopped.exit_code)
        if options["json"]:
            self.stdout.write(json.dumps(outcome.as_json(), indent=2))
        else:
            self.stdout.write("\n".join(outcome.story()))
        if not outcome.met:
            sys.exit(1)
