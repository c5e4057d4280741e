"""
One pool: psycopg_pool's way of making connections, with our gate deciding who may use them.

``ManagedPool`` is a ``psycopg_pool.ConnectionPool`` in the sense in which psycopg_pool's own ``NullConnectionPool``
is one: the parameters, ``connect`` with its statistics, sizes, expiry jitter and public methods are inherited; where
idle connections are kept and who waits for them is replaced. The reasons, all measured on 3.3.3: its queue keeps
clients that have timed out, so ``max_waiting`` and ``requests_waiting`` count ghosts; a client interrupted by a
BaseException loses its slot for good; growth is serial and reconnection backs off without a cap; the error that made
connecting fail goes to a log instead of to the caller; and each pool costs four threads.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from time import monotonic
from typing import Any, cast
from weakref import WeakKeyDictionary

import psycopg
from psycopg import Connection

from ..core import callers, events
from ..core.breaker import CircuitBreaker, Rejected
from ..core.config import PoolConfig
from ..core.gate import Gate
from ..core.ledger import Holder, Owner, current_unit
from ..core.logs import get_logger
from ..core.stopping import Stopping
from ..core.tally import BOUNDS, SHORTEST, tally_of
from ..core.ticket import Ticket
from . import reporting, stopping, tell, watchdog
from .admitting import make_gate, ticket_for
from .connecting import Connector, ServerFull
from .entry import IDLE, PoolEntry
from .housekeeping import Housekeeping
from .opening import OpeningConnections, Prepare
from .refusals import AT_THE_GATE, refusal
from .standby import StandbyWatch

logger = get_logger("django_dbpool.pool")


class _ConnectionFactory:
    """Stands where psycopg_pool expects the class whose ``connect`` it calls."""

    def __init__(self, make: Callable[[dict[str, Any]], Connection[Any]]) -> None:
        self._make = make

    def connect(self, conninfo: str = "", **kwargs: Any) -> Connection[Any]:
        return self._make(kwargs)


class ManagedPool(OpeningConnections):
    """
    The connections of one database in one process.

    Args:
        config: sizes and times.
        alias: the database's alias, used in reports.
        connect_kwargs: called for each physical connection, so that rotated credentials are picked up.
        connect: makes a connection with them; psycopg's ``connect`` when None.
        prepare: called with each new physical connection in autocommit mode, before anybody uses it, and with what its
            round trips have to be done in.
        on_refused: called with the error of a failed attempt; True asks for another one at once.
        clock: seconds; injected by tests.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        alias: str,
        connect_kwargs: Callable[[], dict[str, Any]],
        connect: Callable[[dict[str, Any]], Connection[Any]] | None = None,
        prepare: Prepare | None = None,
        on_refused: Callable[[BaseException], bool] | None = None,
        check: Callable[[Connection[Any]], None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(
            kwargs=connect_kwargs,
            min_size=config.min_size,
            max_size=config.max_size,
            timeout=config.timeout,
            max_waiting=config.max_waiting,
            max_lifetime=config.max_lifetime,
            max_idle=config.max_idle,
            check=check,
            name=alias,
            open=False,
            num_workers=1,
        )
        self.config = config
        self.alias = alias
        self.clock = clock
        self.gate: Gate[PoolEntry] = make_gate(config, clock)
        self.captured = reporting.CapturedHolders(self)
        self.declared_names: dict[str, None] = {}
        """Session variables that blocks of code have set, other than the alias's own; update is atomic."""
        self.tally = tally_of(alias)
        self.entries: set[PoolEntry] = set()
        """Every open physical connection; add and discard are atomic."""
        self._in_transit: set[object] = set()
        """Tickets of unfinished ``lease`` calls, and a token for each connection that is being opened or closed."""
        self.housekeeping = Housekeeping(self)
        self.connector = Connector(self, on_refused)
        self.standby = StandbyWatch(self)
        if connect is not None:
            self.connection_class = cast("type[Connection[Any]]", _ConnectionFactory(connect))
        self._prepare = prepare
        self._histories: WeakKeyDictionary[Connection[Any], str | None] = WeakKeyDictionary()
        self._lent = {}
        if config.command_timeout is not None:
            watchdog.enable()
        self.open()

    # -- leasing ------------------------------------------------------------------------------------------------

    def lease(
        self,
        owner: Owner,
        *,
        timeout: float | None = None,
        priority: bool = False,
        check: bool = False,
    ) -> PoolEntry:
        """
        Wait for a connection, opening one when the pool may grow.

        Args:
            owner: the thread that will hold it.
            timeout: seconds; the pool's own when None.
            priority: go before ordinary callers (commit hooks, which finish work that others wait for).
            check: make a round trip before lending, as CONN_HEALTH_CHECKS asks.

        Raises:
            Exhausted, QueueFull, Unreachable, ServerIsFull, CircuitIsOpen, ProcessIsStopping: with the pool's numbers
                at that moment.
            GateClosed: the pool was closed meanwhile.
        """
        start = self.clock()
        deadline = start + (self.config.timeout if timeout is None else timeout)
        ticket = ticket_for(owner, self.gate, priority)
        try:
            try:
                if stopping.announced is not None:
                    stopping.check(finishing=priority)  # before this call is seen to be one that asks
                self._in_transit.add(ticket)
                self.connector.refuse_if_open()
                return self._counted(self._admitted(ticket, owner, deadline, check), start)
            except (*AT_THE_GATE, Rejected, Stopping, psycopg.Error) as error:
                # The ticket is still queued: of the callers in a cycle each must see that the others wait.
                refused = refusal(self, error, ticket, owner, self.clock() - start)
                raise refused from refused.__cause__
        except BaseException:
            self._take_back(ticket)
            self._make_up()
            raise
        finally:
            self._in_transit.discard(ticket)

    def _admitted(self, ticket: Ticket[PoolEntry], owner: Owner, deadline: float, check: bool) -> PoolEntry:
        """Wait, and make of what the gate gave a connection that works."""
        entry = None
        while entry is None:
            entry = self._admit(ticket, deadline)
            if entry is not None:
                idle_since = entry.since
                entry.first, entry.since = entry.statements, self.clock()
                entry.owner = owner  # before the check, which may take its time: it is in use
                if not self.fit(entry, idle_since, check=check, deadline=deadline):
                    # The dead connection's place in the count becomes this caller's permit.
                    self._close_entry(entry)
                    entry = ticket.entry = None
            if entry is None:
                try:
                    entry = ticket.entry = self._open_entry(deadline, reserved=ticket.from_reserve)
                except ServerFull:
                    self._go_on_below(ticket)
        entry.owner = owner
        if ticket.from_reserve or ticket.group is not None:
            entry.ticket = ticket
        entry.unit = current_unit.get()
        return entry

    def _counted(self, entry: PoolEntry, start: float) -> PoolEntry:
        """Count it. Who finds a free connection, the hot path, does so by hand: see ``AcquiringMixin``."""
        entry.since = now = self.clock()
        entry.began = math.inf  # nothing is executed yet
        if callers.recording:
            entry.leased_at = callers.calls_now()
        entry.waited = now - start
        entry.remarkable = True
        if events.subscribers:
            tell.waited(self.alias, now - start)
        return entry

    def _go_on_below(self, ticket: Ticket[PoolEntry]) -> None:
        """The server refuses to have more of us: serve from those that there are, and look again from time to time."""
        entries = tuple(self.entries)
        logger.warning(
            "database %r: the server is full, the pool goes on with %d connections", self.alias, len(entries)
        )
        self.housekeeping.server_is_full()
        reserved = sum(1 for entry in entries if entry.reserved)
        self.gate.lower_ceiling(len(entries) - reserved, reserved)
        self.gate.abandon(ticket)  # the permit; its place in the queue is a new one
        self.housekeeping.wake()

    def release(self, entry: PoolEntry, owner: Owner | None, now: float | None = None) -> None:
        """
        Take back a connection that is in a clean state: idle, no session state of the borrower's.

        Args:
            owner: whoever ends the lease has to be the one who holds it. A lease that was reclaimed meanwhile may be
                somebody else's by now.
            now: on the pool's clock, if the caller has just looked.
        """
        if entry.owner is not owner:
            logger.warning("database %r: backend %d was released by a former holder", self.alias, entry.backend_pid)
            return
        if now is None:
            now = self.clock()
        if now >= entry.expires_at:
            entry.note_age()
            self.discard(entry)
            return
        if owner is not None:  # else it was granted and never used
            held = now - entry.since
            if entry.remarkable:
                self._note_end(entry, held)
            else:
                # tally.count_lease() written out: this is the hot path.
                entry.uses[0 if held <= SHORTEST else bisect_left(BOUNDS, held)] += 1
                entry.used += held
        entry.owner = None  # before the number: see PoolEntry.leased()
        entry.generation += 1
        entry.unit = None
        entry.since = now
        # Gate.give() written out: this is the hot path.
        gate = self.gate
        if entry.ticket is not None and self._leave(entry):
            return
        gate.free.append(entry)
        if gate.attention:
            gate.serve()
            if gate.closed:
                self._close_free()
            elif gate.size > gate.max_size:
                self.housekeeping.retire()

    def _note_end(self, entry: PoolEntry, held: float) -> None:
        """
        Of any lease: one that was waited for, found to be held for long, or whose connection was closed in the middle
        of it, has more to count than its end.
        """
        waited, entry.waited, entry.remarkable = entry.waited, None, False
        self.tally.ended(entry, held, waited)
        if entry.reported == entry.generation:
            tell.returned(self.alias, entry, held)

    def _leave(self, entry: PoolEntry) -> bool:
        """Give back what a lease had beside the connection; whether that was the reserve's, and went there."""
        ticket, entry.ticket = entry.ticket, None
        if ticket is not None:
            self.gate.leave(ticket)
        if not entry.reserved:
            return False
        self.gate.give_to_reserve(entry)
        if self.gate.closed:
            self._close_free()
        self.housekeeping.wake()  # which closes it after a while
        return True

    def discard(self, entry: PoolEntry) -> None:
        """Take back a connection whose state is not known to be clean: it is closed."""
        transit = object()
        try:
            self._in_transit.add(transit)
            self.entries.remove(entry)
            if entry.owner is not None:
                self._note_end(entry, self.clock() - entry.since)
            entry.owner = None
            entry.generation += 1
            entry.unit = None
            ticket, entry.ticket = entry.ticket, None
            try:
                entry.abort()
            finally:
                self.gate.forfeit(entry.reserved)
                if ticket is not None:
                    self.gate.leave(ticket)
            self._make_up()
        except KeyError:  # somebody else was first
            if entry.stopped:
                entry.close()  # only its place was given up, by who has ended its session
        except BaseException:
            entry.close()  # no longer counted, so nobody would close it later
            raise
        finally:
            self._in_transit.discard(transit)

    def _make_up(self) -> None:
        """A connection is gone: have it replaced before somebody needs it."""
        if self.gate.size < self.min_size and not self.gate.closed:
            self.housekeeping.wake()

    def fit(self, entry: PoolEntry, idle_since: float, *, check: bool = False, deadline: float = math.inf) -> bool:
        """
        Whether a free connection may be lent. A round trip is made only if there is a reason, and takes no longer than
        making another connection may: a server that is frozen would have its caller wait for ever.

        Args:
            idle_since: on the clock; a connection that was used a moment ago gets no round trip.
        """
        now = self.clock()
        if now >= entry.expires_at:
            entry.note_age()
            return False
        suspicious = entry.suspicious()
        if not (suspicious or check or now - idle_since >= self.config.check_idle):
            return True
        limit = max(0.0, min(self.config.connect_timeout, entry.limit or math.inf, deadline - now))
        try:
            with watchdog.limited(entry, limit):
                (self._check or self.check_connection)(entry.conn)
        except Exception as error:  # noqa: BLE001  # as in psycopg_pool: whatever the user's check raises means unfit
            logger.info(
                "database %r: idle connection (backend %d) failed its check, replaced: %s",
                self.alias,
                entry.backend_pid,
                error,
                extra={
                    "alias": self.alias,
                    "backend_pid": entry.backend_pid,
                    "error_type": type(error).__name__,
                    "severity": "expected",
                    "connection_terminated": True,
                    "sqlstate": getattr(error, "sqlstate", None),
                },
            )
            tell.lost_idle(self.alias, entry)
            return False
        return not entry.lost()

    def in_transit(self) -> tuple[bool, set[PoolEntry]]:
        """Whether any connection or permit is on its way from one hand to another, and which connections are."""
        granted = False
        entries = set()
        for item in tuple(self._in_transit):
            if not isinstance(item, Ticket) or item.granted:
                granted = True
                if isinstance(item, Ticket) and item.entry is not None:
                    entries.add(item.entry)
        return granted, entries

    def tickets(self) -> set[Ticket[PoolEntry]]:
        """Of unfinished ``lease`` calls."""
        return {item for item in tuple(self._in_transit) if isinstance(item, Ticket)}

    def _admit(self, ticket: Ticket[PoolEntry], deadline: float) -> PoolEntry | None:
        self.housekeeping.ensure_running()
        return self.gate.enter(ticket, deadline, self._while_waiting)

    def _while_waiting(self) -> None:
        """Every second of each caller that waits."""
        if not self.entries or self.connector.fails:
            self.gate.excuse()
        self.housekeeping.reclaim_lost()

    def _take_back(self, ticket: Ticket[PoolEntry]) -> None:
        entry = self.gate.abandon(ticket)
        if entry is None:
            return
        if entry not in self.entries:
            # Closed by this caller, whose permit its place in the count has become.
            self.gate.forfeit(ticket.from_reserve)
        elif entry.owner is not None or entry.pgconn.transaction_status != IDLE:
            entry.owner = None  # a lease that has not begun is not counted
            self.discard(entry)
        else:
            self.release(entry, None)

    # -- reports ------------------------------------------------------------------------------------------------

    @property
    def breaker(self) -> CircuitBreaker:
        """Of this database: its state, and ``isolate()`` and ``reset()`` by hand."""
        return self.connector.breaker

    @property
    def in_use(self) -> int:
        """Connections that are leased now, those of the reserve among them."""
        return sum(1 for entry in tuple(self.entries) if entry.owner is not None)

    @property
    def in_use_of_max(self) -> int:
        """The same without the reserve, which ``max_size`` doesn't count."""
        return sum(1 for entry in tuple(self.entries) if entry.owner is not None and not entry.reserved)

    def snapshot(self) -> reporting.PoolSnapshot:
        """The pool's numbers now."""
        return reporting.snapshot(self)

    def holders(self, *, stacks: bool = False) -> tuple[Holder, ...]:
        """Every lease, oldest first; with each holder's current stack if asked."""
        return reporting.holders(self, stacks=stacks)

    def _get_measures(self) -> dict[str, int]:
        snapshot = self.snapshot()
        return {
            self._POOL_MIN: snapshot.min_size,
            self._POOL_MAX: snapshot.max_size,
            self._POOL_SIZE: snapshot.size,
            self._POOL_AVAILABLE: snapshot.idle,
            self._REQUESTS_WAITING: snapshot.waiting,
        }
