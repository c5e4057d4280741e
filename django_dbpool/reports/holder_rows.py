"""Who holds connections, and who has sessions that no process knows of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ..core.ledger import Holder
from ..fleet import Process, Session
from .page import PER_PAGE, Page, matches, page_of, words_of
from .reading import Fleet


@dataclass(frozen=True, slots=True)
class HolderRow:
    """One lease."""

    key: str
    """Tells it from all others, also of other times: for ``target_of()``."""
    process: str
    """Host and pid."""
    instance: str
    alias: str
    backend_pid: int
    generation: int
    who: str
    """On whose behalf, or at least its thread."""
    name: str | None
    """The route, or the name of the task."""
    held: float
    """Seconds."""
    state: str
    """Of the transaction: idle, running, idle in transaction, failed transaction, lost."""
    idle: bool
    """It runs no statement."""
    statements: int
    sql: str | None
    """The last one, placeholders only."""
    pinned: str | None
    """Why the connection is kept although no transaction needs it."""
    group: str | None
    reserved: bool
    """It has a connection of the reserve."""
    thread: str
    thread_ident: int
    leased_at: tuple[str, ...]
    """Innermost call first, if that is recorded."""
    stale: bool
    """Its process has not been heard of lately."""
    on_server: bool | None
    """Whether the server has such a session; None where it was not asked, or can't tell."""
    server_state: str | None
    server_state_seconds: float | None
    server_waits_for: str | None
    """For example ``Lock: transactionid``."""

    @property
    def is_ours(self) -> bool:
        """It is of one of our own threads, and will be over in a moment."""
        return self.thread.startswith(OWN_THREADS)

    @property
    def can_be_aimed_at(self) -> bool:
        """Not one that was about to end when its process looked at it: it has no number any more."""
        return self.generation >= 0

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


class _Held(NamedTuple):
    process: Process
    holder: Holder
    seconds: float


OWN_THREADS = "dbpool-"
"""How the names of our own threads begin. What those hold beside the pools, by design, is nobody's fault."""

SORTS: dict[str, Callable[[_Held], Any]] = {
    "age": lambda held: (held.holder.thread.startswith(OWN_THREADS), -held.seconds),
    "process": lambda held: (held.process.identity.host, held.process.identity.pid, -held.seconds),
    "who": lambda held: (who(held.holder).casefold(), -held.seconds),
    "alias": lambda held: (held.holder.alias, -held.seconds),
    "state": lambda held: (held.holder.state, -held.seconds),
    "statements": lambda held: (-held.holder.statements, -held.seconds),
}


def holders(
    fleet: Fleet,
    *,
    page: int = 1,
    q: str = "",
    alias: str = "",
    process: str = "",
    state: str = "",
    sort: str = "age",
    per_page: int = PER_PAGE,
) -> Page[HolderRow]:
    """
    Who holds connections. Of each process those 50 that have held longest; ``holders_left_out(fleet)`` says how many
    more there are.

    Args:
        page: the first is 1.
        q: words that are all found in who, name, SQL, thread, pin, state, backend, database or process.
        alias: of the database; all when empty.
        process: name or instance; all when empty.
        state: of the transaction; or "idle", for all that run no statement, "pinned", or "reserved".
        sort: "age" (the longest first, our own threads at the end), "process", "who", "alias", "state" or
            "statements"; with "-" the other way round. Anything else is "age".
    """
    words = words_of(q)
    found = [
        _Held(each, holder, holder.since_seconds + each.age)
        for each in fleet.processes
        if process in ("", each.name, each.identity.instance)
        for holder in each.holders
        if alias in ("", holder.alias)
        and (not state or _is(holder, state))
        and (not words or matches(words, *_texts(each, holder)))
    ]
    found.sort(key=SORTS.get(sort.removeprefix("-"), SORTS["age"]), reverse=sort.startswith("-"))
    on_server = {
        (each.process.identity.instance, server.alias, each.holder.backend_pid, each.holder.generation): each.session
        for server in fleet.servers
        if server.joined
        for each in server.held
    }
    return page_of(found, page, lambda held: _row(held, on_server), per_page)


