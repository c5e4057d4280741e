"""``manage.py dbpool status``: which processes there are, what their pools do, and who holds what."""

from __future__ import annotations

import json
import textwrap
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ... import reports
from ...core.words import one_line
from ...fleet import Process, Server
from ...pool.reporting import PoolSnapshot
from ...reports import Fleet, HolderRow, Overview, Problem, culprits, holders_left_out, overview, read
from .. import arguments, subcommand

HEALTHY, WRONG, UNKNOWN = 0, 1, 2
WIDTH = 110

CULPRITS = 3
"""Those that are named."""

SEEN_IN_PART = "fleet-unreachable"
"""That the others aren't seen is a remark and an exit code of its own."""

NOBODY = "No process of this project answers on this host."


def code_of(fleet: Fleet, problems: Sequence[Problem], *, local: bool = False) -> int:
    """The exit code for a reading; ``runbook`` has the same."""
    if fleet.source == "process":
        return UNKNOWN
    if any(problem.code != SEEN_IN_PART for problem in problems):
        return WRONG
    return HEALTHY if local or fleet.source == "fleet" else UNKNOWN


class Subcommand(subcommand.Subcommand):
    help = "Shows the processes of the project, their pools and who holds connections."
    description = (
        "Processes publish this every few seconds while they work (DBPOOL['FLEET']); if that can't be read, those of "
        "this host are asked directly. Explained in docs/fleet.md of the sources."
    )
    examples = (
        ("status", "once"),
        ("status --watch", "every two seconds, until Ctrl-C or q"),
        ("status --watch 10 --no-server", "every ten, asking the servers nothing"),
        ("status --local", "the database is away: ask the processes of this host"),
        ("status --json | jq .problems", "for programs"),
    )
    exit_codes = {
        HEALTHY: "all is well",
        WRONG: "something isn't; the last lines say what, and `manage.py dbpool runbook` what to do",
        UNKNOWN: "it can't be told, or only of this host",
    }

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print the snapshots as JSON.", dest="as_json")
        parser.add_argument(
            "--holders",
            type=arguments.count(0, 5000),
            default=10,
            metavar="N",
            help="Show the N oldest holders. Default: 10.",
        )
        parser.add_argument(
            "--local", action="store_true", help="Ask the processes of this host, not the fleet's store."
        )
        parser.add_argument("--no-server", action="store_true", help="Don't ask the database servers about sessions.")
        parser.add_argument(
            "--watch",
            nargs="?",
            type=arguments.seconds(0.5, 3600.0),
            const=2.0,
            metavar="SECONDS",
            help="Show it again and again, every two seconds where nothing is said, until Ctrl-C or q. On a terminal "
            "it is redrawn in place; elsewhere one block follows the other.",
        )

    def run(
        self,
        *,
        as_json: bool = False,
        holders: int = 10,
        local: bool = False,
        no_server: bool = False,
        watch: float | None = None,
        **_: Any,
    ) -> int:
        if watch is not None:
            return self._watch(watch, as_json=as_json, local=local, no_server=no_server)
        fleet = read(servers=not no_server, local=local)
        if fleet.source == "process":  # nobody answers, and of this command nothing is to be told
            remarks = fleet.remarks or (NOBODY,)
            return self._cannot_tell(remarks, as_json=as_json)
        found = overview(fleet)
        wrong = [problem for problem in found.problems if problem.code != SEEN_IN_PART]
        if as_json:
            self._print_json(fleet, found, wrong)
        else:
            self._print(fleet, holders)
            for remark in fleet.remarks:
                self.stdout.write(self.style.WARNING(remark))
            for problem in wrong:
                style = self.style.ERROR if problem.severity == "error" else self.style.WARNING
                self.stdout.write(style(problem.text))
                self.stdout.write(textwrap.fill(problem.remedy, WIDTH, initial_indent="  ", subsequent_indent="  "))
            self._print_culprits(fleet)
            if not (wrong or fleet.remarks):
                self.stdout.write(self.style.SUCCESS("ok"))
        return code_of(fleet, found.problems, local=local)

    def _print_culprits(self, fleet: Fleet) -> None:
        """Last, where eyes are when it has been printed: who waits is long in the table, who is waited for is not."""
        found = culprits(fleet)[:CULPRITS]
        for each in found:
            self.stdout.write(self.style.ERROR(f"Who it is: {each.text}"))
        if found:
            self.stdout.write("  `manage.py dbpool runbook` says how to end it.")

    def _watch(self, every: float, *, as_json: bool, local: bool, no_server: bool) -> int:
        if as_json:
            self.stderr.write("--watch is for people: for programs, ask again with --json.")
            return UNKNOWN
        from ..watching import Watch  # it needs a terminal's modules, which not every system has

        return Watch(
            lambda: read(servers=not no_server, local=local),
            self.stdout,
            every=every,
            colours=self.is_coloured,
            code_of=lambda view: code_of(view.fleet, view.found.problems, local=local),
        ).run()

    def _cannot_tell(self, remarks: Sequence[str], *, as_json: bool) -> int:
        if as_json:
            self.stdout.write(json.dumps({"source": None, "remarks": remarks}, indent=2))
        else:
            self.stderr.write("\n".join(remarks))
        return UNKNOWN

    def _print_json(self, fleet: Fleet, found: Overview, wrong: Sequence[Problem]) -> None:
        document = {
            "source": "this host" if fleet.source == "host" else fleet.source,
            "sentence": found.sentence,
            "processes": [process.to_json() for process in fleet.processes],
            "servers": [server.to_json() for server in fleet.servers],
            "databases": [database.to_json() for database in found.databases],
            "wrong": [problem.text for problem in wrong],
            "problems": [problem.to_json() for problem in wrong],
            "culprits": [each.to_json() for each in culprits(fleet)],
            "remarks": list(fleet.remarks),
        }
        self.stdout.write(json.dumps(document, indent=2))

    def _print(self, fleet: Fleet, most: int) -> None:
        found = fleet.processes
        if not found:
            self.stdout.write("No process has published anything lately: none is at work.")
        else:
            self._table(_PROCESSES, [*(row for process in found for row in _rows_of(process)), *_rows_of_all(found)])
        held = reports.holders(fleet, per_page=max(1, most))
        if held.items and most:
            self.stdout.write("")
            self._table(_HOLDERS, [_row_of_holder(row) for row in held.items])
            left_out = held.total - len(held.items) + holders_left_out(fleet)
            if left_out:
                self.stdout.write(f"and {left_out} more")
        for server in fleet.servers:
            self._print_server(server)

    def _print_server(self, server: Server) -> None:
        self.stdout.write("")
        total = f"{server.alias}: the server has {server.connections} of {server.max_connections} connections"
        if not server.joined:
            self.stdout.write(f"{total}; behind a pooler nobody can say whose they are")
            return
        self.stdout.write(
            f"{total}, {len(server.sessions)} of this role in this database, {len(server.strangers)} that no process "
            "knows of"
        )
        for session in server.strangers[:10]:
            name = repr(session.application_name) if session.application_name else "without a name"
            state = f"{session.state or 'in an unknown state'}{_for(session.state_age)}"
            self.stdout.write(f"  backend {session.pid}, application {name}, {session.age:.0f} s old, {state}")

    def _table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for number, row in enumerate((heads, *rows)):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            line = "  ".join(cells).rstrip()
            self.stdout.write(self.style.MIGRATE_HEADING(line) if number == 0 else line)


