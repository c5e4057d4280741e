"""The base of what follows ``manage.py dbpool``."""

from __future__ import annotations

import argparse
import textwrap
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from django.core.management.base import BaseCommand

CODES: Mapping[int, str] = {
    0: "all is well, or it was done",
    1: "something is not, or was not done",
    2: "it can't be told: wrong usage, settings with faults, nobody to ask, not confirmed",
}
"""What all have in common."""

INTERRUPTED, READER_GONE = 130, 141
"""Ctrl-C, and ``| head`` that has seen enough, as shells have it."""


class Subcommand:
    """
    One word after ``manage.py dbpool``. Output goes through the command, so that ``call_command(stdout=...)``,
    ``--no-color`` and a pipe are respected.
    """

    help: ClassVar[str]
    """One line for the list, and the first of its own help."""
    description: ClassVar[str] = ""
    """What follows the line in its own help."""
    examples: ClassVar[Sequence[tuple[str, str]]] = ()
    """What follows ``manage.py dbpool``, and what it is for."""
    exit_codes: ClassVar[Mapping[int, str]] = {}
    """What 0, 1 and 2 mean here; docs/command-line.md has the same."""

    def __init__(self, command: BaseCommand) -> None:
        self.stdout = command.stdout
        self.stderr = command.stderr
        self.style = command.style
        self.is_coloured = bool(command.style.ERROR("x") != "x")

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the sub-command's own options."""

    @classmethod
    def epilog(cls) -> str:
        """What follows the options in its own help."""
        parts = []
        if cls.examples:
            parts.append("\n".join(["examples:", *examples_of(cls.examples)]))
        if cls.exit_codes:
            parts.append("\n".join(["exit codes:", *codes_of(cls.exit_codes)]))
        return "\n\n".join(parts)

    def run(self, **options: Any) -> int:
        """Do it; returns the exit code."""
        raise NotImplementedError


def examples_of(examples: Sequence[tuple[str, str]]) -> list[str]:
    commands = [f"  manage.py dbpool {command}".rstrip() for command, _ in examples]
    width = max(map(len, commands)) + 2
    return [f"{command:<{width}}{text}" for command, (_, text) in zip(commands, examples, strict=True)]


def codes_of(codes: Mapping[int, str]) -> list[str]:
    return [f"  {code}  {text}" for code, text in sorted(codes.items())]


class HelpFormatter(argparse.HelpFormatter):
    """Wraps prose, and leaves alone what begins with two spaces."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for each in text.splitlines():
            if each.startswith("  ") or not each:
                lines.append(each)
            else:
                lines += textwrap.wrap(each, width, initial_indent=indent, subsequent_indent=indent)
        return "\n".join(lines)
