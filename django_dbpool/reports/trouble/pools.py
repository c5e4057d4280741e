"""Circuits that are not closed, and pools without a free connection."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from django.db import connections

from ...core.ledger import Holder
from ...core.words import one_line
from ...fleet import Process, ProcessPool
from ..changes import circuit_changes
from ..culprits import leases_of
from .problem import Problem, Severity, about, counted, duration, who

_Where = Sequence[tuple[Process, ProcessPool]]

_CIRCUITS: dict[str, tuple[Severity, str, str]] = {
    "open": (
        "error",
        "its server can't be reached, and callers are refused at once",
        (
            "Look whether the server runs and lets this host in: `{ready}`, its log, the firewall. Restart nothing "
            "here: the circuit closes by itself within a second of the server's return."
        ),
    ),
    "isolated": (
        "error",
        "it is held open by hand, and callers are refused at once",
        "Whoever has called isolate() on its breaker has to call reset(); a restart of the process does so, too.",
    ),
    "half-open": (
        "warning",
        "its server could not be reached, and one caller is trying whether it is back",
        "Wait for some seconds. If the circuit opens again, look whether the server runs: `{ready}`, its log.",
    ),
}


def of_pools(current: Sequence[Process], at: float) -> Iterator[Problem]:
    """
    Args:
        current: processes that have spoken lately.
        at: unix time of the reading.
    """
    by_alias: dict[str, list[tuple[Process, ProcessPool]]] = {}
    for process in current:
        for pool in process.pools:
            by_alias.setdefault(pool.snapshot.alias, []).append((process, pool))
    for alias, where in by_alias.items():
        yield from _of_circuits(alias, where, at)
        yield from _of_use(alias, where)


def _of_circuits(alias: str, where: _Where, at: float) -> Iterator[Problem]:
    for circuit, (severity, text, remedy) in _CIRCUITS.items():
        those = [process for process, pool in where if pool.circuit == circuit]
        if those:
            yield about(
                those,
                f"circuit-{circuit}",
                severity,
                f"the circuit of database {alias!r} is {circuit}: {text}.",
                remedy.format(ready=_pg_isready(alias)),
                alias=alias,
                since=_since(those, alias, at),
            )


def _since(those: Sequence[Process], alias: str, at: float) -> float | None:
    """When the first of them left the state in which all was well, as far as that is told."""
    left = []
    for process in those:
        steps = [step.ago for step in circuit_changes(process, alias) if step.before == "closed"]
        left += steps[-1:]
    return at - max(left) if left else None


def _pg_isready(alias: str) -> str:
    """The command with the server's address, by the settings of this process."""
    entry = connections.settings.get(alias) or {}
    host, port = one_line(str(entry.get("HOST") or ""), 100), one_line(str(entry.get("PORT") or ""), 20)
    return " ".join(
        ["pg_isready", *(["-h", shlex.quote(host)] if host else []), *(["-p", shlex.quote(port)] if port else [])]
    )


def _of_use(alias: str, where: _Where) -> Iterator[Problem]:
    waiting = [(process, pool) for process, pool in where if pool.snapshot.waiting]
    if waiting:
        callers = sum(pool.snapshot.waiting for _, pool in waiting)
        yield about(
            [process for process, _ in waiting],
            "waiting",
            "error",
            f"{counted(callers, 'caller waits', 'callers wait')} for a connection to database {alias!r}"
            f"{_held_by(alias, waiting)}.",
            "End what holds them: page Holders, or `manage.py dbpool status` and `manage.py dbpool terminate`. If all "
            "of it is short, `manage.py dbpool advise` says how far max_size may be raised.",
            alias=alias,
        )
    full = [
        (process, pool)
        for process, pool in where
        if not pool.snapshot.waiting and pool.snapshot.in_use - pool.snapshot.reserve_in_use >= pool.snapshot.max_size
    ]
    if full:
        size = sum(pool.snapshot.max_size for _, pool in full)
        yield about(
            [process for process, _ in full],
            "pool-full",
            "warning",
            f"all {size} connections to database {alias!r} are in use{_held_by(alias, full)}.",
            "The next caller has to wait. Look on page Holders for what holds them; if all of it is short, `manage.py "
            "dbpool advise` says how far max_size may be raised.",
            alias=alias,
        )
    spent = [process for process, pool in where if 0 < pool.snapshot.reserve_size <= pool.snapshot.reserve_in_use]
    if spent:
        yield about(
            spent,
            "reserve-full",
            "error" if waiting else "warning",
            f"the reserve of database {alias!r} is in use: health checks, these pages and marked work have to wait.",
            "Look on page Holders for those in the reserve. Work that takes long doesn't belong under "
            "transaction.reserved().",
            alias=alias,
        )


def _held_by(alias: str, where: _Where) -> str:
    """The route or task that holds most, all its leases together."""
    groups: dict[str, list[tuple[float, Holder]]] = {}
    for process in {process.identity.instance: process for process, _ in where}.values():
        for holder in leases_of(process):
            if holder.alias == alias:
                groups.setdefault(who(holder), []).append((holder.since_seconds + process.age, holder))
    if not groups:
        return ""
    name, held = max(groups.items(), key=lambda item: sum(seconds for seconds, _ in item[1]))
    seconds, oldest = max(held, key=lambda each: each[0])
    many = "one" if len(held) == 1 else str(len(held))
    return f"; {one_line(name, 100)} holds {many}, for up to {duration(seconds)} ({oldest.state})"
