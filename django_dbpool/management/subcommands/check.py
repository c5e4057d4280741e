"""``manage.py dbpool check``: every check of this package, those that ask the servers included."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, run_checks
from django.db import connections

from ...checks.ask import Answer, NoAnswer, ask
from ...checks.pools import entries, pools
from ...checks.project import by_server, read_project, total
from ...checks.server import judge
from ...conf import pooling_enabled
from ...core.readers import ConfigError
from .. import subcommand

LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
PROJECT = "project"
"""The heading of what belongs to no alias."""


class Subcommand(subcommand.Subcommand):
    help = "Checks all settings of the pools, and asks the servers whether there is room."
    description = (
        "Each server is asked on one connection of its own with short time limits, outside of the pool; nothing is "
        "changed. Ids are explained in docs/checks.md of the sources; SILENCED_SYSTEM_CHECKS silences them one by one."
    )
    examples = (
        ("check", "everything"),
        ("check replica --fail-level WARNING", "one database, and warnings count"),
        ("check --static", "ask no server: in a build, without a database"),
    )
    exit_codes = {0: "nothing found at or above --fail-level", 1: "something was", 2: "wrong usage"}

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "aliases",
            nargs="*",
            metavar="alias",
            help="Check only these databases, and the project's own settings. Default: all that use this engine.",
        )
        parser.add_argument(
            "--fail-level",
            default="ERROR",
            choices=LEVELS,
            help="The level of message from which on the exit code is 1. Default: ERROR.",
        )
        parser.add_argument("--static", action="store_true", help="Ask no server: check only what settings show.")

    def run(self, *, aliases: Sequence[str] = (), fail_level: str = "ERROR", static: bool = False, **_: Any) -> int:
        ours = dict(entries())
        if unknown := sorted(set(aliases) - set(ours)):
            self.stderr.write(
                f"No database of this engine: {', '.join(unknown)}. There are: {', '.join(ours) or 'none'}."
            )
            return 2
        chosen = [name for name in ours if not aliases or name in aliases]
        answers = {} if static else {alias.name: ask(alias) for alias in pools() if alias.name in chosen}
        found = run_checks(tags=["dbpool"]) + judge(answers)
        grouped = _by_alias(message for message in found if not message.is_silenced())
        shown = {name: grouped.get(name, []) for name in [*chosen, *({} if aliases else grouped), PROJECT]}
        for name, messages in shown.items():
            self._print_group(name, messages, answers.get(name))
        told = [message for messages in shown.values() for message in messages]
        silenced = sum(message.is_silenced() for message in found)
        self._print_summary(chosen, answers, told, silenced)
        return int(any(message.is_serious(getattr(checks, fail_level)) for message in told))

    def _print_group(self, name: str, messages: Sequence[CheckMessage], answer: Answer | NoAnswer | None) -> None:
        if name == PROJECT and not messages:
            return
        self.stdout.write(self.style.MIGRATE_HEADING(name))
        if isinstance(answer, Answer):
            self.stdout.write(
                f"  PostgreSQL {answer.release} at {answer.host}, {answer.room} of {answer.max_connections} "
                f"connections for applications{', behind a pooler' if answer.behind_pooler else ''}"
            )
        for message in sorted(messages, key=lambda each: (-each.level, str(each.id))):
            style = self.style.ERROR if message.is_serious() else self.style.WARNING
            self.stdout.write("  " + style(f"{message.id}: {message.msg}"))
            if message.hint:
                self.stdout.write(f"    HINT: {message.hint}")
        if not messages:
            off = name != PROJECT and not pooling_enabled(connections.settings[name])
            self.stdout.write("  " + self.style.SUCCESS("ok (pool switched off, server not asked)" if off else "ok"))

    def _print_summary(
        self,
        chosen: Sequence[str],
        answers: Mapping[str, Answer | NoAnswer],
        told: Sequence[CheckMessage],
        silenced: int,
    ) -> None:
        parts = [_count(_settings_of(chosen), "setting"), _count(len(chosen), "database")]
        parts += _servers(answers)
        errors = sum(message.is_serious() for message in told)
        line = f"Checked {', '.join(parts)}: {_count(errors, 'error')}, {_count(len(told) - errors, 'warning')}"
        line += f" ({silenced} silenced)." if silenced else "."
        style = self.style.ERROR if errors else self.style.WARNING if told else self.style.SUCCESS
        self.stdout.write(style(line))


_ALIAS = re.compile(r"DATABASES\[(?P<quote>['\"])(?P<alias>.*?)(?P=quote)\]")


def _by_alias(messages: Any) -> dict[str, list[CheckMessage]]:
    """Messages begin with the name of their setting."""
    groups: dict[str, list[CheckMessage]] = {}
    for message in messages:
        match = _ALIAS.match(message.msg)
        groups.setdefault(match["alias"] if match else PROJECT, []).append(message)
    return groups


def _settings_of(chosen: Sequence[str]) -> int:
    """How many settings the project has written."""
    written: list[Any] = [getattr(settings, "DBPOOL", {})]
    for name in chosen:
        written += [connections.settings[name].get("POOL"), connections.settings[name].get("OPTIONS")]
    return sum(len(each) for each in written if isinstance(each, Mapping))


def _servers(answers: Mapping[str, Answer | NoAnswer]) -> list[str]:
    """For each server: its release, its size, and how much of it this project may take."""
    try:
        project = read_project()
    except ConfigError:
        return []
    parts = []
    for group in by_server(pools()):
        answer = next((found for alias in group if isinstance(found := answers.get(alias.name), Answer)), None)
        if answer is not None:
            may_take, _ = total(group, project)
            who = "this project" if project.process_count(os.environ)[1] else "one process"
            parts.append(
                f"PostgreSQL {answer.release}, {answer.max_connections} connections, {who} may take {may_take}"
            )
    return parts


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
