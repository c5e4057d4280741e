"""Which processes there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..fleet import Process
from .culprits import leases_of
from .measuring import listed, number, section
from .page import PER_PAGE, Page, matches, page_of, words_of
from .reading import Fleet


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One pool of a process; connections unless said otherwise."""

    alias: str
    active: int
    """In use, those of the reserve included."""
    idle: int
    total: int
    max: int
    reserve: int
    reserve_used: int
    waiting: int
    """Callers."""
    circuit: str
    mode: str

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process."""

    instance: str
    """By which it is told something."""
    name: str
    """Host and pid."""
    host: str
    pid: int
    role: str
    version: str
    state: str
    """``active``, ``idle`` (nothing to do), ``ended``, or ``stale``: it should have published by now."""
    age: float
    """Seconds since it did."""
    started: float
    """Unix time."""
    sequence: int
    pools: tuple[PoolRow, ...]
    holders: int
    oldest: float | None
    """Seconds, of its longest lease; connections outside of the pools don't count."""
    operations: int
    alerts: int
    missed: int
    """Snapshots that it could not publish before this one."""
    left_out: tuple[str, ...]
    """What was too much for its snapshot."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def processes(
    fleet: Fleet, *, page: int = 1, q: str = "", role: str = "", state: str = "", per_page: int = PER_PAGE
) -> Page[ProcessRow]:
    """
    The processes by host and pid.

    Args:
        page: the first is 1.
        q: words that are all found in name, role, version, instance or databases.
        role: "web", "worker", "command" or "process"; all when empty.
        state: "active", "idle", "ended" or "stale"; all when empty.
    """
    words = words_of(q)
    found = [
        process
        for process in fleet.processes
        if role in ("", process.identity.role)
        and state in ("", state_of(process))
        and (not words or matches(words, *_texts(process)))
    ]
    return page_of(found, page, process_row, per_page)


def state_of(process: Process) -> str:
    return "stale" if process.stale else process.state


def _texts(process: Process) -> tuple[str, ...]:
    identity = process.identity
    aliases = [pool.snapshot.alias for pool in process.pools]
    return (process.name, identity.role, identity.version, identity.instance, *aliases)


def process_row(process: Process) -> ProcessRow:
    identity = process.identity
    held = max((holder.since_seconds for holder in leases_of(process)), default=None)
    return ProcessRow(
        instance=identity.instance,
        name=process.name,
        host=identity.host,
        pid=identity.pid,
        role=identity.role,
        version=identity.version,
        state=state_of(process),
        age=process.age,
        started=identity.started,
        sequence=process.sequence,
        pools=tuple(
            PoolRow(
                alias=pool.snapshot.alias,
                active=pool.snapshot.in_use,
                idle=pool.snapshot.idle,
                total=pool.snapshot.size,
                max=pool.snapshot.max_size,
                reserve=pool.snapshot.reserve_size,
                reserve_used=pool.snapshot.reserve_in_use,
                waiting=pool.snapshot.waiting,
                circuit=pool.circuit,
                mode=pool.snapshot.mode,
            )
            for pool in process.pools
        ),
        holders=len(process.holders) + process.holders_left_out,
        oldest=None if held is None else held + process.age,
        operations=len(listed(section(process.document, "operations"))),
        alerts=len(listed(section(process.document, "alerts"))),
        missed=number(process.document, "missed", "snapshots"),
        left_out=tuple(each for each in listed(process.document.get("left_out")) if isinstance(each, str)),
    )
