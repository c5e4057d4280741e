"""
What the server says of the connections that the processes hold: the sessions of our role in our database, joined with
the holders by backend pid.

Never the text of a query: Django puts the values into it, and ``pg_stat_activity`` would show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from django.db import DatabaseError, connections

from ..core.ledger import Holder
from ..core.words import one_line
from ..pool import probing
from ..pool.dedicated import dedicated_backends
from ..pool.registry import pools
from ..transaction import atomic, deadline, reserved
from .documents import Process
from .reading import first_line
from .stores import FleetUnavailable

PATIENCE = 3.0
SETTLED = 15.0
"""Seconds that a session must have lasted before it can be a stranger: a process tells of new ones only later."""

SLACK = 2.0
"""Seconds by which a session may seem to be younger than the lease on it."""

_QUESTION = """
SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.state, ''), a.wait_event_type, a.wait_event,
       extract(epoch FROM clock_timestamp() - a.backend_start)::float8,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8,
       extract(epoch FROM clock_timestamp() - a.state_change)::float8,
       a.pid = pg_backend_pid(),
       -- it takes every lock of the lock manager for a moment, so it is asked of those alone that wait for one
       CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END
  FROM pg_stat_activity a
 WHERE a.usename = session_user AND a.datname = current_database() AND a.backend_type = 'client backend'
