"""
Sessions that have been idle in a transaction for long, and their end.

Only sessions of our role in our database are seen. Which one is meant is told by process id, start of the backend,
start of the transaction and the moment since which it is idle: if one of them is another when the blow is dealt, it
isn't dealt, whoever deals it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

from django.db import DatabaseError, connections

from ..core.ledger import Holder
from ..core.logs import get_logger
from ..core.words import one_line
from ..fleet import FleetUnavailable, Process
from ..fleet.reading import first_line
from ..fleet.server import backends_of, own_backends, same_server
from ..transaction import atomic, deadline, reserved
from .acted import DONE, FAILED, GONE, OVER, REFUSED, UNKNOWN, UNREACHABLE, Acted
from .service import act

logger = get_logger("django_dbpool.commands")

PATIENCE = 3.0
"""Seconds for each question to the server."""

SLACK = 2.0
"""Seconds by which a session may seem to be younger than the lease on it."""

SERVER = "server"
"""Way of an action for which no process was asked."""

_OURS = """
       a.usename = session_user AND a.datname = pg_catalog.current_database()
   AND a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.state LIKE 'idle in transaction%%'
"""

_LIST = f"""
SELECT a.pid, coalesce(a.application_name, ''), a.state,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.backend_start)::float8,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8,
       extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::float8,
       extract(epoch FROM a.backend_start)::pg_catalog.text,
       extract(epoch FROM a.xact_start)::pg_catalog.text,
       extract(epoch FROM a.state_change)::pg_catalog.text,
       pg_catalog.pg_backend_pid()
  FROM pg_catalog.pg_stat_activity AS a
 WHERE {_OURS}
   AND a.state_change < pg_catalog.clock_timestamp() - %s * interval '1 second'
 ORDER BY a.state_change
"""  # noqa: S608  # constants of ours

_END = f"""
SELECT pg_catalog.pg_terminate_backend(a.pid)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE {_OURS}
   AND a.pid = %s
   AND extract(epoch FROM a.backend_start)::pg_catalog.text = %s
   AND extract(epoch FROM a.xact_start)::pg_catalog.text IS NOT DISTINCT FROM %s
   AND extract(epoch FROM a.state_change)::pg_catalog.text = %s
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class IdleSession:
    """One session of our role that is idle in a transaction."""

    alias: str
    """By which it was found."""
    pid: int
    application_name: str
    state: str
    age: float
    transaction_seconds: float | None
    """None where the transaction has failed: then the server has forgotten when it began."""
    idle_seconds: float
    backend_start: str
    xact_start: str | None
    state_change: str
    """Unix times, as the server writes them."""
    process: Process | None = None
    """Whose connection it is; None: of no process that is known."""
    holder: Holder | None = None
    """Who has leased it, if its process has told."""

    @property
    def who(self) -> str:
        """Such as ``GET /reports/<int:pk>/``; empty where nobody knows."""
        if self.holder is None:
            return ""
        return one_line(self.holder.unit or f"thread {self.holder.thread}", 60)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        left_out = ("process", "holder")
        own = {name: getattr(self, name) for name in self.__slots__ if name not in left_out}
        return {
            **own,
            "process": self.process and self.process.name,
            "instance": self.process and self.process.identity.instance,
            "holder": self.holder and {**asdict(self.holder), "stack": []},
        }


# -- finding ------------------------------------------------------------------------------------------------------


def idle_in_transaction(alias: str, older_than: float, processes: Sequence[Process] = ()) -> tuple[IdleSession, ...]:
    """
    Ask the server of an alias, with one query, which needs no rights: a role always sees its own sessions. The session
    that asks, others of this process, and those of other roles and databases are none of them.

    Args:
        alias: of a database with this engine.
        older_than: seconds since their last statement.
        processes: those that may hold them, as ``fleet.processes()`` gives them.

    Raises:
        FleetUnavailable: the server can't be asked.

    Example:
        for session in idle_in_transaction("default", 300, processes()):
            print(session.pid, session.idle_seconds, session.who)
    """
    rows, told = _asked(alias, _LIST, [older_than])
    # Behind a pooler the pids that processes know are the pooler's own, and fit by chance at most.
    known = processes if _joined(alias, told, rows) else ()
    own = own_backends(alias)
    sessions = [IdleSession(alias, *_clean(row)) for row in rows]
    return tuple(_with_holder(session, known) for session in sessions if session.pid not in own)


