"""
Advice on the settings of this project's pools, from what its processes have measured.

``manage.py dbpool advise`` prints it; docs/advice.md says how it is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .alerts.service import service
from .conf import name_of_setting
from .conf.alias import Alias
from .core.advice import Advice, Facts, Measured, Report, Room, Settings, advise, paste
from .core.process import this_process
from .core.project import ProjectConfig

__all__ = ["Advice", "Load", "Report", "facts_of", "load_section", "loads_in", "own_load", "paste_of", "report_of"]

SECTION = "load"
"""Of a process's snapshot: what it has measured, by alias."""

_LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Load:
    """What one process has measured."""

    process: str
    """Host and pid."""
    aliases: Mapping[str, Measured]


def own_load() -> Load:
    """Of this process."""
    here = this_process()
    return Load(f"{here.host}:{here.pid}", service().measured())


def load_section() -> dict[str, Any] | None:
    """The same as JSON values, for a snapshot; None where nothing is known yet."""
    found = service().measured()
    return {alias: load.to_json() for alias, load in found.items()} or None


def loads_in(documents: Iterable[Mapping[str, Any]]) -> list[Load]:
    """
    What other processes have measured.

    Args:
        documents: their snapshots. What can't be understood is left out: it may be of another version.
    """
    return [load for document in documents if (load := _load_in(document)) is not None]


def _load_in(document: Mapping[str, Any]) -> Load | None:
    sections = document.get("sections")
    section = sections.get(SECTION) if isinstance(sections, Mapping) else None
    if not isinstance(section, Mapping):
        return None
    found = {}
    for alias, values in section.items():
        try:
            found[str(alias)] = Measured.from_json(values)
        except (AttributeError, TypeError, ValueError):
            continue
    return Load(f"{_printable(document.get('host'))}:{_printable(document.get('pid'))}", found)


def _printable(value: object) -> str:
    """Others have written it, and it goes to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value)[:200])


def busiest(loads: Iterable[Load], alias: str) -> tuple[str, Measured] | None:
    """The process that needed most: all have the same settings, so its needs decide."""
    known = [(load.process, load.aliases[alias]) for load in loads if alias in load.aliases]
    return max(known, key=lambda each: each[1].peak_load + each[1].peak_queue, default=None)


def facts_of(
    alias: Alias,
    project: ProjectConfig,
    loads: Iterable[Load] = (),
    *,
    room: Room | None = None,
    processes: int | None = None,
    threads: int | None = None,
    cpus: int | None = None,
    aliases: int = 1,
) -> Facts:
    """
    What is known of one database.

    Args:
        loads: of every process.
        room: what its server has for connections.
        processes, threads, cpus: where they are given they win over settings and what is seen.
        aliases: databases of this project on that server.
    """
    loads = [load for load in loads if alias.name in load.aliases]
    found = busiest(loads, alias.name)
    declared, source = project.process_count(os.environ)
    config = alias.config
    room = room or Room()
    return Facts(
        alias=alias.name,
        settings=Settings(**{name: getattr(config, name) for name in Settings.__slots__}),
        measured=None if found is None else found[1],
        room=Room(room.connections, room.others, cpus or room.cpus or _cpus(alias)),
        processes=processes or (declared if source else len(loads) or None),
        threads=threads or project.threads,
        worker_timeout=project.worker_timeout,
        budget=project.budget,
        web=project.role in (None, "web"),
        aliases=aliases,
    )


def _cpus(alias: Alias) -> int | None:
    """Those of this machine, if the server is on it."""
    host = str(alias.database.get("HOST") or "")
    return os.cpu_count() if host in _LOCAL or host.startswith("/") else None


def report_of(alias: Alias, project: ProjectConfig, loads: Iterable[Load] = (), **known: Any) -> Report:
    """Advice for one database; the arguments are those of ``facts_of()``."""
    return advise(facts_of(alias, project, loads, **known))


def paste_of(alias: Alias, report: Report) -> str:
    """The changes as lines for the settings file; "" where there are none."""
    target, _ = name_of_setting(alias.database, alias.name)
    return paste(report, target, present=isinstance(alias.database.get("POOL"), Mapping))
