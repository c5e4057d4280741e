"""What settings fit the load of the fleet: as ``manage.py dbpool advise`` finds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..advice import Advice, Load, Report, busiest, loads_in, paste_of, report_of
from ..checks.pools import pools
from ..checks.project import by_server, faults_of_pool, read_project
from ..conf import name_of_setting
from ..conf.alias import Alias
from ..conf.readiness import faults_of_readiness
from ..conf.rules import faults_of_alias
from ..core.advice import Room
from ..core.config import PoolConfig
from ..core.project import ProjectConfig
from ..core.readers import ConfigError, Fault
from .counts import server_counts
from .reading import Fleet

SOURCES = {
    "fleet": "fleet",
    "host": "processes of this host",
    "process": "this process",
    "remembered": "fleet, as it was",
}


@dataclass(frozen=True, slots=True)
class AdviceReport:
    """Of one database."""

    alias: str
    basis: str
    """What it rests on, in a sentence."""
    advice: tuple[Advice, ...]
    """Each with its setting, the value now and the one proposed, and the reason."""
    unknown: tuple[str, ...]
    """What was not known, and how to make it known."""
    paste: str
    """Lines for the settings file; empty where nothing is to be changed."""

    @property
    def changes(self) -> dict[str, Any]:
        """Keys of ``POOL`` to be written."""
        return {item.setting: item.proposed for item in self.advice if item.kind == "change"}

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return {
            "alias": self.alias,
            "basis": self.basis,
            "advice": [item.to_json() for item in self.advice],
            "unknown": list(self.unknown),
            "changes": self.changes,
            "paste": self.paste,
        }


def advice(fleet: Fleet) -> tuple[AdviceReport, ...]:
    """
    For every database of this process's settings, from the loads that the fleet has measured. No server is asked; what
    is known of one is what a process has asked it lately. None where ``DBPOOL`` has faults, which the check names.
    """
    try:
        project = read_project()
    except ConfigError:
        return ()
    loads = [load for load in loads_in(process.document for process in fleet.processes) if load.aliases]
    rooms = {alias: Room(most, 0) for alias, (_, most) in server_counts(fleet).items()}
    for server in fleet.servers:
        rooms[server.alias] = Room(server.max_connections - server.reserved, 0)
    found = []
    for alias in pools():
        report = advise_on(alias, project, loads, room=rooms.get(alias.name, Room()))
        basis = basis_of(alias.name, loads, SOURCES[fleet.source])
        found.append(AdviceReport(alias.name, basis, report.advice, report.unknown, paste_of(alias, report)))
    return tuple(found)


def advise_on(alias: Alias, project: ProjectConfig, loads: Sequence[Load], **known: Any) -> Report:
    """
    Changes of which the checks would complain are none, but something to look at.

    Args:
        known: as of ``django_dbpool.advice.facts_of()``.
    """
    together = next(group for group in by_server(pools()) if alias.name in [each.name for each in group])
    report = report_of(alias, project, loads, aliases=len(together), **known)
    contradicted = _contradicted(alias, project, report.changes)
    items = (_to_look_at(item, contradicted.get(item.setting)) for item in report.advice)
    return replace(report, advice=tuple(items))


_Faults = dict[tuple[str, str], Fault]


def _contradicted(alias: Alias, project: ProjectConfig, changes: Mapping[str, Any]) -> dict[str, Fault]:
    """Settings that can't be changed without a complaint that isn't there now, and that complaint."""
    now = _faults(alias, project, {})
    left, found = dict(changes), {}
    while new := _without(_faults(alias, project, left), now):
        for setting in left:
            rest = {name: value for name, value in left.items() if name != setting}
            solved = _without(new, _faults(alias, project, rest))
            if solved:
                found[setting] = next(iter(solved.values()))
                left = rest
                break
        else:  # each by itself is one too many
            return found | dict.fromkeys(left, next(iter(new.values())))
    return found


def _without(faults: _Faults, others: _Faults) -> _Faults:
    return {key: fault for key, fault in faults.items() if key not in others}


def _faults(alias: Alias, project: ProjectConfig, changes: Mapping[str, Any]) -> _Faults:
    """What the checks say of one pool with these settings."""
    pool = alias.database.get("POOL")
    changed = {**(pool if isinstance(pool, Mapping) else {}), **changes}
    where, ignored = name_of_setting(alias.database, alias.name)
    try:
        config = PoolConfig.from_mapping(changed or True, where=where, ignored=ignored)
    except ConfigError as error:
        found: Iterable[Fault] = error.faults
    else:
        advised = Alias(alias.name, config, {**alias.database, "POOL": changed})
        readiness = faults_of_readiness(project.readiness, {alias.name: advised.database})
        found = [*faults_of_alias(advised), *faults_of_pool(advised, project), *readiness]
    return {(fault.id, fault.key): fault for fault in found}


def _to_look_at(item: Advice, fault: Fault | None) -> Advice:
    if item.kind != "change" or fault is None:
        return item
    contradiction = f"But {item.setting} = {item.proposed!r} contradicts another setting: {fault.message} {fault.hint}"
    reason = f"{item.reason} {contradiction}"
    return replace(item, kind="look", proposed=None, reason=reason)


def basis_of(alias: str, loads: Sequence[Load], source: str) -> str:
    """What advice on one database rests on."""
    chosen = busiest(loads, alias)
    if chosen is None:
        return "Nothing was measured; advice is from settings alone."
    process, load = chosen
    number = sum(alias in each.aliases for each in loads)
    many = "1 process" if number == 1 else f"{number} processes"
    duration = f"{load.seconds / 60:.0f} min" if load.seconds >= 60 else f"{load.seconds:.0f} s"
    return (
        f"Measured by {many} ({source}); the busiest, {process}: {load.leases} leases in {duration}, "
        f"{load.timeouts} timeouts."
    )
