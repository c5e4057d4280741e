"""
Stopping from outside what one lease does, without ever hitting another.

The server knows connections, not leases: ``pg_cancel_backend(pid)`` stops whatever runs there when it arrives. So the
connection is first kept from being lent on, then the server is asked what runs there, then this process looks whether
the lease is still the same, and only then the blow is dealt, if on the server, too, all is as it was.

1. ``expires_at`` is set, and after that the generation is looked at. Whoever ends a lease counts the generation up, and
   whoever begins one looks at ``expires_at`` after that. So if the generation is still the lease's, nobody begins
   another one on this connection: it is closed when the lease ends. No lock is needed, least of all in a lease's path.
2. A process id in a cancel key is the server's only if nothing stands between. Where both ends of this process's
   connections have the same addresses on either side, there is nothing, and the row of ``pg_stat_activity`` with our
   very port is ours: nobody else can have it while we do. Elsewhere (PgBouncer, balancers, tunnels) the request to
   cancel goes the way of the connection itself, with its secret key, and to terminate is to hang up on our side.
3. The statement that deals the blow names the backend's start and that of its transaction, as they were when the
   lease was still the same.
"""

from __future__ import annotations

import ipaddress
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection, capabilities

from ..core.admission import Admission, admission
from ..core.errors import GateClosed, LeaseRefused
from ..core.ledger import Holder, Owner
from ..core.logs import get_logger
from ..core.process import this_process
from ..core.targets import Outcome, Target
from . import dedicated, watchdog
from .entry import ACTIVE, IDLE, PoolEntry
from .managed import ManagedPool
from .registry import pools

logger = get_logger("django_dbpool.pool")

PATIENCE = 2.0
"""Seconds for each of: a connection to the server that is lent to us, one that is made for us, both statements."""

DRIFT = 1e-3
"""By how much the clocks of two machines may run apart, as a part of the time that passed."""

_UNIX = getattr(socket, "AF_UNIX", None)

SAME_MOMENT = 1e-5
"""Seconds; unix times in JSON have microseconds, but are not always rounded alike."""


def aim(holder: Holder) -> Target:
    """At the lease of a holder of this process."""
    return Target(this_process().instance, holder.alias, holder.backend_pid, holder.generation)


def cancel(target: Target) -> Outcome:
    """
    Stop the statement that this lease executes; its caller gets Django's ``OperationalError`` with SQLSTATE 57014.

    A lease that executes nothing at this moment (idle in transaction) has nothing to cancel: "already over". The
    connection is closed when the lease ends. Takes seconds at most, also where the server is frozen or the pool full.
    """
    return _stop(target, _CANCEL)


def terminate(target: Target) -> Outcome:
    """
    End the session of this lease: its transaction is rolled back, its holder gets ``ConnectionLost``. Its place in the
    pool is free at once, also where the holder waits for something else and won't notice for long.

    Behind a pooler its statement is cancelled first, so it may be that error which it gets.

    A read or block that may be repeated after a lost connection is not repeated for this one, except blocks under
    ``transaction.retrying``. Otherwise as ``cancel``.
    """
    return _stop(target, _TERMINATE)


class _Verb(NamedTuple):
    function: str
    active_only: bool


_CANCEL = _Verb("pg_cancel_backend", True)
_TERMINATE = _Verb("pg_terminate_backend", False)


def _stop(target: Target, verb: _Verb) -> Outcome:
    if target.instance != this_process().instance:
        return Outcome.OVER  # the leases of a process end with it
    found = _find(target)
    if found is None:
        return Outcome.OVER
    pool, lease = found
    if not lease.isolate():
        return Outcome.OVER
    with lease.duplicate() as own:
        # The number may have become another connection's before it was duplicated, but then the lease is over.
        if not lease.lasts():
            return Outcome.OVER
        if own is None:
            return Outcome.UNREACHABLE  # too many open files
        outcome = _stop_isolated(pool, lease, own, target, verb)
    if pool is not None and verb is _TERMINATE and outcome is Outcome.DONE:
        pool.housekeeping.give_up_place(lease.entry)
    logger.warning(
        "database %r: %s of backend %d, lease %d: %s",
        target.alias,
        "cancellation" if verb is _CANCEL else "termination",
        target.backend_pid,
        target.generation,
        outcome.value,
    )
    return outcome


def _stop_isolated(pool: ManagedPool | None, lease: _Lease, own: socket.socket, target: Target, verb: _Verb) -> Outcome:
    if pool is None or pool.config.pooler is not None:
        return _through_the_pooler(lease, own, target, verb)
    try:
        with _server_of(pool) as conn:
            outcome = _on_the_server(conn, lease, own, target, verb)
    except psycopg.errors.InsufficientPrivilege:
        return Outcome.REFUSED
    except (psycopg.Error, LeaseRefused, GateClosed, OSError) as error:
        logger.info("database %r: can't ask the server about backend %d: %s", target.alias, target.backend_pid, error)
        return Outcome.UNREACHABLE
    return _through_the_pooler(lease, own, target, verb) if outcome is None else outcome


