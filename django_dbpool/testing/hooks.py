"""Where a watcher is told of leases and statements: classes are patched, so that the engine has nothing to ask."""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from ..backends.acquiring import AcquiringMixin
from ..backends.cursors import LeasedCursor, StreamingCursor
from ..backends.leases import LeaseMixin
from ..core.ledger import Owner
from ..pool.entry import PoolEntry
from ..pool.managed import ManagedPool
from ..pool.resetting import ResettingPool

if TYPE_CHECKING:
    from .sessions import Watcher

Hook = Callable[..., Any]

_patched: list[tuple[type, str, Hook]] = []


def install(watcher: Watcher) -> None:
    _patch(watcher, AcquiringMixin, "_use", _use)
    _patch(watcher, LeaseMixin, "_begin_statement", _begin_statement)
    _patch(watcher, LeaseMixin, "_end_statement", _end_statement)
    for pool in (ManagedPool, ResettingPool):
        _patch(watcher, pool, "release", _release)
    for cursor in (LeasedCursor, StreamingCursor):
        _patch(watcher, cursor, "_execute", _execute)
        _patch(watcher, cursor, "_executemany", _execute)


def uninstall() -> None:
    while _patched:
        cls, name, original = _patched.pop()
        setattr(cls, name, original)


def _patch(watcher: Watcher, cls: type, name: str, make: Callable[[Watcher, Hook], Hook]) -> None:
    original: Hook = cls.__dict__[name]
    _patched.append((cls, name, original))
    setattr(cls, name, wraps(original)(make(watcher, original)))


def _use(watcher: Watcher, original: Hook) -> Hook:
    def use(db: LeaseMixin, entry: PoolEntry) -> Any:
        result = original(db, entry)
        watcher.begin(entry)
        return result

    return use


def _begin_statement(watcher: Watcher, original: Hook) -> Hook:
    def begin_statement(db: LeaseMixin, cursor: Any, sql: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(db, cursor, sql, *args, **kwargs)
        watcher.note(db, sql)
        return result

    return begin_statement


def _execute(watcher: Watcher, original: Hook) -> Hook:
    def execute(cursor: Any, sql: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        watcher.expect(sql, params)
        try:
            return original(cursor, sql, params, *args, **kwargs)
        finally:
            # Not before: the lease may begin with this statement. Where it ends with it there is nothing local.
            watcher.note_local(cursor.db, sql, params)

    return execute


def _end_statement(watcher: Watcher, original: Hook) -> Hook:
    def end_statement(db: LeaseMixin) -> None:
        known = len(watcher.leaks)
        original(db)
        for leak in watcher.leaks[known:]:
            # Neither an error on its way is replaced nor are commit hooks skipped.
            if leak.thread_ident == get_ident() and sys.exception() is None and not db.run_on_commit:
                raise leak

    return end_statement


def _release(watcher: Watcher, original: Hook) -> Hook:
    def release(pool: ManagedPool, entry: PoolEntry, owner: Owner | None, now: float | None = None) -> None:
        # A connection that was granted and never used has no owner. The release of a ResettingPool ends in that of a
        # ManagedPool, which finds the lease inspected.
        if owner is None or entry.owner is not owner:
            original(pool, entry, owner, now)
            return
        try:
            leaked = watcher.inspect(pool.alias, entry)
        except BaseException:
            pool.discard(entry)
            raise
        if leaked:
            pool.discard(entry)
        else:
            original(pool, entry, owner, now)

    return release
