"""Leases that last for too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...core.ledger import Holder
from ...core.words import one_line
from ...fleet import Process
from ..limits import Limits
from ..measuring import listed, raw_section
from ..reading import Fleet
from .problem import Problem, about, duration, who

IDLE_LONG = 10.0
"""Seconds for which a lease is held, after which one that waits within a transaction is told."""

_REMEDIES = {
    "held-idle": "It waits for something else (a call to another system, a lock, a person) within a transaction: its "
    "stack on page Holders says for what. End it there, or with `manage.py dbpool terminate`; then take the wait out "
    "of atomic(), or put it into on_commit().",
    "held-long": "If it runs a statement, cancel that on page Holders and look at it on page Statements. If it is "
    "idle, a cursor that nobody reads, or a leak, keeps it: terminate it; DBPOOL['LEAK_STACKS'] shows where it was "
    "leased.",
    "pinned-long": "Session state keeps the connection from everybody else. Terminate it on page Holders if it may be "
    "lost; then declare variables with transaction.session(), and put LISTEN and locks on transaction.dedicated().",
}


class _Held(NamedTuple):
    seconds: float
    process: Process
    holder: Holder


def of_holders(fleet: Fleet, current: Sequence[Process], limits: Limits) -> Iterator[Problem]:
    """One for each route or task, whatever the number of its leases and processes."""
    idle = _Idle(fleet)
    groups: dict[tuple[str, str, str], list[_Held]] = {}
    for process in current:
        for holder in process.holders:
            seconds = holder.since_seconds + process.age
            if seconds >= IDLE_LONG:
                held = _Held(seconds, process, holder)
                if (code := _code(held, limits, idle)) is not None:
                    groups.setdefault((code, holder.alias, who(holder)), []).append(held)
    for (code, alias, name), those in groups.items():
        yield _problem(fleet, code, alias, name, those)


def _code(held: _Held, limits: Limits, idle: _Idle) -> str | None:
    holder = held.holder
    if holder.pinned:
        return "pinned-long" if held.seconds >= limits.of(holder.alias).pin_max else None
    if holder.state.endswith("transaction") and idle.is_long(held):
        return "held-idle"
    if holder.backend_pid in held.process.dedicated.get(holder.alias, ()):
        return None  # a listener, a leader's lock: it is there to be kept
    return "held-long" if held.seconds >= limits.of(holder.alias).leak_after else None


class _Idle:
    """Whether a holder has executed nothing for long, or was only looked at between two of its statements."""

    def __init__(self, fleet: Fleet) -> None:
        self._on_server = {
            (each.process.identity.instance, server.alias, each.holder.backend_pid): each.idle_in_transaction_seconds
            for server in fleet.servers
            if server.joined
            for each in server.held
        }
        self._working: dict[str, set[object]] = {}

    def is_long(self, held: _Held) -> bool:
        """As the server says; else as the looks at its request, task or thread, once a second, have found."""
        key = held.process.identity.instance, held.holder.alias, held.holder.backend_pid
        if key in self._on_server:
            return (self._on_server[key] or 0.0) >= IDLE_LONG
        return key[1:] not in self._backends_that_work(held.process)

    def _backends_that_work(self, process: Process) -> set[object]:
        instance = process.identity.instance
        if instance not in self._working:
            self._working[instance] = {
                (held.get("alias"), held.get("backend_pid"))
                for operation in listed(raw_section(process.document, "operations"))
                if isinstance(operation, dict) and operation.get("holds_idle") is False
                for held in listed(operation.get("held"))
                if isinstance(held, dict)
                and isinstance(held.get("backend_pid"), int)
                and isinstance(held.get("alias"), str)
            }
        return self._working[instance]


def _problem(fleet: Fleet, code: str, alias: str, name: str, those: Sequence[_Held]) -> Problem:
    longest = max(those, key=lambda held: held.seconds)
    pinned = f", pinned: {longest.holder.pinned}" if longest.holder.pinned else ""
    many, up_to = ("a connection", "") if len(those) == 1 else (f"{len(those)} connections", "up to ")
    return about(
        [held.process for held in those],
        code,
        "warning",
        f"{one_line(name, 100)} has held {many} to database {alias!r} for {up_to}{duration(longest.seconds)} "
        f"({longest.holder.state}{pinned}).",
        _REMEDIES[code],
        alias=alias,
        since=fleet.at - longest.seconds,
    )
