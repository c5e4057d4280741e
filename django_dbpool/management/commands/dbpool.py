"""``manage.py dbpool <sub-command>``; each is a module of ``django_dbpool.management.subcommands``."""

from __future__ import annotations

import sys
from argparse import SUPPRESS
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from .. import subcommands
from ..subcommand import Subcommand


def found() -> dict[str, type[Subcommand]]:
    names = sorted(module.name for module in iter_modules(subcommands.__path__))
    return {name: import_module(f"{subcommands.__name__}.{name}").Subcommand for name in names}


class Command(BaseCommand):
    help = "Looks after the connection pools of this project."
    # check runs them itself, and the others must work where settings are at fault.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        # Behind the sub-command too, where everybody writes them. SUPPRESS: else their defaults would overwrite what
        # stands before it.
        common = CommandParser(add_help=False, argument_default=SUPPRESS)
        common.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], help=SUPPRESS)
        for name in ("--settings", "--pythonpath"):
            common.add_argument(name, help=SUPPRESS)
        for name in ("--traceback", "--no-color", "--force-color"):
            common.add_argument(name, action="store_true", help=SUPPRESS)
        parsers = parser.add_subparsers(dest="subcommand", metavar="sub-command", required=True)
        for name, kind in found().items():
            one = parsers.add_parser(
                name, help=kind.help, parents=[common], description=f"{kind.help} {kind.description}".strip()
            )
            kind.add_arguments(one)

    def handle(self, *args: Any, subcommand: str, **options: Any) -> None:
        try:
            code = found()[subcommand](self).run(**options)
        except ImproperlyConfigured as error:
            raise CommandError(f"{error} (`manage.py dbpool check` has it all.)", returncode=2) from error
        if code:
            sys.exit(code)
