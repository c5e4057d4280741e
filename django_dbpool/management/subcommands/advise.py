"""``manage.py dbpool advise``: which settings fit what the processes have measured."""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...advice import Load, loads_in, own_load, paste_of
from ...checks.ask import Answer, ask, count_others
from ...checks.pools import entries, pools
from ...checks.project import read_project
from ...conf.alias import Alias
from ...core.advice import Advice, Report, Room
from ...core.project import ProjectConfig
from ...core.readers import ConfigError
from ...fleet import processes
from ...fleet.socket_client import ask_local
from ...reports.sizes import advise_on, basis_of
from .. import subcommand

WIDTH = 110
NOTHING = "settings only"

Source = Callable[[], Iterable[Mapping[str, Any]]]


def _fleet() -> Iterable[Mapping[str, Any]]:
    """Snapshots that all processes have published."""
    return [process.document for process in processes()]


def _sockets() -> Iterable[Mapping[str, Any]]:
    """Answers of the processes on this host."""
    answers = ask_local("status").answers
    return [answer.result for answer in answers if answer.ok and isinstance(answer.result, Mapping)]


SOURCES: dict[str, Source] = {"fleet": _fleet, "processes of this host": _sockets}
"""Where snapshots are had from, in the order in which they are asked."""


@dataclass(frozen=True, slots=True)
class _Found:
    source: str
    loads: list[Load]
    problems: tuple[str, ...] = ()
    """Why others could not be asked."""


def measured() -> _Found:
    """What the first source knows that knows anything. One that can't be asked knows nothing."""
    problems = []
    for name, source in SOURCES.items():
        try:
            loads = [load for load in loads_in(source()) if load.aliases]
        except Exception as error:  # noqa: BLE001  # whatever a store or a socket raises: there is a next
            # Our own texts are free of credentials, a driver's may not be.
            ours = type(error).__module__.startswith("django_dbpool.")
            problems.append(f"The {name} can't be asked: {error if ours else type(error).__name__}")
            continue
        if loads:
            return _Found(name, loads, tuple(problems))
    own = own_load()
    source_ = ("this process", [own]) if own.aliases else (NOTHING, [])
    return _Found(*source_, tuple(problems))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**6:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


class Subcommand(subcommand.Subcommand):
    help = "Proposes sizes and time limits from what the running processes have measured."
    description = (
        "Asks the fleet, else the processes of this host, for their load, and each server on a connection of its own "
        "for its limits; nothing is changed. Where nothing was measured it says what is usual. docs/advice.md of the "
        "sources has the arithmetic."
    )
    examples = (
        ("advise", "for all databases, from what was measured"),
        ("advise --using default --processes 12", "as if twelve processes ran"),
        ("advise --static", "from settings alone"),
    )
    exit_codes = {0: "nothing to change", 1: "something is", 2: "wrong usage or settings"}

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--using", metavar="ALIAS", help="Only this database. Default: all that use this engine.")
        parser.add_argument("--json", action="store_true", help="Print JSON.", dest="as_json")
        parser.add_argument("--static", action="store_true", help="Ask no server.")
        for name, text in (
            ("processes", "How many processes use the databases. Default: DBPOOL, else those that are seen."),
            ("threads", "How many threads a process has. Default: DBPOOL."),
            ("cpus", "How many processors the server has. Default: this machine's, if the server is on it."),
        ):
            parser.add_argument(f"--{name}", type=_positive, metavar="N", help=text)

    def run(self, *, using: str | None = None, as_json: bool = False, static: bool = False, **given: Any) -> int:
        try:
            project = read_project()
        except ConfigError as error:
            self.stderr.write(str(error))
            return 2
        chosen = [alias for alias in pools() if using in (None, alias.name)]
        if not chosen:
            self.stderr.write(_nothing_chosen(using))
            return 2
        known = {name: given.get(name) for name in ("processes", "threads", "cpus")}
        found = measured()
        advised = [(alias, _advise(alias, project, found, ask_server=not static, **known)) for alias in chosen]
        if as_json:
            self._print_json(advised, found)
        else:
            self._print(advised, found)
        return int(any(report.changes for _, report in advised))

    def _print_json(self, advised: list[tuple[Alias, Report]], found: _Found) -> None:
        databases = [{**report.to_json(), "paste": paste_of(alias, report)} for alias, report in advised]
        document = {
            "source": found.source,
            "problems": found.problems,
            "processes": len(found.loads),
            "databases": databases,
        }
        self.stdout.write(json.dumps(document, indent=2))

    def _print(self, advised: list[tuple[Alias, Report]], found: _Found) -> None:
        for problem in found.problems:
            self.stderr.write(problem)
        for alias, report in advised:
            self.stdout.write(self.style.MIGRATE_HEADING(alias.name))
            self.stdout.write(f"  {basis_of(alias.name, found.loads, found.source)}")
            for item in report.advice:
                self._print_one(item)
            if report.unknown:
                self.stdout.write("  Not known:")
                for text in report.unknown:
                    self._wrapped(f"- {text}", "    ")
        pasted = [text for alias, report in advised if (text := paste_of(alias, report))]
        if pasted:
            self.stdout.write("")
            self.stdout.write("For the settings file, behind DATABASES; sizes are of each process:")
            self.stdout.write("")
            self.stdout.write("\n".join(pasted))
        else:
            self.stdout.write(self.style.SUCCESS("Nothing to change."))

    def _print_one(self, item: Advice) -> None:
        if item.kind == "change":
            head = self.style.WARNING(f"{item.setting}: {item.current!r} -> {item.proposed!r}")
        elif item.kind == "keep":
            head = self.style.SUCCESS(f"{item.setting}: {item.current!r} fits")
        else:
            head = self.style.NOTICE(f"look at: {item.setting}")
        self.stdout.write(f"  {head} ({item.confidence})")
        self._wrapped(item.reason, "    ")

    def _wrapped(self, text: str, indent: str) -> None:
        for line in textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent):
            self.stdout.write(line)


def _nothing_chosen(using: str | None) -> str:
    ours = [name for name, _ in entries()]
    if using is not None and using not in ours:
        return f"No database of this engine: {using}. There are: {', '.join(ours) or 'none'}."
    return "No pool to advise on: it is switched off, or its settings have faults (`manage.py dbpool check`)."


def _advise(alias: Alias, project: ProjectConfig, found: _Found, *, ask_server: bool, **known: int | None) -> Report:
    return advise_on(alias, project, found.loads, room=_room(alias) if ask_server else Room(), **known)


def _room(alias: Alias) -> Room:
    answer = ask(alias)
    if not isinstance(answer, Answer) or answer.behind_pooler:
        return Room()
    limits = [limit for limit in (answer.role_limit, answer.database_limit) if limit >= 0]
    return Room(min([answer.room, *limits]), 0 if limits else count_others(alias))
