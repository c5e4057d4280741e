"""The operations that the model predicts. Their namesakes in ``sessions.Session`` do them in earnest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .model import CHUNK, RESULT, ROWS, Cursor, Fails, Leases, Level, Pin, Stream, Thread

Look = tuple[str, list[int], list[str]]


class Model(Leases):
    """Leases and what threads do with them."""

    def apply(self, name: str, thread: int, number: int, key: str) -> Any:
        """Predict one operation; ``number`` names a cursor, ``key`` is what a write writes."""
        operation: Callable[[Thread, int, str], Any] = getattr(self, f"do_{name}")
        return operation(self.threads[thread], number, key)

    @contextmanager
    def ending(self, thread: Thread) -> Iterator[None]:
        """The end of a statement, whether it failed or not."""
        try:
            yield
        except Fails as error:
            if error.kind != "exhausted":
                self.finish(thread)
            raise
        self.finish(thread)

    # -- statements -------------------------------------------------------------------------------------------

    def do_query(self, thread: Thread, number: int, key: str) -> int:
        with self.ending(thread):
            self.statement(thread)
        return 1

    def do_error(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            self.statement(thread)
            thread.failed = bool(thread.blocks)
            raise Fails("division by zero")

    def do_insert(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            self.statement(thread)
            self.write(thread, key)

    def do_create(self, thread: Thread, number: int, key: str) -> None:
        """By the ORM, which marks a transaction for rollback after an error in it."""
        try:
            self.do_insert(thread, number, key)
        except Fails:
            if thread.levels:
                thread.broken = True
            raise

    def do_update_or_create(self, thread: Thread, number: int, key: str) -> None:
        self.do_enter(thread, number, key)
        try:
            self.statement(thread)
        except Fails:
            self.leave(thread, failed=True)
            raise
        self.write(thread, key)
        self.leave(thread, failed=False)

    def do_look(self, thread: Thread, number: int, key: str) -> Look:
        with self.ending(thread):
            lease = self.statement(thread)
            return lease.guc, sorted(lease.locks), sorted(f"t{temp}" for temp in lease.temps)

    # -- session state ----------------------------------------------------------------------------------------

    def do_set(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            self.statement(thread, pins=True).guc = key

    def do_lock(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            self.statement(thread, pins=True).locks += (number,)

    def do_temp(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            self.statement(thread, pins=True).temps += (number,)

    def do_raw(self, thread: Thread, number: int, key: str) -> bool:
        if thread.lease is not None:
            thread.lease.pinned = True
        return thread.lease is not None

    def do_pin(self, thread: Thread, number: int, key: str) -> None:
        if thread.closed:
            raise Fails("closed")
        lease = self.acquire(thread)
        thread.pins.append(Pin(lease, own=not lease.pinned))
        lease.pinned = True

    def do_unpin(self, thread: Thread, number: int, key: str) -> None:
        pin = thread.pins.pop()
        if pin.own and thread.lease is pin.lease and not (thread.blocks or thread.live() or pin.lease.abandoned):
            self.close(thread)

    # -- transactions -----------------------------------------------------------------------------------------

    def do_enter(self, thread: Thread, number: int, key: str) -> None:
        if thread.levels:
            if thread.broken:
                self.do_enter_plain(thread, number, key)
            else:
                self.statement(thread)
                thread.levels.append(self.snapshot(thread, "savepoint"))
            return
        if thread.lease is not None and thread.lease.noticed:
            raise Fails("lost")
        thread.levels.append(self.snapshot(thread, "outer"))

    def do_enter_plain(self, thread: Thread, number: int, key: str) -> None:
        thread.levels.append(Level("plain"))

    def do_exit(self, thread: Thread, number: int, key: str) -> list[bool]:
        return self.leave(thread, failed=False)

    def do_fail(self, thread: Thread, number: int, key: str) -> list[bool]:
        return self.leave(thread, failed=True)

    def do_hook(self, thread: Thread, number: int, key: str) -> None:
        thread.levels[-1].hooks.append(key)

    def leave(self, thread: Thread, failed: bool) -> list[bool]:
        level = thread.levels.pop()
        if thread.levels:
            self.leave_inner(thread, level, failed)
            return []
        return self.leave_outer(thread, level, failed)

    def leave_inner(self, thread: Thread, level: Level, failed: bool) -> None:
        if thread.closed:
            return
        if not failed and not thread.broken:
            if level.kind == "savepoint":
                self.release_savepoint(thread, level)
            self.merge(thread, level)
            return
        thread.broken = False
        lease = thread.lease
        if level.kind == "plain":
            thread.broken = True
            self.merge(thread, level)
        elif lease is not None and lease.dead:
            thread.broken = lease.noticed = True
        else:
            self.undo(thread, level)

    def release_savepoint(self, thread: Thread, level: Level) -> None:
        lease = thread.lease
        assert lease is not None, "a savepoint was set on it"
        if lease.dead:
            thread.broken = lease.noticed = True
            raise Fails("lost")
        if thread.failed:
            self.undo(thread, level)
            raise Fails("aborted")

    def leave_outer(self, thread: Thread, level: Level, failed: bool) -> list[bool]:
        lease = thread.lease
        commit = not failed and not thread.broken and not thread.closed
        thread.broken = thread.closed = False
        if lease is not None and lease.dead and (lease.began or lease.noticed):
            # Neither COMMIT nor ROLLBACK gets through; Django closes the connection.
            thread.lease = None
            thread.failed = False
            if commit:
                raise Fails("lost")
            return []
        if not commit:
            self.undo(thread, level)
            self.end(thread, level)
            self.finish(thread)
            return []
        self.commit(thread, level)
        self.finish(thread)
        return self.run_hooks(thread, level.hooks)

    def run_hooks(self, thread: Thread, hooks: list[str]) -> list[bool]:
        """Each tells whether it ran with a lease left from the transaction, and writes a row of its own."""
        held = []
        for key in hooks:
            held.append(thread.lease is not None)
            self.do_insert(thread, 0, key)
        return held

    # -- manual transactions ----------------------------------------------------------------------------------

    def do_autocommit_off(self, thread: Thread, number: int, key: str) -> None:
        if thread.lease is not None and thread.lease.noticed:
            raise Fails("lost")
        thread.manual = self.snapshot(thread, "manual")

    def do_autocommit_on(self, thread: Thread, number: int, key: str) -> None:
        if thread.lease is not None and thread.lease.noticed:
            raise Fails("lost")
        thread.manual = None
        self.finish(thread)

    def do_commit(self, thread: Thread, number: int, key: str) -> None:
        self.end_manual(thread, commit=True)

    def do_rollback(self, thread: Thread, number: int, key: str) -> None:
        self.end_manual(thread, commit=False)

    def end_manual(self, thread: Thread, commit: bool) -> None:
        level, lease = thread.manual, thread.lease
        assert level is not None
        if lease is not None and lease.dead and (lease.began or lease.noticed):
            lease.noticed = True
            if not (lease.pinned or thread.live() or lease.abandoned):
                # The transaction is over; the next one takes another connection.
                self.undo(thread, level)
                self.end(thread, level)
                thread.lease = None
                thread.failed = False
                thread.manual = None
                thread.manual = self.snapshot(thread, "manual")
            raise Fails("lost")
        if commit:
            self.commit(thread, level)
        else:
            self.undo(thread, level)
            self.end(thread, level)
        thread.manual = None
        self.finish(thread)
        thread.manual = self.snapshot(thread, "manual")

    # -- server-side cursors ----------------------------------------------------------------------------------

    def do_open_iterator(self, thread: Thread, number: int, key: str) -> list[int]:
        return self.open_stream(thread, number, orm=True)

    def do_open_stream(self, thread: Thread, number: int, key: str) -> list[int]:
        return self.open_stream(thread, number, orm=False)

    def open_stream(self, thread: Thread, number: int, orm: bool) -> list[int]:
        with self.stream_failing(thread):
            lease = self.statement(thread, "stream")
        level = thread.blocks[-1] if thread.blocks else None
        thread.streams[number] = Stream(number, orm, lease, level, thread.undone)
        return ROWS[:CHUNK]

    @contextmanager
    def stream_failing(self, thread: Thread) -> Iterator[None]:
        """A stream that fails is closed, which is the end of a statement, also on a dead connection."""
        try:
            yield
        except Fails:
            self.finish(thread)
            raise

    def do_fetch(self, thread: Thread, number: int, key: str) -> list[int]:
        stream = thread.streams[number]
        lease = thread.lease
        if lease is None or stream.lease is not lease:
            del thread.streams[number]
            raise Fails("released")
        try:
            if lease.dead:
                lease.noticed = True
                raise Fails("lost")
            if thread.failed:
                raise Fails("aborted")
            if not stream.exists:
                thread.failed = lease.began
                raise Fails("no cursor")
        except Fails:
            del thread.streams[number]
            self.finish(thread)
            raise
        rows = ROWS[stream.position : stream.position + CHUNK]
        stream.position += CHUNK
        if len(rows) < CHUNK:
            del thread.streams[number]
            self.finish(thread)
        return rows

    def do_close_stream(self, thread: Thread, number: int, key: str) -> None:
        stream = thread.streams.pop(number)
        lease = thread.lease
        if lease is None or stream.lease is not lease:
            return
        # CLOSE is only sent for a cursor that is there for certain: an error would break the transaction around it.
        talks = stream.level is None or (lease.began and stream.undone == thread.undone)
        try:
            if talks and lease.dead and not (thread.failed or lease.noticed):
                lease.noticed = True
                raise Fails("lost")
        finally:
            self.finish(thread)

    def closes_quietly(self, thread: Thread, stream: Stream) -> bool:
        lease = thread.lease
        return lease is None or stream.lease is not lease or not lease.dead

    def do_drop_stream(self, thread: Thread, number: int, key: str) -> None:
        """Without closing it. An iterator closes its cursor by itself, a bare cursor only marks its lease."""
        if thread.streams[number].orm:
            self.do_close_stream(thread, number, key)
            return
        stream = thread.streams.pop(number)
        if stream.lease is thread.lease:
            stream.lease.abandoned += 1

    # -- client cursors ---------------------------------------------------------------------------------------

    def do_cursor(self, thread: Thread, number: int, key: str) -> None:
        with self.ending(thread):
            lease = self.statement(thread)
        thread.cursors[number] = Cursor(number, lease, list(RESULT))

    def do_cursor_unused(self, thread: Thread, number: int, key: str) -> None:
        if thread.closed:
            raise Fails("closed")
        lease = self.acquire(thread)
        if lease.noticed:
            self.lost(thread, lease)
        thread.cursors[number] = Cursor(number, lease, [])

    def do_cursor_fetch(self, thread: Thread, number: int, key: str) -> list[int]:
        cursor = thread.cursors[number]
        rows, cursor.left = cursor.left[:2], cursor.left[2:]
        return rows

    def do_cursor_execute(self, thread: Thread, number: int, key: str) -> None:
        cursor = thread.cursors.pop(number)
        with self.ending(thread):
            cursor.lease = self.statement(thread, "kept")
        cursor.left = list(RESULT)
        thread.cursors[number] = cursor

    def do_cursor_close(self, thread: Thread, number: int, key: str) -> None:
        """Any number of times."""
        cursor = thread.cursors[number]
        cursor.open = False
        if cursor.lease is not None and cursor.lease is thread.lease:
            self.finish(thread)

    def do_cursor_drop(self, thread: Thread, number: int, key: str) -> None:
        del thread.cursors[number]

    # -- ends -------------------------------------------------------------------------------------------------

    def do_close(self, thread: Thread, number: int, key: str) -> None:
        self.close(thread)

    def do_close_old_connections(self, thread: Thread, number: int, key: str) -> None:
        self.close(thread)

    def do_die(self, thread: Thread, number: int, key: str) -> None:
        self.threads[self.threads.index(thread)] = Thread()

    def do_kill(self, thread: Thread, number: int, key: str) -> None:
        lease = thread.lease
        assert lease is not None
        lease.dead = True
