"""``manage.py dbpool audit``: what in the sources exhausts or goes around the pool."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings

from ...audit import RULES, UNREADABLE, Report, audit
from ...core.words import one_line
from .. import subcommand

LONGEST_PATH = 4096
"""Characters, as Linux takes them."""

INSTALLED = {"site-packages", "dist-packages"}


class Subcommand(subcommand.Subcommand):
    help = "Reads the project's sources for code that exhausts the pool or goes around it."
    description = (
        "Nothing of what is read is imported or run, and no database is needed. A comment '# noqa: DBP301' "
        f"silences a rule on its line. Rules ({', '.join(RULES)}) are explained in docs/audit.md of the sources."
    )
    examples = (
        ("audit", "the project's own apps"),
        ("audit shop/views.py --select DBP3", "one file, only what waits in transactions"),
        ("audit --format json", "for programs"),
    )
    exit_codes = {
        0: "nothing found",
        1: "something was",
        2: "wrong usage, or a file could not be analysed (the others were)",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "paths",
            nargs="*",
            metavar="path",
            help="Files and directories. Default: the project's own apps, those below BASE_DIR or, without that "
            "setting, below the current directory, but not what is installed in an environment there.",
        )
        parser.add_argument(
            "--format", default="text", choices=("text", "json"), help="What to print. Default: text.", dest="form"
        )
        for name, text in (
            ("select", "Only these rules, separated by commas; DBP3 means all that begin so."),
            ("ignore", "All but these rules, separated by commas."),
            ("exclude", "Leave these files and directories out: names or patterns, separated by commas."),
        ):
            parser.add_argument(f"--{name}", action="append", default=[], metavar=name.upper(), help=text)

    def run(
        self,
        *,
        paths: Sequence[str] = (),
        form: str = "text",
        select: Sequence[str] = (),
        ignore: Sequence[str] = (),
        exclude: Sequence[str] = (),
        **_: Any,
    ) -> int:
        chosen = list(paths) or own_apps()
        if not chosen:
            self.stderr.write(f"No app of the project is below {base()}: name the paths to audit.")
            return 2
        try:
            report = audit(chosen, select=_split(select), ignore=_split(ignore), exclude=_split(exclude))
        except (FileNotFoundError, ValueError) as error:
            self.stderr.write(str(error))
            return 2
        if form == "json":
            self.stdout.write(json.dumps([asdict(finding) for finding in report.findings], indent=2))
        else:
            self._print(report)
        if any(finding.rule == UNREADABLE for finding in report.findings):
            return 2
        return int(bool(report.findings))

    def _print(self, report: Report) -> None:
        for finding in report.findings:
            # A file may be called anything, also what can't be encoded.
            place = f"{one_line(finding.path, LONGEST_PATH)}:{finding.line}:{finding.column}:"
            style = self.style.ERROR if finding.rule == UNREADABLE else self.style.WARNING
            self.stdout.write(f"{place} {style(finding.rule)} {one_line(finding.message, LONGEST_PATH)}")
            self.stdout.write(f"    {finding.fix}")
        if report.findings:
            self.stdout.write("")
        style = self.style.WARNING if report.findings else self.style.SUCCESS
        self.stdout.write(style(summary(report)))


def summary(report: Report) -> str:
    """``Audited 40 files: 3 findings (DBP301: 2, DBP302: 1), 1 silenced.``"""
    by_rule = Counter(finding.rule for finding in report.findings)
    unread = by_rule.pop(UNREADABLE, 0)
    parts = [_count(by_rule.total(), "finding")]
    if by_rule:
        parts[0] += f" ({', '.join(f'{rule}: {number}' for rule, number in sorted(by_rule.items()))})"
    if unread:
        parts.append(f"{unread} not analysed")
    if report.silenced:
        parts.append(f"{report.silenced} silenced")
    return f"Audited {_count(report.files, 'file')}: {', '.join(parts)}."


def base() -> Path:
    return Path(getattr(settings, "BASE_DIR", None) or Path.cwd()).resolve()


def own_apps() -> list[str]:
    """The directories of the project's apps, those within others left out; relative where that is shorter."""
    here = base()
    found: set[Path] = set()
    for config in apps.get_app_configs():
        path = Path(config.path).resolve()
        if path.is_relative_to(here) and not INSTALLED & set(path.relative_to(here).parts):
            found.add(path)
    outer = sorted(path for path in found if not found & set(path.parents))
    current = Path.cwd()
    return [str(path.relative_to(current) if path.is_relative_to(current) else path) for path in outer]


def _split(values: Sequence[str]) -> list[str]:
    return [part for value in values for part in value.replace(",", " ").split()]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
