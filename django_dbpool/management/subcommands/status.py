"""``manage.py dbpool status``: which processes there are, what their pools do, and who holds what."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ...conf import management_command
from ...conf.engines import is_ours
from ...core.ledger import Holder
from ...core.words import one_line
from ...fleet import FleetUnavailable, HeldSession, Process, Server, processes, server_of
from ...fleet.documents import Malformed, parse
from .. import subcommand

HEALTHY, WRONG, UNKNOWN = 0, 1, 2

LOCAL = "django_dbpool.fleet.socket_client"
"""Asks the processes of this host directly, where it exists."""


class Subcommand(subcommand.Subcommand):
    help = "Shows the processes of the project, their pools and who holds connections."
    description = (
        "Processes publish this every few seconds while they work (DBPOOL['FLEET']); if that can't be read, those of "
        "this host are asked directly. Exit code 0: all is well; 1: something isn't, the last lines say what; 2: it "
        "can't be told. Explained in docs/fleet.md of the sources."
    )

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print the snapshots as JSON.", dest="as_json")
        parser.add_argument(
            "--holders", type=int, default=10, metavar="N", help="Show the N oldest holders. Default: 10."
        )
        parser.add_argument(
            "--local", action="store_true", help="Ask the processes of this host, not the fleet's store."
        )
        parser.add_argument("--no-server", action="store_true", help="Don't ask the database servers about sessions.")

    def run(
        self, *, as_json: bool = False, holders: int = 10, local: bool = False, no_server: bool = False, **_: Any
    ) -> int:
        remarks: list[str] = []
        source = "this host" if local else "fleet"
        found: tuple[Process, ...] | None = None
        try:
            found = None if local else processes()
        except (FleetUnavailable, ImproperlyConfigured) as error:
            remarks.append(str(error))
            source = "this host"
        if found is None:
            found = _local(remarks)
        if found is None:
            if local:
                remarks.append("No process of this project answers on this host.")
            return self._cannot_tell(remarks, as_json=as_json)
        servers = [] if no_server else _servers(found, remarks)
        wrong = [*_what_is_wrong(found)]
        if as_json:
            self._print_json(source, found, servers, wrong, remarks)
        else:
            self._print(source, found, servers, holders)
            for line in (*remarks, *wrong):
                self.stdout.write(self.style.WARNING(line))
            if not (wrong or remarks):
                self.stdout.write(self.style.SUCCESS("ok"))
        return WRONG if wrong else HEALTHY if local or source == "fleet" else UNKNOWN

    def _cannot_tell(self, remarks: Sequence[str], *, as_json: bool) -> int:
        if as_json:
            self.stdout.write(json.dumps({"source": None, "remarks": remarks}, indent=2))
        else:
            self.stderr.write("\n".join(remarks))
        return UNKNOWN

    def _print_json(
        self,
        source: str,
        found: Sequence[Process],
        servers: Sequence[Server],
        wrong: Sequence[str],
        remarks: Sequence[str],
    ) -> None:
        document = {
            "source": source,
            "processes": [process.to_json() for process in found],
            "servers": [server.to_json() for server in servers],
            "wrong": wrong,
            "remarks": remarks,
        }
        self.stdout.write(json.dumps(document, indent=2))

    def _print(self, source: str, found: Sequence[Process], servers: Sequence[Server], most: int) -> None:
        if not found:
            self.stdout.write("No process has published anything lately: none is at work.")
        else:
            self._table(_PROCESSES, [row for process in found for row in _rows_of(process)])
        held = sorted(
            ((process, holder) for process in found for holder in process.holders),
            key=lambda pair: -pair[1].since_seconds,
        )
        on_server = {
            (id(each.process), id(each.holder)): each for server in servers if server.joined for each in server.held
        }
        if held:
            rows = [_row_of_holder(*pair, on_server.get((id(pair[0]), id(pair[1])))) for pair in held[:most]]
            self.stdout.write("")
            self._table(_HOLDERS, rows)
            left_out = len(held) - len(rows) + sum(process.holders_left_out for process in found)
            if left_out:
                self.stdout.write(f"and {left_out} more")
        for server in servers:
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
        reserve = f"+{now.reserve_size}" if now.reserve_size else ""
        numbers = (now.alias, f"{now.in_use}/{now.max_size}{reserve}", str(now.waiting), pool.circuit)
        yield (*(first if number == 0 else ("",) * len(first)), *numbers)


def _row_of_holder(process: Process, holder: Holder, held: HeldSession | None) -> tuple[str, ...]:
    return (
        f"{holder.since_seconds + process.age:.1f} s",
        process.name,
        holder.alias,
        str(holder.backend_pid),
        who(holder),
        holder.state + (f", pinned: {holder.pinned}" if holder.pinned else ""),
        "" if held is None else _on_server(held),
    )


def who(holder: Holder) -> str:
    """What it works for, or at least its thread."""
    return one_line(holder.unit or f"thread {holder.thread}", 60)


def _on_server(held: HeldSession) -> str:
    session = held.session
    if session is None:
        return "no such session"
    waits = f", waits for {session.waits_for}" if session.waits_for else ""
    return f"{session.state or '?'}{_for(session.state_age)}{waits}"


def _for(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:.1f} s"


def _servers(found: Sequence[Process], remarks: list[str]) -> list[Server]:
    """Of every database that one of the processes has a pool for."""
    aliases = {pool.snapshot.alias for process in found for pool in process.pools}
    servers = []
    for alias in connections:
        if alias not in aliases or not is_ours(connections.settings[alias].get("ENGINE")):
            continue
        try:
            servers.append(server_of(alias, found))
        except FleetUnavailable as error:
            remarks.append(str(error))
    return servers


def _local(remarks: list[str]) -> tuple[Process, ...] | None:
    """The processes of this host, asked directly; None where that can't be done, or nobody is there."""
    try:
        answers = import_module(LOCAL).local_processes().answers
    except ImportError:
        return None
    myself = os.getpid() if management_command() == "dbpool" else None
    found = []
    for answer in answers:
        if answer.pid == myself:
            continue  # it may have leased a connection, and so has a socket too
        if not answer.ok:
            remarks.append(f"process {answer.pid}: {answer.message}")
            continue
        try:
            found.append(parse(answer.result))
        except Malformed as error:
            remarks.append(f"process {answer.pid}: its answer is not understood: {error}")
    return tuple(found) or None


def _what_is_wrong(found: Sequence[Process]) -> Iterable[str]:
    for process in found:
        if process.stale:
            yield f"{process.name} has not published for {process.age:.0f} s: does it hang, or was it killed?"
        for pool in process.pools:
            yield from _of_pool(process, pool.snapshot.alias, pool)
        missed = process.document.get("missed")
        if isinstance(missed, dict) and missed.get("snapshots"):
            yield f"{process.name} could not publish for some time."


def _of_pool(process: Process, alias: str, pool: Any) -> Iterable[str]:
    now = pool.snapshot
    if pool.circuit != "closed":
        yield f"{process.name}: the circuit of database {alias!r} is {pool.circuit}"
    if now.waiting:
        yield f"{process.name}: {now.waiting} wait for a connection to database {alias!r}"
    elif now.in_use >= now.max_size:
        yield f"{process.name}: all {now.max_size} connections to database {alias!r} are in use"