# -- in this process ----------------------------------------------------------------------------------------------


class _Lease:
    """One lease: a generation of an entry."""

    def __init__(self, entry: PoolEntry, generation: int) -> None:
        self.entry = entry
        self.generation = generation

    def isolate(self) -> bool:
        """Whether it still is, and from now on is its connection's last."""
        self.entry.expires_at = -math.inf  # before the question, see above
        if not self.lasts():
            return False
        self.entry.stopped = True  # what is stopped on purpose must not run again on another connection
        return True

    def lasts(self) -> bool:
        entry = self.entry
        return entry.generation == self.generation and entry.owner is not None and not entry.conn.closed

    @contextmanager
    def duplicate(self) -> Iterator[socket.socket | None]:
        """A descriptor of our own for its socket, if it has one and we can."""
        try:
            made = _duplicate(self.entry.pgconn.socket)
        except (psycopg.Error, OSError):
            yield None
        else:
            with made:
                yield made


def _duplicate(number: int) -> socket.socket:
    own = os.dup(number)
    try:
        return socket.socket(fileno=own)
    except OSError:  # the number has become a file's
        os.close(own)
        raise


def _find(target: Target) -> tuple[ManagedPool | None, _Lease] | None:
    entries = [(pool, entry) for pool in pools() if pool.alias == target.alias for entry in tuple(pool.entries)]
    # Those may have been made with other parameters, for another server: its process ids mean nothing to the pool's.
    dedicated_ones = [(None, entry) for alias, entry in dedicated.every() if alias == target.alias]
    for pool, entry in (*entries, *dedicated_ones):
        lease = _Lease(entry, target.generation)
        if entry.backend_pid == target.backend_pid and lease.lasts():
            return pool, lease
    return None


# -- on the server ------------------------------------------------------------------------------------------------

# Everything by its full name: what the search_path of a borrower's session has been set to is not known here.
_LOOK = """
SELECT pg_catalog.pg_backend_pid(),
       pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port(),
       a.pid,
       pg_catalog.host(a.client_addr), a.client_port,
       pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.backend_start),
       extract(epoch FROM a.backend_start)::pg_catalog.text,
       extract(epoch FROM a.xact_start)::pg_catalog.text,
       extract(epoch FROM a.state_change)::pg_catalog.text,
       a.state
  FROM (VALUES (1)) AS one LEFT JOIN pg_catalog.pg_stat_activity AS a
    ON a.pid = %s AND a.datname = pg_catalog.current_database()
   AND (a.backend_type = 'client backend' OR a.backend_type IS NULL)  -- hidden
"""

_STRIKE = """
SELECT pg_catalog.{function}(a.pid)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.pid = %s
   AND extract(epoch FROM a.backend_start)::pg_catalog.text = %s
   AND extract(epoch FROM a.xact_start)::pg_catalog.text IS NOT DISTINCT FROM %s{more}
"""


class _Row(NamedTuple):
    """What the server says of the backend, and of the connection that it was asked on. Of no backend: Nones."""

    asked: int
    server_addr: str | None
    server_port: int | None
    pid: int | None
    client_addr: str | None
    client_port: int | None
    age: float | None
    backend_start: str | None
    xact_start: str | None
    state_change: str | None
    state: str | None


def _on_the_server(
    conn: Connection[Any], lease: _Lease, own: socket.socket, target: Target, verb: _Verb
) -> Outcome | None:
    """None: this is not the way to the server's sessions."""
    entry = lease.entry
    age = monotonic() - entry.created_at
    with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        row = _Row(*_one(cursor.execute(_LOOK, [target.backend_pid], prepare=False)))
        try:
            peer = own.getpeername()
        except OSError:
            return Outcome.OVER  # the line is cut already
        if not _is_direct(conn, row, peer):
            return None
        if row.pid is None:
            return Outcome.OVER
        if row.backend_start is None:
            return Outcome.REFUSED  # of other roles' sessions nearly nothing is shown
        if not (_is_ours(row, own, age) and _as_seen(row, target)) or (verb.active_only and _is_idle(row)):
            return Outcome.OVER
        # What was read is this lease's doing if it is still the same now.
        if not lease.lasts():
            return Outcome.OVER
        more, values = "\n   AND a.state NOT LIKE 'idle%%'" if verb.active_only else "", []
        if target.state_change is not None:
            more += "\n   AND extract(epoch FROM a.state_change)::pg_catalog.text = %s"
            values.append(row.state_change)
        statement = _STRIKE.format(function=verb.function, more=more)
        cursor.execute(statement, [row.pid, row.backend_start, row.xact_start, *values], prepare=False)
        struck = cursor.fetchone()
    return Outcome.DONE if struck is not None and struck[0] else Outcome.OVER


