"""``manage.py dbpool terminate``: end sessions that have been idle in a transaction for long."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from django.db import connections

from ...acting.acted import DONE, OVER, Acted
from ...acting.idle import IdleSession, end, idle_in_transaction
from ...conf.engines import is_ours
from ...fleet import FleetUnavailable, Process, processes
from ...fleet.documents import Malformed, parse
from ...fleet.socket_client import local_processes
from .. import arguments, subcommand

NOTHING_LEFT, SOME_LEFT, UNKNOWN = 0, 1, 2

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([a-z]*)")
_UNITS = {1: ("", "s", "sec", "second", "seconds"), 60: ("m", "min", "minute", "minutes"), 3600: ("h", "hour", "hours")}


def duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``5min`` or ``2h``."""
    match = _DURATION.fullmatch(text.strip().lower())
    for factor, names in _UNITS.items():
        if match is not None and match[2] in names and 1 <= (seconds := float(match[1]) * factor) <= 30 * 86_400:
            return seconds
    raise ArgumentTypeError(f"{text!r} is no time between 1 s and 30 days; write 90, 90s, 5min or 2h")


class Subcommand(subcommand.Subcommand):
    help = "Ends sessions that have been idle in a transaction for long; says first which, and who holds them."
    description = (
        "Only sessions of this project's role in its databases, never others' and never replication. A session of a "
        "process of the project is ended through that process, any other on the server; each only if it has executed "
        "nothing since it was listed. Explained in docs/commands.md of the sources."
    )
    examples = (
        ("terminate", "idle in a transaction for more than five minutes: lists them, then asks"),
        ("terminate --older-than 30s --using default", "the same for 30 seconds, in one database"),
        ("terminate --older-than 1h --yes", "for cron: ends them without a question"),
        ("terminate --json", "for programs: lists them"),
    )
    exit_codes = {
        NOTHING_LEFT: "there is none, or all were ended",
        SOME_LEFT: "there are some, and they were not ended: nobody has confirmed it, or the output says why",
        UNKNOWN: "a server can't be asked; or wrong usage or settings",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--older-than",
            type=duration,
            default=300.0,
            metavar="TIME",
            help="Idle in the transaction for longer than this: 90, 90s, 5min, 2h. Default: 5min.",
        )
        parser.add_argument(
            "--using", type=arguments.alias, metavar="ALIAS", help="Only in this database. Default: all of this engine."
        )
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--yes", action="store_true", help="Don't ask, end them.")
        how.add_argument("--dry-run", action="store_true", help="Don't ask, only list them.")
        parser.add_argument(
            "--json", action="store_true", help="Print JSON; ends them only with --yes.", dest="as_json"
        )

    def run(
        self,
        *,
        older_than: float = 300.0,
        using: str | None = None,
        yes: bool = False,
        dry_run: bool = False,
        as_json: bool = False,
        **_: object,
    ) -> int:
        ours = [alias for alias in connections if is_ours(connections.settings[alias].get("ENGINE"))]
        remarks: list[str] = []
        known = _processes(remarks)
        found, unasked = _sessions(ours if using is None else [using], older_than, known, remarks)
        if not as_json:
            self._print(found, older_than, remarks, known if unasked else ())
        ended: list[Acted] = []
        if found and not dry_run and (yes or (not as_json and self._confirmed(len(found)))):
            ended = self._end(found, quiet=as_json)
        if as_json:
            self._print_json(found, ended, older_than, remarks)
        if unasked:
            return UNKNOWN
        return NOTHING_LEFT if len(ended) == len(found) and all(map(_is_over, ended)) else SOME_LEFT

    def _confirmed(self, number: int) -> bool:
        if not sys.stdin.isatty():
            self.stderr.write("Nothing was done. Say --yes to end them.")
            return False
        self.stdout.write(f"End {_counted(number)}? [y/N] ", ending="")
        self.stdout.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _end(self, found: Sequence[IdleSession], *, quiet: bool) -> list[Acted]:
        ended: list[Acted] = []
        for session in found:
            try:
                acted = end(session, actor=_actor())
            except KeyboardInterrupt:
                left = len(found) - len(ended) - 1
                self.stderr.write(f"Whether backend {session.pid} was ended is not known; {_counted(left)} left alone.")
                raise
            ended.append(acted)
            if not quiet:
                style = self.style.SUCCESS if _is_over(acted) else self.style.ERROR
                self.stdout.write(f"backend {session.pid}: " + style(acted.outcome) + f". {acted.text}")
        return ended

    def _print(
        self, found: Sequence[IdleSession], older_than: float, remarks: Sequence[str], others: Sequence[Process]
    ) -> None:
        if found:
            self._table([_HEADS, *map(_row, found)])
        for remark in remarks:
            self.stderr.write(self.style.WARNING(remark))
        self._print_held(others, older_than)
        what = f"{_counted(len(found))} {'has' if len(found) == 1 else 'have'}" if found else "No session has"
        self.stdout.write(f"{what} been idle in a transaction for more than {older_than:g} s.")

    def _print_held(self, others: Sequence[Process], older_than: float) -> None:
        """What processes say of themselves, where a server doesn't. For how long they have been idle it alone knows."""
        for process in others:
            for holder in process.holders:
                held = holder.since_seconds + process.age
                if holder.state == "idle in transaction" and held > older_than:
                    self.stdout.write(
                        f"{process.name}: {holder.unit or holder.thread} has held backend {holder.backend_pid} of "
                        f"database {holder.alias!r} for {held:.0f} s and is idle in a transaction"
                    )

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for number, row in enumerate(rows):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self.stdout.write(self.style.MIGRATE_HEADING(line) if number == 0 else line)

    def _print_json(
        self, found: Sequence[IdleSession], ended: Sequence[Acted], older_than: float, remarks: Sequence[str]
    ) -> None:
        acts: list[Acted | None] = [*ended] or [None] * len(found)
        sessions = [
            {**session.to_json(), "acted": acted and acted.to_json()}
            for session, acted in zip(found, acts, strict=True)
        ]
        document = {"older_than": older_than, "sessions": sessions, "remarks": remarks}
        self.stdout.write(json.dumps(document, indent=2))


