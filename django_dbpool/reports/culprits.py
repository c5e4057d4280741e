"""
Who it is: of all that is going on, those whose end would help the others. Grouped by what they have in common, because
seven requests for one page are one culprit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..core.config import PoolConfig
from ..core.ledger import Holder
from ..core.words import one_line
from ..fleet import Process, Server, Session
from ..fleet.server import same_server
from .holder_rows import HolderRow, holders
from .limits import Limits
from .reading import Fleet

Kind = Literal["holder", "stranger", "session"]

LONG = 10.0
"""Seconds from which on a lease is held for long."""

LONG_WHILE_OTHERS_WAIT = 2.0
"""The same where callers wait for a connection."""

BETWEEN = 1.0
"""Seconds up to which one may just be between two statements."""

MOST = 5000

_NUMBER = re.compile(r"\d+")
_THREAD = re.compile(r"Thread-\d+ \((.+)\)")


@dataclass(frozen=True, slots=True)
class Culprit:
    """One that keeps others from what they need, or soon will. Times are seconds."""

    kind: Kind
    """``holder``: of leases; ``stranger``: a session of our role that no process knows of; ``session``: another one."""
    alias: str
    name: str
    """Route, task or thread of holders; application name of a stranger."""
    text: str
    """What it does, in a sentence."""
    count: int
    """Leases or sessions."""
    oldest: float
    """How long the oldest has held its lease, or has been in its state."""
    youngest: float
    """
    The shortest time for which one of those that are there for long has executed nothing, where its server was asked;
    else for which it has held its lease.
    """
    state: str
    """Of the oldest."""
    blocks: int
    """Leases that wait for its locks, directly or behind others."""
    processes: tuple[str, ...]
    backends: tuple[int, ...]
    """The oldest first, as are the next two."""
    keys: tuple[str, ...] = ()
    """Of the leases: for ``target_of()``."""
    threads: tuple[str, ...] = ()
    sql: str | None = None
    """The last statement of the oldest, placeholders only."""

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def culprits(fleet: Fleet) -> tuple[Culprit, ...]:
    """
    Those whose end would help, the worst first: who is waited for, then who does nothing with what it holds, then who
    works for long, then sessions that nobody knows of.

    Args:
        fleet: ``read(servers=True)``; without the servers nothing is known of locks and strangers.
    """
    servers = {server.alias: server for server in fleet.servers if server.joined}
    rows = lease_rows(fleet)
    limits = Limits()
    waiting = {pool.snapshot.alias for process in fleet.processes for pool in process.pools if pool.snapshot.waiting}
    blockers = {alias: _blockers(server) for alias, server in servers.items()}
    found: list[Culprit] = []
    for alias in sorted({row.alias for row in rows} | set(servers)):
        here = [row for row in rows if row.alias == alias]
        # Two aliases may be one server: then leases of one wait for those of the other.
        near = _together(each for other, each in blockers.items() if same_server(other, alias))
        found += _holders(here, near, limits.of(alias), LONG_WHILE_OTHERS_WAIT if alias in waiting else LONG)
        if alias in servers:
            known = [row for row in rows if same_server(alias, row.alias)]
            found += _sessions(servers[alias], fleet.strangers[alias], known, blockers[alias])
    return tuple(sorted(found, key=_urgency))


def leases_of(process: Process) -> Iterator[Holder]:
    """
    Without connections outside of the pool, which are kept on purpose (listeners, leaders' locks), and without the
    short ones of this package's own threads.
    """
    for holder in process.holders:
        dedicated = holder.backend_pid in process.dedicated.get(holder.alias, ())
        if not (dedicated or holder.thread.startswith("dbpool-")):
            yield holder


def lease_rows(fleet: Fleet) -> list[HolderRow]:
    """Theirs, the oldest first."""
    leases = {
        (each.identity.instance, lease.alias, lease.backend_pid)
        for each in fleet.processes
        for lease in leases_of(each)
    }
    found = holders(fleet, per_page=MOST).items
    return [row for row in found if (row.instance, row.alias, row.backend_pid) in leases]


def kind_of_thread(name: str) -> str:
    """
    What such threads have in common. Python calls them ``Thread-12 (follow)`` by their function, executors
    ``pool-1_3``; numbers tell nobody anything.
    """
    target = _THREAD.fullmatch(name)
    return f"thread {target[1]}()" if target is not None else f"thread {_NUMBER.sub('N', name)}"


def _urgency(culprit: Culprit) -> tuple[Any, ...]:
    rank = 0 if culprit.blocks else 3 if culprit.kind != "holder" else 2 if culprit.state == "running" else 1
    return rank, -culprit.blocks, -culprit.count * culprit.oldest


# -- who waits for whom -------------------------------------------------------------------------------------------


def _blockers(server: Server) -> dict[int, set[int]]:
    """By backend the leases that wait for it, also behind others; only of those that wait for nobody themselves."""
    waits = {session.pid: session.blocked_by for session in server.sessions if session.blocked_by}
    leased = {each.session.pid for each in server.held if each.session is not None}
    found: dict[int, set[int]] = {}
    for pid in waits:
        for root in _roots(pid, waits):
            if pid in leased:
                found.setdefault(root, set()).add(pid)
    return found


def _together(several: Iterable[Mapping[int, set[int]]]) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for each in several:
        for root, waiting in each.items():
            found.setdefault(root, set()).update(waiting)
    return found


def _roots(pid: int, waits: Mapping[int, Sequence[int]]) -> set[int]:
    """In a circle, which is a deadlock that the server will end, there are none."""
    roots, seen, following = set(), {pid}, [pid]
    while following:
        for blocker in waits.get(following.pop(), ()):
            if blocker not in waits:
                roots.add(blocker)
            elif blocker not in seen:
                seen.add(blocker)
                following.append(blocker)
    return roots


# -- leases -------------------------------------------------------------------------------------------------------


def _holders(
    rows: Iterable[HolderRow], blockers: Mapping[int, set[int]], config: PoolConfig, least: float
) -> Iterator[Culprit]:
    groups: dict[str, list[HolderRow]] = {}
    for row in rows:  # the oldest first
        is_victim = (row.server_waits_for or "").startswith("Lock:") and row.backend_pid not in blockers
        if not is_victim and row.on_server is not False:
            groups.setdefault(row.name or _without_path(row), []).append(row)
    for name, those in groups.items():
        blocked = set().union(*(blockers.get(row.backend_pid, set()) for row in those))
        if those[0].pinned and not blocked and those[0].held < config.pin_max:
            continue
        if blocked or those[0].held >= least:
            yield _holder(name, those, len(blocked), least)


def _without_path(row: HolderRow) -> str:
    return kind_of_thread(row.thread) if row.who == f"thread {row.thread}" else row.who


def _holder(name: str, those: Sequence[HolderRow], blocks: int, least: float) -> Culprit:
    oldest = those[0]
    shown = one_line(oldest.who if oldest.name is not None else name, 100)
    many = "1 connection" if len(those) == 1 else f"{len(those)} connections"
    text = f"{shown} holds {many} to database {oldest.alias!r}, the longest for {duration(oldest.held)}"
    return Culprit(
        kind="holder",
        alias=oldest.alias,
        name=shown,
        text=f"{text}; {_does(oldest)}{_blocks(blocks)}.",
        count=len(those),
        oldest=oldest.held,
        youngest=_youngest([_rests(row) for row in those if row.held >= least] or [_rests(oldest)]),
        state=_state(oldest),
        blocks=blocks,
        processes=tuple(sorted({row.process for row in those})),
        backends=tuple(row.backend_pid for row in those),
        keys=tuple(row.key for row in those),
        threads=tuple(row.thread for row in those),
        sql=oldest.sql,
    )


def _rests(row: HolderRow) -> float:
    """Held for ten minutes it may have executed something a second ago, and that is what `terminate` counts from."""
    seconds = row.server_state_seconds
    return row.held if not row.on_server or seconds is None or _state(row) == "running" else min(row.held, seconds)


def _youngest(rests: Sequence[float]) -> float:
    """Not of one that was seen between two statements, if others are."""
    return min([each for each in rests if each >= BETWEEN] or rests)


def _state(row: HolderRow) -> str:
    """As the server says, where it was asked: it has been asked now, and the process has published seconds ago."""
    return _OF_SERVER.get(row.server_state or "", row.state) if row.on_server else row.state


_OF_SERVER = {
    "active": "running",
    "idle": "idle",
    "idle in transaction": "idle in transaction",
    "idle in transaction (aborted)": "failed transaction",
}


def _does(row: HolderRow) -> str:
    state = _state(row)
    if state == "running":
        waits = row.server_waits_for
        return f"it runs a statement, which waits for {waits}" if waits else "it runs a statement"
    pinned = f" (pinned: {row.pinned})" if row.pinned else ""
    if state.endswith("transaction"):
        return f"it is {state}{pinned}: it waits for something that is not the database"
    return f"it is {state}{pinned} and asks the database for nothing"


def _blocks(number: int) -> str:
    if not number:
        return ""
    return f"; {number} {'other waits' if number == 1 else 'others wait'} for its locks"


# -- sessions that are no leases ------------------------------------------------------------------------------------


def _sessions(
    server: Server, strangers: Sequence[Session], rows: Sequence[HolderRow], blockers: Mapping[int, set[int]]
) -> Iterator[Culprit]:
    leased = {row.backend_pid for row in rows}
    groups: dict[str, list[Session]] = {}
    for session in strangers:
        sits = session.state.startswith("idle in transaction") and (session.state_age or 0.0) >= LONG
        if sits or session.pid in blockers:
            groups.setdefault(session.application_name, []).append(session)
    for name, those in groups.items():
        blocked = set().union(*(blockers.get(session.pid, set()) for session in those))
        yield _stranger(server.alias, name, those, len(blocked))
    known = leased | {session.pid for session in server.strangers}
    for pid, blocked in blockers.items():
        if pid not in known:
            yield _unknown(server, pid, len(blocked))


def _stranger(alias: str, name: str, those: Sequence[Session], blocks: int) -> Culprit:
    oldest = max(those, key=lambda session: session.state_age or 0.0)
    shown = f"application {one_line(name, 60)!r}" if name else "an application without a name"
    many = "a session" if len(those) == 1 else f"{len(those)} sessions"
    state = oldest.state or "in an unknown state"
    ages = sorted(those, key=lambda session: -(session.state_age or 0.0))
    return Culprit(
        kind="stranger",
        alias=alias,
        name=name,
        text=f"{shown}, which no process of the project knows of, has {many} in database {alias!r}, {state} for "
        f"{duration(oldest.state_age or 0.0)}{_blocks(blocks)}.",
        count=len(those),
        oldest=oldest.state_age or 0.0,
        youngest=ages[-1].state_age or 0.0,
        state=state,
        blocks=blocks,
        processes=(),
        backends=tuple(session.pid for session in ages),
    )


def _unknown(server: Server, pid: int, blocks: int) -> Culprit:
    """A young session of our role, one of another role, a prepared transaction (0)."""
    session = next((each for each in server.sessions if each.pid == pid), None)
    named = session is not None and session.application_name
    shown = f"application {named!r}" if named else "no process of the project"
    what = f"the session of backend {pid} ({shown})" if pid else "a prepared transaction (pg_prepared_xacts)"
    return Culprit(
        kind="session",
        alias=server.alias,
        name=str(named or ""),
        text=f"{what} has locks in database {server.alias!r}{_blocks(blocks)}.",
        count=1,
        oldest=(session.state_age or 0.0) if session is not None else 0.0,
        youngest=(session.state_age or 0.0) if session is not None else 0.0,
        state=session.state if session is not None else "unknown",
        blocks=blocks,
        processes=(),
        backends=(pid,) if pid else (),
    )


def duration(seconds: float) -> str:
    """For people: ``0.4 s``, ``41 s``, ``12 min``, ``3 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
