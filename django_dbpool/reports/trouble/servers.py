"""What servers say, where they were asked: room, locks, strangers."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.words import one_line
from ...fleet import HeldSession, Server
from ..counts import server_counts
from ..limits import Limits
from ..reading import Fleet
from .problem import Problem, about, counted, duration, listing, who

BLOCKED_LONG = 10.0
"""Seconds that a session waits for a lock before that is told."""

STRANGERS = 5
"""Sessions that no process knows of, up to which nobody is disturbed: a console, a migration. As the alert's."""

FULL, CROWDED = 0.9, 0.8
"""Shares of the server's connections."""


def of_servers(fleet: Fleet, limits: Limits) -> Iterator[Problem]:
    rooms = server_counts(fleet)
    for server in fleet.servers:
        rooms[server.alias] = server.connections, server.max_connections - server.reserved
    for alias, (taken, most) in rooms.items():
        yield from _of_room(alias, taken, most)
    for server in fleet.servers:
        yield from _of_blocked(fleet, server)
        yield from _of_strangers(fleet, server, limits)


def _of_room(alias: str, taken: int, most: int) -> Iterator[Problem]:
    if most <= 0 or taken < CROWDED * most:
        return
    full = taken >= FULL * most
    yield Problem(
        "server-full" if full else "server-crowded",
        "error" if full else "warning",
        f"the server of database {alias!r} has {taken} of the {most} connections that it can give.",
        "Soon nobody can connect. `SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2` "
        "says who has them; end those that nobody needs, run fewer processes, or put a pooler in front.",
        alias=alias,
        processes=0,
    )


def _of_blocked(fleet: Fleet, server: Server) -> Iterator[Problem]:
    """One for each route or task and who has its locks, however many of it wait."""
    groups: dict[tuple[str, tuple[int, ...]], list[tuple[float, HeldSession]]] = {}
    for each in server.held:
        session = each.session
        if session is not None and (session.waits_for or "").startswith("Lock:"):
            seconds = session.state_age or 0.0
            if seconds >= BLOCKED_LONG:
                groups.setdefault((who(each.holder), session.blocked_by), []).append((seconds, each))
    for (name, blockers), those in groups.items():
        longest = max(seconds for seconds, _ in those)
        by = f", held by {listing([_named(server, pid) for pid in blockers])}" if blockers else ""
        many = "has" if len(those) == 1 else f"({len(those)} of them) have"
        up_to = "" if len(those) == 1 else "up to "
        yield about(
            [each.process for _, each in those],
            "blocked",
            "warning",
            f"{one_line(name, 100)} {many} been waiting for a lock in database {server.alias!r} for "
            f"{up_to}{duration(longest)}{by}.",
            "End who holds the lock, if that may be: on page Holders, or with `SELECT pg_terminate_backend(...)` where "
            f"it is nobody's. `SELECT pg_blocking_pids({those[0][1].holder.backend_pid})` names its backend.",
            alias=server.alias,
            since=fleet.at - longest,
        )


def _named(server: Server, pid: int) -> str:
    """Who has a backend, as far as anybody knows."""
    for each in server.held:
        if each.holder.backend_pid == pid:
            return f"{one_line(who(each.holder), 60)} of {each.process.name} (backend {pid})"
    for session in server.strangers:
        if session.pid == pid:
            return f"a stranger, application {session.application_name or 'without a name'!r} (backend {pid})"
    return f"backend {pid}"


def _of_strangers(fleet: Fleet, server: Server, limits: Limits) -> Iterator[Problem]:
    unknown = fleet.strangers[server.alias]
    limit = limits.of(server.alias).leak_after
    waiting = [
        session
        for session in unknown
        if session.state.startswith("idle in transaction") and (session.state_age or 0.0) >= limit
    ]
    if len(unknown) <= STRANGERS and not waiting:
        return
    those = waiting or unknown
    names = listing(sorted({session.application_name or "without a name" for session in those}))
    many = counted(len(those), "session", "sessions")
    oldest = max(those, key=lambda session: session.age)
    longest = max((session.state_age or 0.0 for session in waiting), default=0.0)
    doing = f"idle in a transaction for up to {duration(longest)}, " if waiting else ""
    yield Problem(
        "strangers",
        "warning",
        f"database {server.alias!r} has {many} of this role that no process knows of: {doing}application {names}, "
        f"the oldest is backend {oldest.pid}, {duration(oldest.age)} old.",
        "A console, a script, or code that goes around the pool. `TABLE pg_stat_activity` has the address that each "
        f"came from; `SELECT pg_terminate_backend({oldest.pid})` ends the oldest. `manage.py dbpool audit` finds "
        "such code.",
        alias=server.alias,
        since=fleet.at - oldest.age,
        processes=0,
    )
