"""What settings fit the load of the fleet: as ``manage.py dbpool advise`` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..advice import Advice, Load, Report, busiest, loads_in, paste_of, report_of
from ..checks.pools import pools
from ..checks.project import by_server, read_project
from ..conf.alias import Alias
from ..core.advice import Room
from ..core.project import ProjectConfig
from ..core.readers import ConfigError
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
    Args:
        known: as of ``django_dbpool.advice.facts_of()``.
    """
    together = next(group for group in by_server(pools()) if alias.name in [each.name for each in group])
    return report_of(alias, project, loads, aliases=len(together), **known)


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