def _joined(alias: str, told: int, rows: Sequence[Sequence[Any]]) -> bool:
    pool = connections.settings[alias].get("POOL")
    pooler = pool.get("pooler") if isinstance(pool, Mapping) else None
    return pooler is None and {row[-1] for row in rows} == {told}


def _clean(row: Sequence[Any]) -> Sequence[Any]:
    pid, application, *rest, _ = row
    return pid, one_line(application, 60), *rest


def _with_holder(session: IdleSession, processes: Iterable[Process]) -> IdleSession:
    for process in processes:
        for holder in process.holders:
            if holder.backend_pid != session.pid or not same_server(session.alias, holder.alias):
                continue
            # A session that is younger than the lease is another, which has got the process id.
            if session.age + SLACK >= holder.since_seconds + process.age:
                return replace(session, process=process, holder=holder)
    for process in processes:
        if session.pid in backends_of(process, session.alias):
            return replace(session, process=process)
    return session


# -- ending -------------------------------------------------------------------------------------------------------


def end(session: IdleSession, *, actor: str, timeout: float = 6.0) -> Acted:
    """
    End one that is still idle in that transaction: through its process if that is known, so that what it does is not
    begun again there, else on the server. The latter also if the process can't be reached.

    Args:
        session: as ``idle_in_transaction`` gave it. Nobody else is hit, however long ago that was.
        actor: who wants it, for the log.
        timeout: seconds that its process has.
    """
    process, holder = session.process, session.holder
    if process is None or holder is None or holder.generation < 0:
        return _end_on_the_server(session, actor)
    acted = act(
        process.identity.instance,
        "terminate",
        actor=actor,
        timeout=timeout,
        alias=holder.alias,
        backend_pid=holder.backend_pid,
        generation=holder.generation,
        backend_start=float(session.backend_start),
        xact_start=None if session.xact_start is None else float(session.xact_start),
        state_change=float(session.state_change),
    )
    if acted.outcome not in (GONE, FAILED, UNKNOWN, UNREACHABLE):
        return acted
    own = _end_on_the_server(session, actor)
    return Acted(own.outcome, f"{own.text} Before that: {acted.text}", acted.seconds + own.seconds, own.way)


def _end_on_the_server(session: IdleSession, actor: str) -> Acted:
    began = monotonic()
    logger.warning(
        "terminate of backend %d, database %r, idle in transaction for %.0f s, asked for by %s",
        session.pid,
        session.alias,
        session.idle_seconds,
        one_line(actor, 150),
    )
    try:
        seen = [session.pid, session.backend_start, session.xact_start, session.state_change]
        struck, _ = _asked(session.alias, _END, seen)
    except FleetUnavailable as error:
        denied = getattr(getattr(error.__cause__, "__cause__", None), "sqlstate", None) == "42501"
        outcome, text = (REFUSED if denied else UNREACHABLE), f"It was not ended: {error}."
    else:
        if struck and struck[0][0]:
            outcome, text = DONE, "The session was ended and its transaction rolled back. Ended on the server."
        else:
            outcome, text = OVER, "Nothing was done: it is not idle in that transaction any more."
    return Acted(outcome, text, monotonic() - began, SERVER)


def _asked(alias: str, sql: str, parameters: Sequence[Any]) -> tuple[list[Any], int]:
    """The rows, and the process id that the client was told of."""
    connection: Any = connections[alias]
    inside = atomic(using=alias) if connection.in_atomic_block else nullcontext()
    try:
        with reserved(), deadline(PATIENCE), inside, connection.cursor() as cursor:
            told = connection.connection.info.backend_pid  # now: with the statement the lease ends
            cursor.execute(sql, parameters)
            return list(cursor.fetchall()), told
    except DatabaseError as error:
        raise FleetUnavailable(f"the server of database {alias!r} can't be asked: {first_line(error)}") from error
