"""Reproduce an incident on Django's stock engine, and show that it is gone on ours."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from testproject.harness.interrupts import Interrupts, Stopped

# An app of the project per incident. Its module `incident` has TITLE, SWITCHES (what --without can switch off)
# and run(engines, without, interrupts, say), which returns a Report.
INCIDENTS = ["campaigns", "reports", "tickets", "webhooks"]
ENGINES = ["stock", "dbpool"]


class Command(BaseCommand):
    help = (
        "Reproduces an incident against a throw-away PostgreSQL of its own. Exit code 0: the stock engine "
        "failed by the error that was reported, and ours met its numbers, under the same load; 1: they did not; "
        "2: the run itself failed."
    )
    # The incident's processes use a server that does not run yet; this one asks no database at all.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("incident", choices=INCIDENTS, nargs="?")
        parser.add_argument("--list", action="store_true", help="list the incidents")
        parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both", help="default: %(default)s")
        parser.add_argument(
            "--without",
            action="append",
            default=[],
            metavar="SETTING",
            help="switch a setting of our engine off, to see what it is for; may be repeated",
        )
        parser.add_argument("--json", action="store_true", help="print the measured numbers as JSON")

    def handle(self, *args: Any, incident: str | None, engine: str, without: list[str], **options: Any) -> None:
        if options["list"]:
            for name in INCIDENTS:
                self.stdout.write(f"{name:<10}{_module(name).TITLE}")
            return
        if incident is None:
            raise CommandError(f"Which incident? One of: {', '.join(INCIDENTS)}.")
        module = _module(incident)
        if unknown := [name for name in without if name not in module.SWITCHES]:
            known = ", ".join(module.SWITCHES) or "none"
            raise CommandError(f"Incident {incident} can't run without {unknown[0]}; what it can do without: {known}.")

        def say(line: str) -> None:
            if not options["json"]:
                self.stderr.write(line)

        engines = ENGINES if engine == "both" else [engine]
        try:
            with Interrupts() as interrupts:
                report = module.run(engines, without, interrupts, say)
        except Stopped as stopped:
            sys.exit(stopped.exit_code)
        except RuntimeError as error:  # of the harness: a process or the server did not do what it was told
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(json.dumps(report.as_json(), indent=2) if options["json"] else "\n".join(report.story()))
        if not report.met:
            sys.exit(1)


def _module(incident: str) -> Any:
    return importlib.import_module(f"testproject.{incident}.incident")