_PROCESSES = ("process", "role", "version", "seen", "state", "database", "use", "waiting", "circuit")
_HOLDERS = ("held for", "process", "database", "backend", "who", "state", "on the server")


def _rows_of(process: Process) -> Iterable[tuple[str, ...]]:
    identity = process.identity
    state = "stale" if process.stale else process.state
    first = (process.name, identity.role, identity.version, f"{process.age:.0f} s ago", state)
    if not process.pools:
        yield (*first, "-", "-", "-", "-")
    for number, pool in enumerate(process.pools):
        now = pool.snapshot
        numbers = (now.alias, _use(now.in_use, now.max_size, now.reserve_size), str(now.waiting), pool.circuit)
        yield (*(first if number == 0 else ("",) * len(first)), *numbers)


def _rows_of_all(found: Sequence[Process]) -> Iterable[tuple[str, ...]]:
    """A database's pools together, where several processes have one: the rows above are each of one process."""
    pools: dict[str, list[PoolSnapshot]] = defaultdict(list)
    for process in found:
        for pool in process.pools:
            pools[pool.snapshot.alias].append(pool.snapshot)
    for alias, each in pools.items():
        if len(each) > 1:
            use = _use(*(sum(getattr(pool, name) for pool in each) for name in ("in_use", "max_size", "reserve_size")))
            yield (f"all {len(each)} together", "", "", "", "", alias, use, str(sum(pool.waiting for pool in each)), "")


def _use(in_use: int, max_size: int, reserve_size: int) -> str:
    return f"{in_use}/{max_size}{f'+{reserve_size}' if reserve_size else ''}"


def _row_of_holder(row: HolderRow) -> tuple[str, ...]:
    return (
        f"{row.held:.1f} s",
        row.process,
        row.alias,
        str(row.backend_pid),
        one_line(row.who, 60),
        row.state + (f", pinned: {row.pinned}" if row.pinned else ""),
        _on_server(row),
    )


def _on_server(row: HolderRow) -> str:
    if row.on_server is None:
        return ""
    if not row.on_server:
        return "no such session"
    waits = f", waits for {row.server_waits_for}" if row.server_waits_for else ""
    return f"{row.server_state or '?'}{_for(row.server_state_seconds)}{waits}"


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:.1f} s"
