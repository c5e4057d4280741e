"""Where a reading comes from: what all processes publish, else those of this host, else this one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..conf import fleet_config, management_command
from ..conf.engines import is_ours
from ..core.process import this_process
from ..fleet import FleetUnavailable, Process, Server, Session, processes, server_of
from ..fleet.documents import Malformed, parse
from ..fleet.publisher import own_snapshot
from ..fleet.server import same_server
from ..fleet.socket_client import ask_local
from ..fleet.stores import store_of
from . import memory

Source = Literal["fleet", "host", "process", "remembered"]

LOCAL_TIMEOUT = 1.0
"""Seconds for the answers of this host's processes: whoever waits for a page is told of the silent ones."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was known of the processes at one moment."""

    source: Source
    """
    ``fleet``: everything that processes have published. ``host``: what the processes of this host say, because that
    can't be read. ``process``: this one alone. ``remembered``: what this process read last.
    """
    processes: tuple[Process, ...]
    """By host and pid."""
    at: float
    """When it was read; unix time."""
    age: float = 0.0
    """Seconds since then."""
    stale: bool = False
    """It is from the past: the fleet can't be read now."""
    servers: tuple[Server, ...] = ()
    """Those that were asked for their sessions."""
    remarks: tuple[str, ...] = ()
    """What could not be found out, and why."""

    @property
    def strangers(self) -> dict[str, tuple[Session, ...]]:
        """By alias the sessions that no process knows of, each once: two aliases of one server know of the same."""
        told: dict[str, tuple[Session, ...]] = {}
        for server in self.servers:
            known = {one.pid for alias, those in told.items() if same_server(alias, server.alias) for one in those}
            told[server.alias] = tuple(each for each in server.strangers if each.pid not in known)
        return told

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {
            "source": self.source,
            "processes": [process.to_json() for process in self.processes],
            "at": self.at,
            "age": self.age,
            "stale": self.stale,
            "servers": [server.to_json() for server in self.servers],
            "remarks": list(self.remarks),
        }


SPOKEN_LATELY = 60.0


def is_current(process: Process) -> bool:
    """
    Whether what a process has said of circuits, queues and alerts can still be so. One that is idle says so once and
    then nothing for up to a day, whatever its state was.
    """
    return process.state != "idle" or process.age <= SPOKEN_LATELY


def read(*, servers: bool = False, local: bool = False, timeout: float = LOCAL_TIMEOUT) -> Fleet:
    """
    What is known of all processes now. One query, whatever their number; where that is not possible the processes of
    this host are asked by their sockets, and if none answers, it is this process alone. ``remarks`` then say why.

    Args:
        servers: ask each database's server for its sessions, too: one query each.
        local: only ask the processes of this host.
        timeout: seconds that each process of this host has for its answer, if it is asked.

    Example:
        fleet = read()
        print(overview(fleet).sentence)
        for row in holders(fleet, state="idle").items:
            print(row.process, row.who, row.held, row.sql)
    """
    fleet = None
    remarks: list[str] = []
    if not local:
        try:
            fleet = Fleet("fleet", _published(), time.time())
        except (FleetUnavailable, ImproperlyConfigured) as error:
            remarks.append(str(error))
    if fleet is None:
        found = _of_this_host(remarks, timeout)
        fleet = Fleet("host", found, time.time()) if found else own()
    if servers:
        fleet = replace(fleet, servers=_asked(fleet.processes, remarks))
    return replace(fleet, remarks=tuple(remarks))


def remembered() -> Fleet | None:
    """
    What ``read()`` found when it could last read the store in this process, marked stale; None if it never could, or
    this process has forked since. No input or output.
    """
    kept = memory.last()
    if kept is None:
        return None
    found, age, left_out = kept
    remarks = (f"{left_out} more processes were not remembered.",) if left_out else ()
    return Fleet("remembered", found, time.time() - age, age, stale=True, remarks=remarks)


def own() -> Fleet:
    """This process alone, from its memory: nothing is asked, and nobody is waited for."""
    try:
        found = (parse(own_snapshot()),)
    except Malformed as error:  # a host without a name, or the like
        return Fleet("process", (), time.time(), remarks=(f"This process is not understood: {error}",))
    return Fleet("process", found, time.time())


def _published() -> tuple[Process, ...]:
    store = store_of(fleet_config())
    if store is None:
        return processes()  # which says why
    return processes(store=memory.Remembering(store))


def _of_this_host(remarks: list[str], timeout: float) -> tuple[Process, ...]:
    me = this_process()
    command = management_command() == "dbpool"
    answers = ask_local("status", timeout=timeout)
    remarks += answers.refused
    found: dict[str, Process] = {}
    for answer in answers.answers:
        if answer.pid == os.getpid() and command:
            continue  # it may have leased a connection, and so has a socket too
        if not answer.ok:
            remarks.append(f"process {answer.pid} of {socket.gethostname()}: {answer.message}")
            continue
        try:
            process = parse(answer.result)
        except Malformed as error:
            remarks.append(f"process {answer.pid}: its answer is not understood: {error}")
        else:
            found[process.identity.instance] = process
    if found and me.instance not in found and not command:
        found |= {each.identity.instance: each for each in own().processes}
    return tuple(sorted(found.values(), key=lambda each: (each.identity.host, each.identity.pid)))


def _asked(found: Sequence[Process], remarks: list[str]) -> tuple[Server, ...]:
    """The server of every database that one of the processes has a pool for."""
    aliases = {pool.snapshot.alias for process in found for pool in process.pools}
    servers = []
    for alias in connections:
        if alias not in aliases or not is_ours(connections.settings[alias].get("ENGINE")):
            continue
        try:
            servers.append(server_of(alias, found))
        except FleetUnavailable as error:
            remarks.append(str(error))
    return tuple(servers)