_HEADS = ("idle for", "transaction for", "database", "backend", "who", "process", "application")


def _row(session: IdleSession) -> tuple[str, ...]:
    nobody = "holder not known" if session.process is not None else "no process knows it"
    return (
        f"{session.idle_seconds:.1f} s",
        "failed" if session.transaction_seconds is None else f"{session.transaction_seconds:.1f} s",
        session.alias,
        str(session.pid),
        session.who or nobody,
        session.process.name if session.process is not None else "-",
        session.application_name or "-",
    )


def _counted(number: int) -> str:
    return f"{number} session" + ("" if number == 1 else "s")


def _is_over(acted: Acted) -> bool:
    return acted.outcome in (DONE, OVER)


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container whose user has no name
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()} (manage.py dbpool terminate)"


def _sessions(
    aliases: Sequence[str], older_than: float, known: Sequence[Process], remarks: list[str]
) -> tuple[list[IdleSession], bool]:
    """Those of all databases, each once, and whether a server could not be asked."""
    found: dict[tuple[int, str], IdleSession] = {}
    unasked = False
    for alias in aliases:
        try:
            for session in idle_in_transaction(alias, older_than, known):
                found.setdefault((session.pid, session.backend_start), session)  # two aliases may be one database
        except FleetUnavailable as error:
            remarks.append(f"{error}.")
            unasked = True
    return sorted(found.values(), key=lambda session: -session.idle_seconds), unasked


def _processes(remarks: list[str]) -> Sequence[Process]:
    """Of the fleet; where that can't be read, of this host."""
    try:
        return processes()
    except FleetUnavailable as error:
        remarks.append(f"{str(error).rstrip('.')}; only processes of this host are known.")
    found = []
    for answer in local_processes().answers:
        if answer.pid == os.getpid():
            continue
        try:
            found.append(parse(answer.result))
        except Malformed as error:
            remarks.append(f"process {answer.pid}: {answer.message or error}")
    return found