def holders_left_out(fleet: Fleet) -> int:
    """Leases that processes have not told of, because they have too many."""
    return sum(process.holders_left_out for process in fleet.processes)


def who(holder: Holder) -> str:
    return holder.unit or f"thread {holder.thread}"


def is_idle(holder: Holder) -> bool:
    return holder.state != "running"


def _is(holder: Holder, state: str) -> bool:
    if state == "idle":
        return is_idle(holder)
    if state == "pinned":
        return holder.pinned is not None
    return holder.reserved if state == "reserved" else holder.state == state


def _texts(process: Process, holder: Holder) -> tuple[object, ...]:
    return (
        holder.unit,
        holder.name,
        holder.sql,
        holder.thread,
        holder.pinned,
        holder.state,
        holder.group,
        holder.alias,
        holder.backend_pid,
        process.name,
        process.identity.role,
    )


_Key = tuple[str, str, int, int]


def _row(held: _Held, on_server: dict[_Key, Session | None]) -> HolderRow:
    process, holder, seconds = held
    key = (process.identity.instance, holder.alias, holder.backend_pid, holder.generation)
    session = on_server.get(key)
    return HolderRow(
        key=key_of(*key),
        process=process.name,
        instance=process.identity.instance,
        alias=holder.alias,
        backend_pid=holder.backend_pid,
        generation=holder.generation,
        who=who(holder),
        name=holder.name,
        held=seconds,
        state=holder.state,
        idle=is_idle(holder),
        statements=holder.statements,
        sql=holder.sql,
        pinned=holder.pinned,
        group=holder.group,
        reserved=holder.reserved,
        thread=holder.thread,
        thread_ident=holder.thread_ident,
        leased_at=holder.leased_at,
        stale=process.stale,
        on_server=(session is not None) if key in on_server else None,
        server_state=session.state if session is not None else None,
        server_state_seconds=session.state_age if session is not None else None,
        server_waits_for=session.waits_for if session is not None else None,
    )


def key_of(instance: str, alias: str, backend_pid: int, generation: int) -> str:
    return f"{instance}:{backend_pid}:{generation}:{alias}"


def target_of(key: str) -> tuple[str, str, int, int]:
    """
    Instance, alias, backend pid and generation of a holder's key: what an action is aimed with.

    Raises:
        ValueError: it is no such key.
    """
    instance, pid, generation, alias = key[:1000].split(":", 3)
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in (pid, generation)) or not alias:
        raise ValueError("this is no key of a holder")
    if not (0 < len(instance) <= 64 and instance.isascii() and instance.isalnum()):
        raise ValueError("this is no key of a holder")
    return instance, alias, int(pid), int(generation)


# -- strangers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StrangerRow:
    """A session of this project's role that no process of the fleet knows of. Times are ages in seconds."""

    alias: str
    backend_pid: int
    application_name: str
    state: str
    state_seconds: float | None
    waits_for: str | None
    age: float
    transaction_age: float | None

    def to_json(self) -> dict[str, Any]:
        """Only values that JSON has."""
        return asdict(self)


def strangers(fleet: Fleet) -> tuple[StrangerRow, ...]:
    """The oldest first; of the servers that were asked, so ``read(servers=True)`` is needed for any."""
    found = [
        StrangerRow(
            alias=alias,
            backend_pid=session.pid,
            application_name=session.application_name,
            state=session.state,
            state_seconds=session.state_age,
            waits_for=session.waits_for,
            age=session.age,
            transaction_age=session.transaction_age,
        )
        for alias, sessions in fleet.strangers.items()
        for session in sessions
    ]
    return tuple(sorted(found, key=lambda row: -row.age))
