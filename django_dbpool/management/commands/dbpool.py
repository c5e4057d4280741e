"""``manage.py dbpool <sub-command>``; each is a module of ``django_dbpool.management.subcommands``."""

from __future__ import annotations

import logging
import os
import sys
from argparse import SUPPRESS
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style

from ...conf import management_command
from .. import subcommands
from ..subcommand import CODES, INTERRUPTED, READER_GONE, HelpFormatter, Subcommand, codes_of, examples_of

EXAMPLES = (
    ("runbook", "something is wrong: what to do now"),
    ("status", "everything at a glance"),
    ("status --watch", "the same, again and again"),
    ("check", "do settings and servers fit?"),
    ("advise", "how large should pools be?"),
)

OF_EACH = (
    "`manage.py dbpool <sub-command> --help` has those of each. Colours are for terminals only; NO_COLOR and "
    "--no-color switch them off."
)


def found() -> dict[str, type[Subcommand]]:
    names = sorted(module.name for module in iter_modules(subcommands.__path__))
    return {name: import_module(f"{subcommands.__name__}.{name}").Subcommand for name in names}


class Command(BaseCommand):
    help = "Looks after the connection pools of this project."
    # check runs them itself, and the others must work where settings are at fault.
    requires_system_checks: list[str] = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        epilog = "\n".join(
            [
                "examples:",
                *examples_of(EXAMPLES),
                "",
                "exit codes:",
                *codes_of(CODES),
                "",
                OF_EACH,
            ]
        )
        return super().create_parser(prog_name, subcommand, epilog=epilog, formatter_class=HelpFormatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        # Behind the sub-command too, where everybody writes them. SUPPRESS: else their defaults would overwrite what
        # stands before it.
        common = CommandParser(add_help=False, argument_default=SUPPRESS)
        common.add_argument("-v", "--verbosity", type=int, choices=[0, 1, 2, 3], help=SUPPRESS)
        for name in ("--settings", "--pythonpath"):
            common.add_argument(name, help=SUPPRESS)
        for name in ("--traceback", "--no-color", "--force-color"):
            common.add_argument(name, action="store_true", help=SUPPRESS)
        parsers = parser.add_subparsers(
            dest="subcommand", title="sub-commands", metavar="sub-command", required=True, prog=parser.prog
        )
        for name, kind in found().items():
            one = parsers.add_parser(
                name,
                help=kind.help,
                parents=[common],
                description=f"{kind.help} {kind.description}".strip(),
                epilog=kind.epilog(),
                formatter_class=HelpFormatter,
            )
            kind.add_arguments(one)

    def execute(self, *args: Any, **options: Any) -> str | None:
        self._coloured = bool(options.get("force_color"))
        if os.environ.get("NO_COLOR") and not self._coloured:
            options["no_color"] = True
        return super().execute(*args, **options)

    def handle(self, *args: Any, subcommand: str, **options: Any) -> None:
        if not (self._coloured or self.stdout.isatty()):
            self.style = no_style()  # Django has looked at sys.stdout, not at what it was given
        if management_command() == "dbpool":
            # What it does is said by itself. A project that logs somewhere has it there, too.
            logging.getLogger("django_dbpool.commands").addHandler(logging.NullHandler())
        try:
            code = found()[subcommand](self).run(**options)
            self.stdout.flush()
        except ImproperlyConfigured as error:
            raise CommandError(f"{error} (`manage.py dbpool check` has it all.)", returncode=2) from error
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:
            _forget_stdout()
            code = READER_GONE
        if code:
            sys.exit(code)


def _forget_stdout() -> None:
    """What is left in its buffer would fail once more when the interpreter ends."""
    with suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