def _one(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return tuple(row)


def _is_direct(conn: Connection[Any], row: _Row, own_peer: Any) -> bool:
    """Whether one server is at the other end of both connections, and its process ids are in their cancel keys."""
    if row.asked != conn.info.backend_pid:
        return False
    with _duplicate(conn.pgconn.socket) as asked:
        peer = asked.getpeername()
        if peer != own_peer:
            return False  # there are several, of one name or of several
        if asked.family == _UNIX:
            return row.server_addr is None
    return row.server_addr is not None and _same(peer[0], row.server_addr) and bool(peer[1] == row.server_port)


def _is_ours(row: _Row, own: socket.socket, age: float) -> bool:
    """
    Whether it is the session at the other end of this socket, not one that has got the process id of a session that
    ended unnoticed.

    Args:
        age: of our connection before the server was asked, in seconds.
    """
    if own.family != _UNIX:
        # While we have this port nobody else on this host has it. Where the address is changed on the way (NAT) the
        # port may be, too, and what is left is the age.
        host, port = own.getsockname()[:2]
        if row.client_addr is None:
            return False
        if _same(host, row.client_addr):
            return bool(port == row.client_port)
    # Ours was there before we knew of it; one that came after its end is younger.
    return row.age is not None and row.age >= age - DRIFT * age


def _is_idle(row: _Row) -> bool:
    """Not where the server keeps no account of it ("disabled", by track_activities)."""
    return row.state is None or row.state.startswith("idle")


def _as_seen(row: _Row, target: Target) -> bool:
    """As the caller has seen it, if he has."""
    pairs = (
        (row.backend_start, target.backend_start),
        (row.xact_start, target.xact_start),
        (row.state_change, target.state_change),
    )
    return all(seen is None or (now is not None and abs(float(now) - seen) < SAME_MOMENT) for now, seen in pairs)


def _same(one: str, other: str) -> bool:
    """Whether two texts are the same address."""
    try:
        return ipaddress.ip_address(one.partition("%")[0]) == ipaddress.ip_address(other)
    except ValueError:
        return False


@contextmanager
def _server_of(pool: ManagedPool) -> Iterator[Connection[Any]]:
    """A connection in autocommit mode on which all that is done has a time limit: of the pool's, or one of its own."""
    owner = Owner()
    entry = _lent(pool, owner)
    if entry is None:
        conn = pool.connector.attempt(pool.clock() + PATIENCE)
        try:
            with watchdog.limited(PoolEntry(conn, monotonic(), math.inf), PATIENCE):
                yield conn
        finally:
            conn._pool = None
            conn.close()
        return
    try:
        with watchdog.limited(entry, PATIENCE):
            if not entry.autocommit:
                entry.set_autocommit(True)
            yield entry.conn
    except BaseException:
        pool.discard(entry)
        raise
    if entry.pgconn.transaction_status == IDLE:
        pool.release(entry, owner)
    else:
        pool.discard(entry)


def _lent(pool: ManagedPool, owner: Owner) -> PoolEntry | None:
    """
    One of the pool's. None if the reserve is in use or there is none, or the circuit is open: the server may have a
    place for us nevertheless.
    """
    if not (pool.gate.free or pool.gate.reserve_size):
        return None
    outer = admission.get()
    admission.set(Admission(reserved=True))
    try:
        return pool.lease(owner, timeout=PATIENCE)
    except (LeaseRefused, GateClosed):
        return None
    finally:
        admission.set(outer)


# -- the way of the connection itself -----------------------------------------------------------------------------


def _through_the_pooler(lease: _Lease, own: socket.socket, target: Target, verb: _Verb) -> Outcome:
    """
    Whatever stands between knows by the secret key which of its sessions is meant. Whether anything came of it,
    nobody tells.
    """
    entry = lease.entry
    active, reached = entry.pgconn.transaction_status == ACTIVE, False
    if active and target.state_change is not None:
        return Outcome.OVER  # it was meant because it was idle
    if active and capabilities.has_cancel_safe():
        # Not with libpq before 17: it may block for ever, and in psycopg's C implementation all threads with it.
        with suppress(psycopg.Error, OSError):
            entry.conn.cancel_safe(timeout=PATIENCE)
            reached = True
    if verb is _CANCEL:
        return Outcome.DONE if reached else Outcome.UNREACHABLE if active else Outcome.OVER
    if not (reached or lease.lasts()):
        return Outcome.OVER
    with suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)
    return Outcome.DONE
