"""
What a set of threads with Django connections on one small pool must observe.

The model knows Django's rules for ``atomic()``, PostgreSQL's for transactions, cursors and session state, and the rules
of a lease. It knows nothing of the implementation. An operation either returns what the thread must get, or raises
``Fails`` with the kind of error it must get, or ``Blocked`` when the thread would have to wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROWS = list(range(7))
CHUNK = 3
RESULT = [1, 2, 3, 4, 5]


class Blocked(Exception):
    """Every connection is leased by another thread."""


class Fails(Exception):
    """The operation must raise an error of this kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(eq=False)
class Level:
    """A transaction or savepoint: what is undone with it."""

    kind: str
    """outer, savepoint, plain (``atomic(savepoint=False)``), manual."""
    guc: str = ""
    temps: tuple[int, ...] = ()
    writes: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Lease:
    guc: str = ""
    temps: tuple[int, ...] = ()
    locks: tuple[int, ...] = ()
    pinned: bool = False
    dead: bool = False
    """The server process was killed."""
    noticed: bool = False
    """And the client knows."""
    began: bool = False
    """A statement was sent in the current transaction."""
    abandoned: int = 0
    """Server-side cursors dropped without closing them."""


@dataclass(eq=False)
class Stream:
    """A server-side cursor."""

    number: int
    orm: bool
    lease: Lease
    level: Level | None
    """The transaction or savepoint it ends with; None: WITH HOLD."""
    undone: int
    """``Thread.undone`` when it was declared."""
    position: int = CHUNK
    exists: bool = True


@dataclass(eq=False)
class Cursor:
    """A client cursor that the thread keeps."""

    number: int
    lease: Lease | None
    left: list[int]
    open: bool = True


@dataclass(eq=False)
class Pin:
    """An entered ``transaction.pin()``."""

    lease: Lease
    own: bool


@dataclass(eq=False)
class Thread:
    lease: Lease | None = None
    levels: list[Level] = field(default_factory=list)
    manual: Level | None = None
    broken: bool = False
    """Django refuses statements until the block ends."""
    failed: bool = False
    """The server does."""
    closed: bool = False
    """``close()`` was called inside of ``atomic()``."""
    undone: int = 0
    """Transactions ended and savepoints rolled back."""
    streams: dict[int, Stream] = field(default_factory=dict)
    cursors: dict[int, Cursor] = field(default_factory=dict)
    pins: list[Pin] = field(default_factory=list)

    @property
    def blocks(self) -> list[Level]:
        return [self.manual] if self.manual else self.levels

    def live(self) -> list[Stream]:
        return [stream for stream in self.streams.values() if stream.lease is self.lease]


class Leases:
    """Who holds what, and how a lease ends; the operations are in ``operations.Model``."""

    def __init__(self, threads: int, size: int, mode: str) -> None:
        self.threads = [Thread() for _ in range(threads)]
        self.size = size
        self.mode = mode
        self.committed: set[str] = set()
        self.refusing = False
        """Waiting is not worth it: what would block fails."""
        self.rollbacks = 0
        """Open transactions ended by a release, each of which must be logged."""

    def in_use(self) -> int:
        return sum(thread.lease is not None for thread in self.threads)

    def acquire(self, thread: Thread) -> Lease:
        if thread.lease is None:
            if self.in_use() >= self.size:
                if self.refusing:
                    raise Fails("exhausted")
                raise Blocked
            thread.lease = Lease()
        return thread.lease

    def statement(self, thread: Thread, cursor: str = "new", pins: bool = False) -> Lease:
        """
        What every statement goes through: on a cursor that was kept, on one made for it, or on a stream, which
        psycopg makes on a closed connection, too.
        """
        if cursor == "kept" and thread.broken:
            raise Fails("broken")
        if thread.closed:
            raise Fails("closed")
        lease = self.acquire(thread)
        if lease.noticed and cursor != "stream":
            self.lost(thread, lease)
        if thread.broken:
            raise Fails("broken")
        lease.pinned = lease.pinned or pins
        if lease.dead:
            self.lost(thread, lease)
        if thread.failed:
            raise Fails("aborted")
        if thread.blocks:
            lease.began = True
        return lease

    def lost(self, thread: Thread, lease: Lease) -> None:
        lease.noticed = True
        self.finish(thread)
        raise Fails("lost")

    def finish(self, thread: Thread) -> None:
        """The end of a statement or transaction: the lease ends unless something holds it."""
        lease = thread.lease
        if lease is None or thread.blocks or lease.pinned or thread.live():
            return
        # A dead connection is let go as soon as nothing was promised on it.
        if self.mode == "transaction" or (lease.noticed and not lease.abandoned):
            thread.lease = None

    def close(self, thread: Thread) -> None:
        """``connection.close()``: whatever is held ends."""
        if thread.closed:
            return
        lease = thread.lease
        if lease is not None and lease.began and not lease.noticed:
            self.rollbacks += 1
        thread.lease = None
        for level in thread.blocks:
            level.hooks.clear()
        if thread.levels:
            thread.closed = thread.broken = True
        else:
            thread.manual = None
            thread.failed = False

    # -- what the server does ---------------------------------------------------------------------------------

    def undo(self, thread: Thread, level: Level) -> None:
        """ROLLBACK, or ROLLBACK TO the savepoint."""
        lease = thread.lease
        if lease is not None:
            lease.guc, lease.temps = level.guc, level.temps
        for stream in thread.streams.values():
            if stream.level is level:
                stream.exists = False
        thread.failed = False
        thread.undone += 1

    def merge(self, thread: Thread, level: Level) -> None:
        """RELEASE: what was done belongs to the enclosing block."""
        parent = thread.blocks[-1]
        parent.writes += level.writes
        parent.hooks += level.hooks
        for stream in thread.streams.values():
            if stream.level is level:
                stream.level = parent

    def commit(self, thread: Thread, level: Level) -> None:
        """COMMIT; the server turns it into ROLLBACK when a statement has failed."""
        if thread.failed:
            self.undo(thread, level)
        else:
            self.committed |= set(level.writes)
        self.end(thread, level)

    def end(self, thread: Thread, level: Level) -> None:
        thread.undone += 1
        for stream in thread.streams.values():
            if stream.level is level:
                stream.exists = False
        if thread.lease is not None:
            thread.lease.began = False

    def write(self, thread: Thread, key: str) -> None:
        if thread.blocks:
            thread.blocks[-1].writes.append(key)
        else:
            self.committed.add(key)

    def snapshot(self, thread: Thread, kind: str) -> Level:
        lease = thread.lease
        return Level(kind, lease.guc, lease.temps) if lease is not None else Level(kind)

    # -- what an observer sees --------------------------------------------------------------------------------

    def holders(self) -> dict[int, tuple[bool, str]]:
        """By thread: whether its lease is pinned, and the state of its transaction."""
        return {
            number: (thread.lease.pinned, self.state(thread, thread.lease))
            for number, thread in enumerate(self.threads)
            if thread.lease is not None
        }

    def state(self, thread: Thread, lease: Lease) -> str:
        if lease.dead:
            return "dead"
        if not lease.began:
            return "idle"
        return "failed transaction" if thread.failed else "idle in transaction"
