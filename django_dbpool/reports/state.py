"""How the databases are, all processes together, and how the whole is, in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from django.db import connections

from ..fleet import Process, ProcessPool, Server
from .changes import MOST, RECENT, CircuitStep, circuit_changes
from .counts import server_counts
from .measuring import (
    Durations,
    Percentiles,
    Series,
    SeriesSum,
    added,
    amount,
    listed,
    number,
    raw_section,
)
from .reading import Fleet, is_current
from .trouble import Problem, problems

Status = Literal["healthy", "degraded", "unhealthy"]

CIRCUITS = ("isolated", "open", "half-open", "closed")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Database:
    """One alias, the pools of all processes together."""

    alias: str
    active: int
    """Connections in use, those of the reserve included."""
    idle: int
    total: int
    """Open or being opened."""
    max: int
    """The limit, without the reserve."""
    waiting: int
    """Callers."""
    reserve: int
    """The limit of the reserve."""
    reserve_used: int
    utilization_percent: float
    """Of ``max``; the reserve is apart."""
    timeouts: int
    """Callers that waited to the end of their time; this and the next two since each process began."""
    refused: int
    """Callers that got no connection, for whatever reason; the timeouts among them."""
    leases: int
    recent_timeouts: int
    """The same in the last 15 minutes."""
    recent_refused: int
    recent_activity: int | None
    """Leases of the last 15 minutes; None where no process says."""
    circuit: str
    """The worst of all processes: isolated, open, half-open, closed."""
    circuits: Mapping[str, int]
    """How many pools have it in which state; ``unknown``: of processes that are idle and have long been silent."""
    circuit_changes: tuple[CircuitStep, ...]
    """Of the last 15 minutes, the latest first."""
    waits: Percentiles
    """How long callers waited for their connection; a free one is had in no time."""
    holds: Percentiles
    """How long leases lasted that have ended."""
    connects: Percentiles
    """How long it took to open connections."""
    window: float | None
    """Seconds that these three are of; None: since the processes began."""
    series: Series
    response_time_ms: float | None
    """What opening a connection takes: the median, as its histogram's bucket says."""
    is_pooler: bool | None
    """A pooler is between, as settings say or its server shows; None where nobody knows."""
    is_shutting_down: bool
    """Every process that uses it is."""
    server_connections: int | None
    """Everybody's, on the whole server; None where nobody has asked it lately."""
    server_max: int | None
    processes: int

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        values = {name: getattr(self, name) for name in Database.__slots__}
        for name in ("waits", "holds", "connects", "series"):
            values[name] = values[name].to_json()
        values["circuits"] = dict(self.circuits)
        values["circuit_changes"] = [step.to_json() for step in self.circuit_changes]
        return values


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole, at a glance."""

    healthy: bool
    status: Status
    sentence: str
    problems: tuple[Problem, ...]
    databases: tuple[Database, ...]
    processes: int
    roles: Mapping[str, int]
    timestamp: float
    """When it was so; unix time."""
    source: str
    age: float
    stale: bool
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {
            **{name: getattr(self, name) for name in Overview.__slots__},
            "problems": [problem.to_json() for problem in self.problems],
            "databases": [database.to_json() for database in self.databases],
            "roles": dict(self.roles),
            "remarks": list(self.remarks),
        }


def overview(fleet: Fleet) -> Overview:
    """
    How everything is.

    Args:
        fleet: as ``read()``, ``remembered()`` or ``own()`` gives it.
    """
    found = problems(fleet)
    status: Status = "healthy"
    if found:
        status = "unhealthy" if any(each.severity == "error" for each in found) else "degraded"
    those = databases(fleet)
    living = [process for process in fleet.processes if process.state != "ended"]
    roles: dict[str, int] = {}
    for process in living:
        roles[process.identity.role] = roles.get(process.identity.role, 0) + 1
    return Overview(
        healthy=status == "healthy",
        status=status,
        sentence=_sentence(fleet, found, those, len(living)),
        problems=found,
        databases=those,
        processes=len(living),
        roles=dict(sorted(roles.items())),
        timestamp=fleet.at,
        source=fleet.source,
        age=fleet.age,
        stale=fleet.stale,
        remarks=fleet.remarks,
    )


def _sentence(fleet: Fleet, found: Sequence[Problem], those: Sequence[Database], processes: int) -> str:
    past = f"As of {fleet.age:.0f} s ago: " if fleet.stale else ""
    if found:
        more = f" And {len(found) - 1} more." if len(found) > 1 else ""
        return f"{past}{found[0].text}{more}"
    if not processes:
        return f"{past}No process is at work."
    where = {"host": " of this host", "process": " (this one)"}.get(fleet.source, "")
    many = f"1 process{where} uses" if processes == 1 else f"{processes} processes{where} use"
    use = f"{sum(each.active for each in those)} of {sum(each.max for each in those)} connections"
    return f"{past}All is well: {many} {use}, and nobody waits."


# -- databases ----------------------------------------------------------------------------------------------------


def databases(fleet: Fleet) -> tuple[Database, ...]:
    """Every alias that one of the processes has a pool for, in alphabetical order."""
    sums: dict[str, _Sum] = {}
    for process in fleet.processes:
        if process.state != "ended":
            for pool in process.pools:
                each = sums.setdefault(pool.snapshot.alias, _Sum(pool.snapshot.alias))
                each.add(pool, current=is_current(process))
            _add_process(sums, process)
    servers = {server.alias: server for server in fleet.servers}
    counted = server_counts(fleet)
    return tuple(each.database(servers.get(alias), counted.get(alias)) for alias, each in sorted(sums.items()))


def _add_process(sums: dict[str, _Sum], process: Process) -> None:
    """Of an alias in this process, whose pools may be several, what is told once."""
    document = process.document
    # As they came: these are numbers by the thousand, and each is looked at where it is added.
    measured = {
        pool["alias"]: pool.get("measures")
        for pool in listed(document.raw("pools"))
        if isinstance(pool, dict) and isinstance(pool.get("alias"), str)
    }
    recent = raw_section(document, "recent") if process.age < RECENT else {}
    series = document.raw("series")
    points = series.get("pools") if isinstance(series, dict) else None
    ago = series.get("ago") if isinstance(series, dict) else None
    at, started = document.get("at"), process.identity.started
    lived = process.age + max(0.0, (at if isinstance(at, (int, float)) else started) - started)
    for alias in {pool.snapshot.alias for pool in process.pools}:
        total = sums[alias]
        total.processes += 1
        total.ending += document.get("shutting_down") is True
        total.measure(measured.get(alias), recent.get(alias) if isinstance(recent, dict) else None)
        total.changes += circuit_changes(process, alias)
        size = sum(pool.snapshot.max_size for pool in process.pools if pool.snapshot.alias == alias)
        told = points.get(alias) if isinstance(points, Mapping) else None
        total.series.add(ago, told, age=process.age, lived=lived, size=size)


class _Counts:
    """Counters and durations of several processes."""

    def __init__(self) -> None:
        self.leases = self.refused = self.timeouts = 0
        self.seconds = 0.0
        self.waits, self.holds, self.connects = Durations(), Durations(), Durations()

    def add(self, told: Mapping[str, Any]) -> None:
        """
        Args:
            told: what one process has counted; whatever it is.
        """
        refused = told.get("refused")
        if isinstance(refused, dict):
            self.refused += added(refused.values())
            self.timeouts += number(refused, "PoolExhausted")
        self.leases += number(told, "leases")
        self.seconds = max(self.seconds, amount(told.get("seconds")))
        for name, durations in (("wait", self.waits), ("use", self.holds), ("connect", self.connects)):
            durations.add(told.get(name))


class _Sum:
    """One alias."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.pools: list[ProcessPool] = []
        self.processes = self.ending = 0
        self.ever = _Counts()
        self.recent: _Counts | None = None
        self.series = SeriesSum()
        self.changes: list[CircuitStep] = []
        self.circuits: dict[str, int] = {}

    def add(self, pool: ProcessPool, *, current: bool) -> None:
        self.pools.append(pool)
        circuit = pool.circuit if current else "unknown"
        self.circuits[circuit] = self.circuits.get(circuit, 0) + 1

    def measure(self, ever: object, recent: object) -> None:
        if isinstance(ever, dict):
            self.ever.add(ever)
        if isinstance(recent, dict):
            self.recent = self.recent or _Counts()
            self.recent.add(recent)

    def database(self, server: Server | None, counted: tuple[int, int] | None) -> Database:
        now = [pool.snapshot for pool in self.pools]
        size, reserve_used = sum(each.max_size for each in now), sum(each.reserve_in_use for each in now)
        active = sum(each.in_use for each in now)
        recent, ever = self.recent, self.ever
        told = recent or ever
        connects = told.connects.percentiles()
        total = sum(each.size for each in now)
        if server is not None:
            counted = server.connections, server.max_connections
        elif counted is not None:
            # Asked once a minute; what the processes have said of themselves is younger.
            counted = max(counted[0], total), counted[1]
        return Database(
            alias=self.alias,
            active=active,
            idle=sum(each.idle for each in now),
            total=total,
            max=size,
            waiting=sum(each.waiting for each in now),
            reserve=sum(each.reserve_size for each in now),
            reserve_used=reserve_used,
            utilization_percent=round(100 * min(1.0, max(0, active - reserve_used) / size), 1) if size > 0 else 0.0,
            timeouts=ever.timeouts,
            refused=ever.refused,
            leases=ever.leases,
            recent_timeouts=recent.timeouts if recent else 0,
            recent_refused=recent.refused if recent else 0,
            recent_activity=recent.leases if recent else None,
            circuit=worst(self.circuits),
            circuits=self.circuits,
            circuit_changes=tuple(sorted(self.changes, key=lambda step: step.ago)[:MOST]),
            waits=told.waits.percentiles(),
            holds=told.holds.percentiles(),
            connects=connects,
            window=recent.seconds if recent else None,
            series=self.series.series(),
            response_time_ms=None if connects.p50 is None else connects.p50 * 1000,
            is_pooler=_is_pooler(self.alias, server),
            is_shutting_down=self.processes > 0 and self.ending == self.processes,
            server_connections=counted[0] if counted else None,
            server_max=counted[1] if counted else None,
            processes=self.processes,
        )


def worst(circuits: Iterable[str]) -> str:
    known = set(circuits)
    return next((each for each in CIRCUITS if each in known), "closed")


def _is_pooler(alias: str, server: Server | None) -> bool | None:
    """As settings say; else as its server shows, where it was asked."""
    entry = connections.settings.get(alias)
    pool = entry.get("POOL") if entry is not None else None
    if isinstance(pool, dict) and pool.get("pooler") is not None:
        return True
    if server is not None:
        return not server.joined
    return False if entry is not None else None
