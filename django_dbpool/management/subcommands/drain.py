"""``manage.py dbpool drain``: have the processes on this host replace their connections."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from ...core.words import one_line
from ...fleet.socket_client import LocalAnswer, LocalProcesses, ask_local
from .. import arguments, subcommand

NOT_ALL = 1
NOT_CONFIRMED = 2


class Subcommand(subcommand.Subcommand):
    help = "Has the processes on this host replace their connections, also while the database doesn't answer."
    description = (
        "Free connections are closed now, leased ones when their lease ends; nothing is broken off. For use after a "
        "failover, or when a setting of the server or the role has changed. Processes are found by their sockets: run "
        "it as the user that they run as."
    )
    examples = (
        ("drain", "all connections of the processes on this host; asks first"),
        ("drain --using default --yes", "of one database, without a question"),
        ("drain --pid 4711", "of one process"),
    )
    exit_codes = {
        0: "all that were found have done it",
        1: "there was none, or one has not",
        2: "it was not confirmed, or wrong usage or settings",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--using",
            type=arguments.alias,
            metavar="ALIAS",
            help="Only the connections of this database. Default: all.",
        )
        parser.add_argument(
            "--pid",
            type=arguments.count(1, 2**31 - 1),
            metavar="PID",
            help="Only this process. Default: all of this project on this host.",
        )
        parser.add_argument("--yes", action="store_true", help="Don't ask.")

    def run(self, *, using: str | None = None, pid: int | None = None, yes: bool = False, **_: Any) -> int:
        found = ask_local("status", pid=pid)
        if not found.answers:
            return self._none(found)
        if not yes and not self._confirmed(found, using):
            return NOT_CONFIRMED
        done = ask_local("drain", pid=pid, alias=using)
        for answer in done.answers:
            self.stdout.write(self._line(answer))
        self._tell_refused(done)
        return 0 if done.answers and all(answer.ok for answer in done.answers) else NOT_ALL

    def _none(self, found: LocalProcesses) -> int:
        self._tell_refused(found)
        self.stderr.write(
            "No process of this project answers on this host. A process does once it has used a database, if it runs "
            'as this user and DBPOOL["SOCKET"] isn\'t False.'
        )
        return NOT_ALL

    def _tell_refused(self, found: LocalProcesses) -> None:
        for reason in found.refused:
            self.stderr.write(self.style.WARNING(f"Not looked into: {reason}."))

    def _confirmed(self, found: LocalProcesses, using: str | None) -> bool:
        pids = ", ".join(str(answer.pid) for answer in found.answers)
        what = "all connections" if using is None else f"the connections of database {using!r}"
        if not sys.stdin.isatty():
            self.stderr.write(f"This would replace {what} of processes {pids}. Say --yes.")
            return False
        self.stdout.write(f"Replace {what} of processes {pids}? [y/N] ", ending="")
        self.stdout.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _line(self, answer: LocalAnswer) -> str:
        if not answer.ok:
            return self.style.ERROR(f"process {answer.pid}: {answer.error}: {answer.message}")
        drained = answer.result.get("drained") if isinstance(answer.result, Mapping) else None
        pools = drained if isinstance(drained, Mapping) else {}
        told = ", ".join(f"{one_line(str(alias))} ({one_line(str(number))})" for alias, number in pools.items())
        return f"process {answer.pid}: " + (f"drained {told}" if told else "has no such connections")
