"""
What runs in this process, and who of that holds connections: found out by looking, once a second and whenever
somebody asks. Requests, tasks and leases say nothing for it and pay nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import NamedTuple

from ..conf.process import command_of_its_own
from ..core import operations, reporter
from ..core.ledger import TRANSACTION_STATES, Owner, label_of, name_of, thread_units, unit_labels
from ..core.operations import Running, described
from ..core.process import this_process
from ..core.watching import LOOK_EVERY, Held, Kind, Looked, Operation, State, Watch
from ..core.words import one_line
from ..pool import dedicated
from ..pool.entry import ACTIVE, PoolEntry
from ..pool.registry import pools

JOB = "operations"

_looking = threading.Lock()


class HeldNow(NamedTuple):
    """One that is held now."""

    alias: str
    entry: PoolEntry
    generation: int
    owner: Owner
    unit: object
    seconds: float
    statements: int
    state: int

    def held(self) -> Held:
        return Held(
            alias=self.alias,
            backend_pid=self.entry.backend_pid,
            generation=self.generation,
            seconds=self.seconds,
            state=TRANSACTION_STATES[self.state],
            statements=self.statements,
            pinned=self.entry.pinned,
        )

    def looked(self) -> Looked:
        key = (self.entry.created_at, self.entry.backend_pid, self.generation, self.statements)
        return Looked(key, self.seconds, self.state != ACTIVE)


class _Seen:
    """A request, task or command: since when it is known of."""

    def __init__(self, unit: object, ident: int, kind: Kind, now: float) -> None:
        self.unit = unit
        self.ident = ident
        self.kind = kind
        self.watch = Watch()
        self.number = f"{this_process().instance}-{next(operations.numbers)}"
        threads = {thread.ident: thread.name for thread in threading.enumerate()}
        self.thread = threads.get(ident, "")
        self.began = now

    def record(self, leases: list[HeldNow], *, state: State = "running", holds_idle: bool = False) -> Operation:
        now = monotonic()
        seconds = max(0.0, now - self.began)
        label = described(label_of, self.unit)
        return Operation(
            id=self.number,
            name=label or f"<{type(self.unit).__name__}>",
            kind=self.kind,
            state=state,
            unit=label,
            unit_name=described(name_of, self.unit),
            parent=None,
            thread=self.thread,
            thread_ident=self.ident,
            started=time.time() - seconds,
            seconds=seconds,
            tags={},
            held=tuple(lease.held() for lease in leases),
            holding=None if self.watch.looked is None else min(self.watch.holding, seconds),
            holds_idle=holds_idle,
        )


class Command:
    """The management command that this process was started for."""

    def __init__(self, name: str) -> None:
        self.name = name


_KINDS: dict[type, Kind] = {dict: "request", Command: "command"}
unit_labels[Command] = lambda command: f"command {command.name!r}"

_seen: dict[int, _Seen] = {}
"""
By id of the unit, which is kept alive by this until the look after its end, so that the id is not used again.
"""
_command: Command | None = None


def observe(*, in_tests: bool = True) -> None:
    """
    Look once a second while this process uses its databases, beside whenever somebody asks.

    Args:
        in_tests: also in Django's test environment.
    """
    reporter.register(JOB, look if in_tests else _look_unless_tested, interval=LOOK_EVERY)


def _look_unless_tested() -> None:
    if not hasattr(sys.modules.get("django.core.mail"), "outbox"):  # all of that environment that can be seen
        look()


def running() -> tuple[Operation, ...]:
    """
    What runs in this process now, the oldest first: requests, tasks, the management command, operations under
    ``track_operation`` and threads started by ``django_dbpool.threads``.
    """
    return tuple(sorted((record() for record in look()), key=lambda operation: operation.started))


def recent() -> tuple[Operation, ...]:
    """
    The last 100 that have ended, the oldest first. Of requests and tasks only those that were seen at least once,
    which looks once a second do of all that take longer.
    """
    look()
    return operations.ended()


Record = Callable[[], Operation]
"""Made for those who ask: to find a request's route out takes longer than to look."""


def look() -> list[Record]:
    """One look at everything."""
    with _looking:
        now = monotonic()
        leases = list(_leases(now))
        return [*_look_at_units(now, leases), *_look_at_operations(now, leases)]


def _look_at_operations(now: float, leases: list[HeldNow]) -> Iterator[Record]:
    for running in operations.explicit():
        if running.abandoned():
            operations.abandon(running)
            continue
        own = [
            lease
            for lease in leases
            if running.includes(lease.unit) or (running.in_thread and lease.owner.ident == running.ident)
        ]
        idle = running.watch.look(now, running.began, [lease.looked() for lease in own])
        yield partial(_record, running, own, idle)


def _record(running: Running, leases: list[HeldNow], holds_idle: bool) -> Operation:
    return running.record(tuple(lease.held() for lease in leases), holds_idle=holds_idle)


def _look_at_units(now: float, leases: list[HeldNow]) -> Iterator[Record]:
    current = dict(_units(leases))
    for key in [key for key in _seen if key not in current]:
        gone = _seen.pop(key)
        operations.remember(gone.record([], state="ended", holds_idle=gone.watch.once_idle))
    for key, (unit, ident) in current.items():
        own = [lease for lease in leases if _root(lease.unit) is unit]
        seen = _seen.get(key)
        if seen is None:
            began = min([now, *(now - lease.seconds for lease in own)])
            seen = _seen[key] = _Seen(unit, ident, _KINDS.get(type(unit), "task"), began)
        idle = seen.watch.look(now, seen.began, [lease.looked() for lease in own])
        yield partial(seen.record, own, holds_idle=idle)


def _units(leases: list[HeldNow]) -> Iterator[tuple[int, tuple[object, int]]]:
    """Requests, tasks and the command that are going on: by id, with their thread."""
    for lease in leases:
        unit = _root(lease.unit)
        if unit is not None:
            yield id(unit), (unit, lease.owner.ident)
    # Later, because here is the thread that it began in, not one that leases for it.
    for ident, each in tuple(thread_units.items()):
        if (unit := _root(each)) is not None:
            yield id(unit), (unit, ident)
    command = _of_this_process()
    if command is not None:
        yield id(command), (command, threading.main_thread().ident or 0)


def _root(unit: object) -> object:
    """The request, task or command; None of operations that belong to none."""
    while isinstance(unit, Running):
        unit = unit.outer
    return unit


def _of_this_process() -> Command | None:
    global _command
    name = command_of_its_own()
    if name is None:
        _command = None
    elif _command is None or _command.name != one_line(name):
        _command = Command(one_line(name))
    return _command


def _leases(now: float) -> Iterator[HeldNow]:
    entries = [(pool.alias, entry) for pool in pools() for entry in tuple(pool.entries)]
    for alias, entry in [*entries, *dedicated.every()]:
        found = entry.leased()
        if found is None:
            continue
        unit = found.unit
        if unit is None:
            unit = thread_units.get(found.owner.ident)
        if unit is None and found.owner.thread is threading.main_thread():
            unit = _of_this_process()
        state = entry.pgconn.transaction_status
        seconds = max(0.0, now - found.since)
        yield HeldNow(alias, entry, found.generation, found.owner, unit, seconds, found.statements, state)


def _reset_after_fork() -> None:
    """What the parent's other threads do is none of the child's business."""
    global _looking
    _looking = threading.Lock()
    _seen.clear()
    operations.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
