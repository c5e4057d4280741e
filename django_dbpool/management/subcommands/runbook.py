"""``manage.py dbpool runbook``: what to do now for what is wrong now."""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Any

from ...reports import Culprit, Fleet, Overview, Problem, culprits, overview, read
from .. import arguments, subcommand
from ..board import STYLES
from ..remedies import Remedy, docs_of, remedy_for
from ..text import Line, Style, coloured, line, plain, wrapped
from .status import HEALTHY, NOBODY, UNKNOWN, WRONG, code_of

CULPRITS = 5

CAUSED = {
    "holder": {"waiting", "pool-full", "reserve-full", "timeouts", "held-idle", "held-long", "pinned-long", "blocked"},
    "stranger": {"waiting", "pool-full", "reserve-full", "timeouts", "blocked", "strangers"},
    "session": {"waiting", "pool-full", "reserve-full", "timeouts", "blocked"},
}
"""Problems that go away with a culprit of a kind."""

WITHOUT_LOCKS = {"holder": CAUSED["holder"] - {"blocked"}, "stranger": {"strangers"}}


class Subcommand(subcommand.Subcommand):
    help = "Says what to do now for what is wrong now, the most urgent first."
    description = (
        "It looks at what `status` shows, names those whose end would help, with the line of code that they are in "
        "where their process is on this host, and gives the command that ends them. It changes nothing. "
        "docs/runbook.md of the sources says more of each problem."
    )
    examples = (
        ("runbook", "what is wrong, who it is, what to do"),
        ("runbook --local", "the database is away: ask the processes of this host"),
        ("runbook --json", "for programs"),
    )
    exit_codes = {
        HEALTHY: "nothing is wrong",
        WRONG: "something is, and it says what to do",
        UNKNOWN: "it can't be told, or only of this host",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON.", dest="as_json")
        parser.add_argument(
            "--local", action="store_true", help="Ask the processes of this host, not the fleet's store."
        )
        parser.add_argument("--using", type=arguments.alias, metavar="ALIAS", help="Only what is about this database.")

    def run(self, *, as_json: bool = False, local: bool = False, using: str | None = None, **_: Any) -> int:
        fleet = read(servers=True, local=local)
        if fleet.source == "process":  # nobody answers, and of this command nothing is to be told
            return self._cannot_tell(fleet, as_json=as_json)
        found = overview(fleet)
        problems = [each for each in found.problems if using in (None, each.alias) or each.alias is None]
        remedies = [remedy_for(each) for each in culprits(fleet) if using in (None, each.alias)][:CULPRITS]
        code = code_of(fleet, problems, local=local)
        if as_json:
            self._print_json(found, problems, remedies, code)
        else:
            self._print(found, problems, remedies)
        return code

    def _cannot_tell(self, fleet: Fleet, *, as_json: bool) -> int:
        remarks = [*(fleet.remarks or (NOBODY,)), ASK_WHERE]
        if as_json:
            self.stdout.write(json.dumps({"status": None, "source": None, "remarks": remarks}, indent=2))
        else:
            for remark in remarks:
                self.stderr.write(remark)
        return UNKNOWN

    def _print_json(self, found: Overview, problems: Sequence[Problem], remedies: Sequence[Remedy], code: int) -> None:
        document = {
            "status": found.status,
            "sentence": found.sentence,
            "source": found.source,
            "timestamp": found.timestamp,
            "culprits": [each.to_json() for each in remedies],
            "problems": [{**each.to_json(), "docs": docs_of(each.code)} for each in problems],
            "remarks": list(found.remarks),
            "exit_code": code,
        }
        self.stdout.write(json.dumps(document, indent=2))

    # -- for people -----------------------------------------------------------------------------------------------

    def _print(self, found: Overview, problems: Sequence[Problem], remedies: Sequence[Remedy]) -> None:
        self._width = min(110, get_terminal_size((100, 24)).columns if self.stdout.isatty() else 100)
        for remark in found.remarks:
            self._write(wrapped(remark, self._width, style="warn"))
        if not problems and not remedies:
            self._write(wrapped(_nothing(found), self._width, style="good"))
            return
        self._write([_headline(found, problems)])
        for number, remedy in enumerate(remedies, 1):
            self._write([(), *self._culprit(number, remedy)])
        if problems:
            self._write([(), line(("bold", "What is wrong, the most urgent first"))])
        for problem in problems:
            self._write(self._problem(problem, [each.culprit for each in remedies]))

    def _culprit(self, number: int, remedy: Remedy) -> list[Line]:
        culprit = remedy.culprit
        style: Style = "bad" if culprit.blocks or number == 1 else "warn"
        first, *rest = wrapped(culprit.text, self._width - 3, style=style)
        lines = [line(("bold", f"{number}. "), *first), *(line("   ", *each) for each in rest)]
        for head, text in remedy.facts:
            told, *more = wrapped(text, self._width - 15)
            lines.append(line("   ", ("dim", f"{head:<12}"), *told))
            lines += [line(" " * 15, *each) for each in more]
        lines.append(line("   ", ("bold", remedy.introduction)))
        lines += [line("     ", ("good", command)) for command in remedy.commands]
        for text in (remedy.consequence, remedy.cure):
            lines += [line("   ", *each) for each in wrapped(text, self._width - 3)]
        return lines

    def _problem(self, problem: Problem, known: Sequence[Culprit]) -> list[Line]:
        style: Style = "bad" if problem.severity == "error" else "warn"
        first, *rest = wrapped(problem.text, self._width - 9)
        lines = [line((style, f"{problem.severity:<7}"), "  ", *first)]
        lines += [line(" " * 9, *each) for each in rest]
        cause = next((number for number, each in enumerate(known, 1) if _causes(each, problem)), None)
        told = f"Goes away with {cause} above." if cause is not None else problem.remedy
        lines += [line(" " * 9, *each) for each in wrapped(told, self._width - 9, style="dim" if cause else "")]
        lines.append(line(" " * 9, ("dim", docs_of(problem.code))))
        return lines

    def _write(self, lines: Sequence[Line]) -> None:
        for each in lines:
            self.stdout.write(coloured(each) if self.is_coloured else plain(each))


ASK_WHERE = (
    "Run it on a host of the site, as the user that its processes run as: they answer there on their sockets "
    "(DBPOOL['SOCKET']), also while the database is away. If none does, none has used a database yet, or none runs."
)


def _causes(culprit: Culprit, problem: Problem) -> bool:
    codes = CAUSED if culprit.blocks else WITHOUT_LOCKS
    return problem.alias == culprit.alias and problem.code in codes.get(culprit.kind, ())


def _headline(found: Overview, problems: Sequence[Problem]) -> Line:
    errors = sum(each.severity == "error" for each in problems)
    when = time.strftime("%H:%M:%S", time.localtime(found.timestamp))
    counted = f"{errors} urgent, {len(problems) - errors} less so" if errors else f"{len(problems)} to look at"
    return line((STYLES[found.status], f" {found.status.upper()} "), f"  {counted}; {_processes(found)}, {when}")


def _nothing(found: Overview) -> str:
    if not found.processes:
        return "Nothing is wrong, as far as anybody says: no process is at work."
    use = ", ".join(f"{each.alias}: {each.active} of {each.max} connections in use" for each in found.databases)
    return f"Nothing is wrong. {_processes(found)}, nobody waits for a connection{f'; {use}' if use else ''}."


def _processes(found: Overview) -> str:
    many = "1 process" if found.processes == 1 else f"{found.processes} processes"
    return many + (" of this host alone" if found.source == "host" else "")
