"""
What is wrong now, and what to do about it: for a person who is woken by it and has not read the manual.

One thing that is wrong in many processes is one problem, which names some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..core.ledger import Holder
from ..core.words import one_line
from ..fleet import Process, ProcessPool, Server
from .limits import Limits
from .measuring import listed, number, section
from .reading import Fleet

Severity = Literal["error", "warning"]

NAMED = 3
"""Processes that a text names."""

IDLE_LONG = 10.0
"""Seconds for which a lease is held, after which one that waits within a transaction is told."""

BLOCKED_LONG = 10.0
"""Seconds that a session waits for a lock before that is told."""

STRANGERS = 5
"""Sessions that no process knows of, up to which nobody is disturbed: a console, a migration. As the alert's."""

SERVER_FULL, SERVER_CROWDED = 0.9, 0.8
"""Shares of the server's connections."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong now."""

    code: str
    """For programs; docs/reports.md has the list."""
    severity: Severity
    """``error``: somebody gets no connection, or soon won't. ``warning``: it costs something, or hides something."""
    text: str
    """What is the case, in a sentence."""
    remedy: str
    """What to do now."""
    process: str | None = None
    """Its name, if it is about one."""
    alias: str | None = None
    since: float | None = None
    """Unix time."""
    processes: int = 1
    """In how many it is so."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


CODES = (
    "circuit-open",
    "circuit-isolated",
    "server-full",
    "waiting",
    "reserve-full",
    "timeouts",
    "connect-failures",
    "stale",
    "fleet-unreachable",
    "circuit-half-open",
    "pool-full",
    "held-idle",
    "held-long",
    "pinned-long",
    "blocked",
    "slow-running",
    "server-crowded",
    "strangers",
    "not-publishing",
)
"""All but those of alerts that have none of these names, in the order in which they are told within a severity."""


def problems(fleet: Fleet) -> tuple[Problem, ...]:
    """Everything that is wrong now: errors first, then by how much it matters."""
    living = [process for process in fleet.processes if process.state != "ended"]
    limits = Limits()
    found = [*_of_reading(fleet), *_of_pools(living), *_of_holders(fleet, living, limits)]
    found += [*_of_processes(fleet, living), *_of_servers(fleet, limits)]
    found += _of_statements(living)
    known = {(each.code, each.alias) for each in found}
    found += [each for each in _of_alerts(living) if not _is_told(each, known)]
    order = {code: place for place, code in enumerate(CODES)}
    found.sort(key=lambda each: (each.severity != "error", order.get(each.code, len(order)), each.alias or ""))
    return tuple(found)


# -- the reading --------------------------------------------------------------------------------------------------


def _of_reading(fleet: Fleet) -> Iterator[Problem]:
    if fleet.source == "fleet" or not (fleet.remarks or fleet.stale):
        return
    seen = {
        "host": "only the processes of this host are seen",
        "process": "only this process is seen",
        "remembered": f"this is what was read {fleet.age:.0f} s ago",
    }[fleet.source]
    why = f": {fleet.remarks[0]}" if fleet.remarks else ""
    yield Problem(
        "fleet-unreachable",
        "warning",
        f"What the processes publish can't be read, {seen}{why}",
        "Look at the database, or cache, that DBPOOL['FLEET'] names. On each host `manage.py dbpool status --local` "
        "asks the processes directly, without it.",
        processes=len(fleet.processes),
    )


# -- pools --------------------------------------------------------------------------------------------------------

_Where = Sequence[tuple[Process, ProcessPool]]


def _of_pools(living: Sequence[Process]) -> Iterator[Problem]:
    by_alias: dict[str, list[tuple[Process, ProcessPool]]] = {}
    for process in living:
        for pool in process.pools:
            by_alias.setdefault(pool.snapshot.alias, []).append((process, pool))
    for alias, where in by_alias.items():
        yield from _of_circuits(alias, where)
        yield from _of_use(alias, where)


def _of_circuits(alias: str, where: _Where) -> Iterator[Problem]:
    server = f"the server of database {alias!r}"
    for circuit, severity, text, remedy in (
        (
            "open",
            "error",
            f"{server} can't be reached, and callers are refused at once",
            "Look whether the server runs, and whether its address, port and firewall let this host in (`pg_isready`, "
            "its log). Restart nothing: the circuit closes by itself within a second of its return.",
        ),
        (
            "isolated",
            "error",
            "it is held open by hand, and callers are refused at once",
            "Whoever has called isolate() on its breaker has to call reset(); a restart of the process does so, too.",
        ),
        (
            "half-open",
            "warning",
            f"{server} could not be reached, and one caller is trying whether it is back",
            "Wait for a few seconds. If it opens again, look whether the server runs (`pg_isready`, its log).",
        ),
    ):
        those = [(process, pool) for process, pool in where if pool.circuit == circuit]
        if those:
            since = _since_change(those, alias, circuit)
            yield _problem(
                f"circuit-{circuit}",
                "error" if severity == "error" else "warning",
                those,
                f"the circuit of database {alias!r} is {circuit}: {text}.",
                remedy,
                alias,
                since,
            )


def _since_change(those: _Where, alias: str, circuit: str) -> float | None:
    """When the first of them changed to this, as far as it is told."""
    found = []
    for process, _ in those:
        told = section(process.document, "circuits")
        steps = listed(told.get(alias)) if isinstance(told, Mapping) else ()
        last = steps[-1] if steps else None
        at = process.document.get("at")
        if isinstance(last, Mapping) and last.get("after") == circuit and isinstance(at, (int, float)):
            ago = last.get("ago")
            found.append(at - ago if isinstance(ago, (int, float)) else at)
    return min(found, default=None)


def _of_use(alias: str, where: _Where) -> Iterator[Problem]:
    waiting = [(process, pool) for process, pool in where if pool.snapshot.waiting]
    if waiting:
        callers = sum(pool.snapshot.waiting for _, pool in waiting)
        yield _problem(
            "waiting",
            "error",
            waiting,
            f"{_count(callers, 'caller waits', 'callers wait')} for a connection to database {alias!r}"
            f"{_held_by(alias, waiting)}.",
            "End what holds them (page Holders, or `manage.py dbpool status` and then `manage.py dbpool terminate`). If "
            "all of it is short, `manage.py dbpool advise` says how far max_size may be raised.",
            alias,
        )
    full = [
        (process, pool)
        for process, pool in where
        if not pool.snapshot.waiting and pool.snapshot.in_use - pool.snapshot.reserve_in_use >= pool.snapshot.max_size
    ]
    if full:
        size = sum(pool.snapshot.max_size for _, pool in full)
        yield _problem(
            "pool-full",
            "warning",
            full,
            f"all {size} connections to database {alias!r} are in use{_held_by(alias, full)}.",
            "The next caller has to wait. Look at who holds them (page Holders); if all of it is short, `manage.py "
            "dbpool advise` says how far max_size may be raised.",
            alias,
        )
    spent = [
        (process, pool) for process, pool in where if 0 < pool.snapshot.reserve_size <= pool.snapshot.reserve_in_use
    ]
    if spent:
        yield _problem(
            "reserve-full",
            "error" if waiting else "warning",
            spent,
            f"the reserve of database {alias!r} is in use: health checks, these pages and marked work have to wait, "
            "too.",
            "Look on page Holders for those in the reserve. Work that takes long doesn't belong under "
            "transaction.reserved().",
            alias,
        )


def _held_by(alias: str, those: _Where) -> str:
    """The group of holders that holds most, all its times together."""
    instances = {process.identity.instance for process, _ in those}
    groups: dict[str, list[tuple[float, Holder]]] = {}
    for process in {id(process): process for process, _ in those}.values():
        for holder in process.holders:
            if holder.alias == alias and process.identity.instance in instances:
                groups.setdefault(who(holder), []).append((holder.since_seconds + process.age, holder))
    if not groups:
        return ""
    name, held = max(groups.items(), key=lambda item: sum(seconds for seconds, _ in item[1]))
    seconds, oldest = max(held, key=lambda each: each[0])
    many = "one" if len(held) == 1 else str(len(held))
    return f"; {one_line(name, 100)} holds {many}, for up to {_duration(seconds)} ({oldest.state})"


def who(holder: Holder) -> str:
    """What it works for, or at least its thread."""
    return holder.name or holder.unit or f"thread {holder.thread}"


# -- holders ------------------------------------------------------------------------------------------------------

_Held = tuple[float, Process, Holder]


def _of_holders(fleet: Fleet, living: Sequence[Process], limits: Limits) -> Iterator[Problem]:
    groups: dict[tuple[str, str, str], list[_Held]] = {}
    for process in living:
        for holder in process.holders:
            held = holder.since_seconds + process.age
            if held >= IDLE_LONG and (code := _too_long(holder, held, limits)) is not None:
                groups.setdefault((code, holder.alias, who(holder)), []).append((held, process, holder))
    for (code, alias, name), held_ones in groups.items():
        yield _of_group(fleet, code, alias, name, held_ones)


def _too_long(holder: Holder, held: float, limits: Limits) -> str | None:
    if holder.pinned:
        return "pinned-long" if held >= limits.of(holder.alias).pin_max else None
    if holder.state.endswith("transaction"):
        return "held-idle"
    return "held-long" if held >= limits.of(holder.alias).leak_after else None


_REMEDIES = {
    "held-idle": "It waits for something else (a call to another system, a lock, a person) inside of a transaction: its "
    "stack on page Holders says for what. End it there or with `manage.py dbpool terminate`; then take the wait out "
    "of atomic(), or put it into on_commit().",
    "held-long": "If it runs a statement, cancel that on page Holders and look at it on page Statements. If it is idle, "
    "a cursor that nobody reads or a leak keeps it: terminate it; DBPOOL['LEAK_STACKS'] shows where it was leased.",
    "pinned-long": "Session state keeps the connection from everybody else. Terminate it on page Holders if it may be "
    "lost; then declare variables with transaction.session(), and put LISTEN and locks on transaction.dedicated().",
}


def _of_group(fleet: Fleet, code: str, alias: str, name: str, those: Sequence[_Held]) -> Problem:
    held, process, holder = max(those, key=lambda each: each[0])
    pinned = f", pinned: {holder.pinned}" if holder.pinned else ""
    many = "a connection" if len(those) == 1 else f"{len(those)} connections"
    longest = "" if len(those) == 1 else "up to "
    processes = {each.identity.instance: each.name for _, each, _ in those}
    single = process.name if len(processes) == 1 else None
    return Problem(
        code,
        "warning",
        f"{_prefix(tuple(processes.values()))}{one_line(name, 100)} has held {many} to database {alias!r} for {longest}"
        f"{_duration(held)} ({holder.state}{pinned}).",
        _REMEDIES[code],
        single,
        alias,
        fleet.at - fleet.age - held if fleet.stale else fleet.at - held,
        len(processes),
    )


# -- processes ----------------------------------------------------------------------------------------------------


def _of_processes(fleet: Fleet, living: Sequence[Process]) -> Iterator[Problem]:
    silent = sorted((process for process in living if process.stale), key=lambda process: -process.age)
    if silent and not fleet.stale:
        oldest = silent[0]
        names = _names([process.name for process in silent])
        verb = "has" if len(silent) == 1 else "have"
        up_to = "" if len(silent) == 1 else "up to "
        yield Problem(
            "stale",
            "error" if len(silent) == len(living) > 1 else "warning",
            f"{names} {verb} not published for {up_to}{oldest.age:.0f} s: "
            + ("does it hang, or was it killed?" if len(silent) == 1 else "do they hang, or were they killed?"),
            f"Look on {_names(sorted({process.identity.host for process in silent}))} whether it still runs. One that was "
            "killed disappears from here by itself; of one that hangs `manage.py dbpool status --local` shows whether it "
            "answers, and py-spy where it is.",
            oldest.name if len(silent) == 1 else None,
            since=fleet.at - oldest.age,
            processes=len(silent),
        )
    unheard = [process for process in living if number(process.document, "missed", "snapshots")]
    if unheard:
        names = _names([process.name for process in unheard])
        missed = unheard[0].document["missed"]
        error = missed.get("error")
        yield Problem(
            "not-publishing",
            "warning",
            f"{names} could not publish for some time{f' ({error})' if isinstance(error, str) else ''}.",
            "Look at the log of django_dbpool.fleet, and at the database or cache that DBPOOL['FLEET'] names: it was "
            "away, full, or read-only.",
            unheard[0].name if len(unheard) == 1 else None,
            processes=len(unheard),
        )


# -- servers ------------------------------------------------------------------------------------------------------


def _of_servers(fleet: Fleet, limits: Limits) -> Iterator[Problem]:
    for server in fleet.servers:
        yield from _of_room(server.alias, server.connections, server.max_connections - server.reserved)
        yield from _of_blocked(fleet, server)
        yield from _of_strangers(fleet, server, limits)


def _of_room(alias: str, taken: int, most: int) -> Iterator[Problem]:
    if most > 0 and taken >= SERVER_CROWDED * most:
        full = taken >= SERVER_FULL * most
        yield Problem(
            "server-full" if full else "server-crowded",
            "error" if full else "warning",
            f"the server of database {alias!r} has {taken} of the {most} connections that it gives to ordinary roles.",
            "Soon nobody can connect. `SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2` "
            "says who has them; end those that nobody needs, run fewer processes, or put a pooler in front.",
            alias=alias,
            processes=0,
        )


def _of_blocked(fleet: Fleet, server: Server) -> Iterator[Problem]:
    for each in server.held:
        session = each.session
        waits = session.state_age if session is not None and (session.waits_for or "").startswith("Lock:") else None
        if session is not None and waits is not None and waits >= BLOCKED_LONG:
            yield Problem(
                "blocked",
                "warning",
                f"{each.process.name}: {one_line(who(each.holder), 100)} has been waiting for a lock "
                f"({session.waits_for}) for {_duration(waits)}, backend {session.pid}.",
                f"`SELECT pg_blocking_pids({session.pid})` names the sessions that it waits for; look for these backends "
                "on page Holders or among the strangers, and end them.",
                each.process.name,
                server.alias,
                fleet.at - waits,
            )


def _of_strangers(fleet: Fleet, server: Server, limits: Limits) -> Iterator[Problem]:
    unknown = server.strangers
    waiting = [
        session
        for session in unknown
        if session.state.startswith("idle in transaction")
        and (session.state_age or 0.0) >= limits.of(server.alias).leak_after
    ]
    if len(unknown) > STRANGERS or waiting:
        names = {one_line(session.application_name, 60) or "without a name" for session in waiting or unknown}
        if waiting:
            text = f"{_count(len(waiting), 'session sits', 'sessions sit')} idle in a transaction"
        else:
            text = f"there are {len(unknown)} sessions"
        oldest = max(session.age for session in waiting or unknown)
        yield Problem(
            "strangers",
            "warning",
            f"database {server.alias!r}: {text} of this role that no process knows of ({_names(sorted(names))}; the oldest "
            f"{_duration(oldest)} old).",
            "A console, a script or code that goes around the pool has them; pg_stat_activity has their addresses. "
            "`manage.py dbpool audit` finds such code.",
            alias=server.alias,
            since=fleet.at - oldest,
            processes=0,
        )


# -- statements and alerts ----------------------------------------------------------------------------------------


def _of_statements(living: Sequence[Process]) -> Iterator[Problem]:
    for process in living:
        for row in listed(section(process.document, "slow_statements")):
            if not isinstance(row, Mapping) or not number(row, "running"):
                continue
            alias, sql, longest = row.get("alias"), row.get("sql"), row.get("longest")
            if isinstance(alias, str) and isinstance(sql, str) and isinstance(longest, (int, float)):
                if longest < IDLE_LONG:
                    continue
                name = row.get("name") or row.get("unit") or "no request or task"
                yield Problem(
                    "slow-running",
                    "warning",
                    f"{process.name}: a statement for {one_line(str(name), 100)} runs for {_duration(longest)} or more in "
                    f"database {alias!r}: {one_line(sql, 200)}",
                    "Cancel it on page Holders if nobody needs its result. Look at its plan (EXPLAIN), and limit such with "
                    "POOL['statement_timeout'].",
                    process.name,
                    alias,
                )


_CODES_OF_RULES = {
    "timeouts": "timeouts",
    "connect_failures": "connect-failures",
    "strangers": "strangers",
    "server_connections": "server-full",
}
_TOLD_AS = {
    "circuit": ("circuit-open", "circuit-isolated", "circuit-half-open"),
    "waiters": ("waiting",),
    "utilisation": ("waiting", "pool-full"),
    "leak": ("held-long", "held-idle"),
    "pins": ("pinned-long",),
    "strangers": ("strangers",),
    "server-full": ("server-full", "server-crowded"),
}
"""By code of an alert: what says the same of this moment."""


def _is_told(problem: Problem, known: set[tuple[str, str | None]]) -> bool:
    return any((code, problem.alias) in known for code in _TOLD_AS.get(problem.code, (problem.code,)))


def _of_alerts(living: Sequence[Process]) -> Iterator[Problem]:
    """Alerts have been so for a while, and last a while longer; those of several processes with one id are one."""
    found: dict[str, list[tuple[Process, Mapping[str, Any]]]] = {}
    for process in living:
        for alert in listed(section(process.document, "alerts")):
            if isinstance(alert, Mapping) and all(
                isinstance(alert.get(key), str) for key in ("id", "rule", "alias", "text", "todo")
            ):
                found.setdefault(alert["id"], []).append((process, alert))
    for those in found.values():
        process, alert = max(those, key=lambda each: (each[1].get("severity") == "critical", each[1].get("value") or 0))
        since = [each["since"] for _, each in those if isinstance(each.get("since"), (int, float))]
        names = [each.name for each, _ in those]
        yield Problem(
            _CODES_OF_RULES.get(alert["rule"], alert["rule"].replace("_", "-")),
            "error" if alert.get("severity") == "critical" else "warning",
            f"{_prefix(names)}database {alert['alias']!r}: {alert['text']}{_holders_of(alert)}",
            alert["todo"],
            names[0] if len(names) == 1 else None,
            alert["alias"],
            min(since, default=None),
            len(names),
        )


def _holders_of(alert: Mapping[str, Any]) -> str:
    names = [name for name in listed(alert.get("holders")) if isinstance(name, str)]
    return f" Held by {', '.join(names)}." if names else ""


# -- words --------------------------------------------------------------------------------------------------------


def _problem(
    code: str, severity: Severity, those: _Where, text: str, remedy: str, alias: str, since: float | None = None
) -> Problem:
    names = list({process.identity.instance: process.name for process, _ in those}.values())
    single = names[0] if len(names) == 1 else None
    return Problem(code, severity, _prefix(names) + text, remedy, single, alias, since, len(names))


def _prefix(names: Sequence[str]) -> str:
    return f"{_names(names)}: "


def _names(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - NAMED
    if more > 0:
        return f"{', '.join(known[:NAMED])} and {more} more"
    return " and ".join(filter(None, [", ".join(known[:-1]), *known[-1:]]))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