UNION ALL
SELECT count(*)::int, '', '', NULL, NULL, current_setting('max_connections')::float8,
       current_setting('superuser_reserved_connections')::float8
         + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::float8, NULL, NULL, NULL
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' OR (backend_type IS NULL AND usesysid IS NOT NULL)
"""


@dataclass(frozen=True, slots=True)
class Session:
    """One session of our role, as the server sees it. Times are ages in seconds."""

    pid: int
    application_name: str
    state: str
    """``active``, ``idle``, ``idle in transaction``, ...; empty where the server doesn't track it."""
    waits_for: str | None
    """For example ``Lock: transactionid``."""
    age: float
    transaction_age: float | None
    state_age: float | None
    blocked_by: tuple[int, ...] = ()
    """The backends whose locks it waits for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class HeldSession:
    """A lease, and what the server says of its session; None: it has no such session (any more)."""

    process: Process
    holder: Holder
    session: Session | None

    @property
    def idle_in_transaction_seconds(self) -> float | None:
        """How long the server has been waiting for the holder's next statement, within a transaction."""
        session = self.session
        if session is None or not session.state.startswith("idle in transaction"):
            return None
        return session.state_age

    def to_json(self) -> dict[str, Any]:
        return {
            "process": self.process.name,
            "instance": self.process.identity.instance,
            "holder": asdict(self.holder),
            "session": self.session and self.session.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Server:
    """One database as its server sees it."""

    alias: str
    joined: bool
    """
    Whether sessions could be told apart. Not behind a pooler: the pids that clients are told are the pooler's own.
    """
    connections: int
    """Of all roles and databases."""
    max_connections: int
    reserved: int
    """Of them for superusers and the like."""
    sessions: tuple[Session, ...]
    held: tuple[HeldSession, ...]
    strangers: tuple[Session, ...]
    """Sessions of our role in this database that no process of the fleet knows of, oldest first."""

    def to_json(self) -> dict[str, Any]:
        return {
            "alias": self.alias,
            "joined": self.joined,
            "connections": self.connections,
            "max_connections": self.max_connections,
            "reserved": self.reserved,
            "sessions": len(self.sessions),
            "held": [each.to_json() for each in self.held],
            "strangers": [each.to_json() for each in self.strangers],
        }


def server_of(alias: str, processes: Sequence[Process]) -> Server:
    """
    Ask the server of an alias about the holders of this alias. One query, which needs no rights: a role always sees
    its own sessions.

    Behind a pooler nothing can be joined; ``joined`` says so.

    Args:
        alias: of a database.
        processes: as ``fleet.processes()`` gives them.

    Raises:
        FleetUnavailable: the server can't be asked.

    Example:
        server = server_of("default", processes())
        for each in server.held:
            print(each.process.name, each.holder.unit, each.idle_in_transaction_seconds)
    """
    try:
        rows, joined = _asked(alias)
    except DatabaseError as error:
        raise FleetUnavailable(f"the server of database {alias!r} can't be asked: {first_line(error)}") from error
    ((total, *_, most, kept, _, _, _),) = [row for row in rows if row[8] is None]
    sessions = {row[0]: _session(row) for row in rows if joined and row[8] is not None}
    asking = {row[0] for row in rows if row[8]}
    held = [
        HeldSession(process, holder, _of_lease(sessions.get(holder.backend_pid), process, holder))
        for process in processes
        for holder in process.holders
        if holder.alias == alias
    ]
    known = asking | _claimed(alias, processes)
    strangers = [each for each in sessions.values() if _is_strange(each, known)]
    return Server(
        alias=alias,
        joined=joined,
        connections=total,
        max_connections=int(most),
        reserved=int(kept),
        sessions=tuple(sessions.values()),
        held=tuple(held),
        strangers=tuple(sorted(strangers, key=lambda session: -session.age)),
    )


def _is_strange(session: Session, known: set[int]) -> bool:
    return (
        session.pid not in known
        and session.age >= SETTLED
        and not session.application_name.endswith(probing.APPLICATION)
    )


def _asked(alias: str) -> tuple[list[Any], bool]:
    """The answer, and whether it came from the process that this client was told of."""
    inside = atomic(using=alias) if connections[alias].in_atomic_block else nullcontext()
    with reserved(), deadline(PATIENCE), inside, connections[alias].cursor() as cursor:
        told = connections[alias].connection.info.backend_pid  # now: with the statement the lease ends
        cursor.execute(_QUESTION)
        rows = list(cursor.fetchall())
    pool = connections.settings[alias].get("POOL")
    pooler = pool.get("pooler") if isinstance(pool, dict) else None
    # A pooler may pass the server's pids on, so that one which is declared counts all the same.
    return rows, pooler is None and [told] == [row[0] for row in rows if row[8]]


def _session(row: Sequence[Any]) -> Session:
    pid, application, state, kind, event, age, transaction_age, state_age, _, blocked_by = row
    return Session(
        pid=pid,
        application_name=one_line(application),
        state=state,
        waits_for=f"{kind}: {event}" if kind and event and kind != "Client" else None,
        age=max(0.0, age or 0.0),
        transaction_age=transaction_age,
        state_age=state_age,
        blocked_by=tuple(sorted(set(blocked_by or ()))),
    )


def _of_lease(session: Session | None, process: Process, holder: Holder) -> Session | None:
    """None if the session is younger than the lease: the server has used the pid again."""
    if session is not None and session.age + SLACK < holder.since_seconds + process.age:
        return None
    return session


def _claimed(alias: str, processes: Iterable[Process]) -> set[int]:
    """The backends that somebody knows of, on this alias's server: by whatever alias it is connected to."""
    claimed = own_backends(alias)
    for process in processes:
        claimed |= backends_of(process, alias)
    return claimed


def own_backends(alias: str) -> set[int]:
    """Those of this process's connections to the server of an alias, pooled or not."""
    own = {entry.backend_pid for pool in pools() if same_server(alias, pool.alias) for entry in tuple(pool.entries)}
    return own | {pid for each, pids in dedicated_backends().items() if same_server(alias, each) for pid in pids}


def backends_of(process: Process, alias: str) -> set[int]:
    """The same of another process, as far as it has told."""
    found = {pid for pool in process.pools if same_server(alias, pool.snapshot.alias) for pid in pool.backends}
    found |= {pid for each, pids in process.dedicated.items() if same_server(alias, each) for pid in pids}
    return found | {holder.backend_pid for holder in process.holders if same_server(alias, holder.alias)}


def same_server(alias: str, other: str) -> bool:
    """Whether two aliases of this project are connected to one server, as far as the settings tell."""
    return alias == other or (other in connections.settings and _address(alias) == _address(other))


def _address(alias: str) -> tuple[str, ...]:
    entry = connections.settings[alias]
    options = entry.get("OPTIONS") or {}
    return str(entry.get("HOST") or ""), str(entry.get("PORT") or ""), str(options.get("service") or "")
