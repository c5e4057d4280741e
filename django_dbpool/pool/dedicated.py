"""Connections outside of any pool, held for long on purpose: in no count, but known, so that reports show them."""

from __future__ import annotations

import math
import os
from time import monotonic
from typing import Any

from psycopg import Connection
from psycopg.pq import PGconn

from ..core.ledger import Holder, Owner, current_unit
from .entry import PoolEntry

_open: dict[PoolEntry, str] = {}
"""Alias of each."""
_graveyard: list[object] = []
"""Inherited through fork(), kept so that no destructor touches the parent's socket."""


def register(alias: str, conn: Connection[Any]) -> PoolEntry:
    """Note a connection of the calling thread."""
    entry = PoolEntry(conn, monotonic(), math.inf)
    entry.owner = Owner()
    entry.unit = current_unit.get()
    _open[entry] = alias
    return entry


def keep(alias: str, conn: Connection[Any], now: float) -> PoolEntry:
    """Note a connection that is nobody's lease: the fleet knows it for ours, no report names a holder."""
    entry = PoolEntry(conn, now, math.inf)
    _open[entry] = alias
    return entry


def leave(entry: PoolEntry) -> None:
    """It is about to be closed by whoever had it kept."""
    _open.pop(entry, None)


def close(entry: PoolEntry) -> None:
    """Close it whatever it is doing: a statement that still runs is cancelled. In a forked child nothing happens."""
    try:
        entry.abort()
    finally:
        if _open.pop(entry, None) is not None:
            entry.close()


def every() -> tuple[tuple[str, PoolEntry], ...]:
    """Those that are open now, each after its alias."""
    return tuple((alias, entry) for entry, alias in tuple(_open.items()))


def dedicated_holders(alias: str | None = None) -> tuple[Holder, ...]:
    """Who has a dedicated connection, of one alias or of all, oldest first."""
    now = monotonic()
    found = [entry.holder(name, now) for entry, name in tuple(_open.items()) if alias is None or name == alias]
    return tuple(sorted(filter(None, found), key=lambda holder: -holder.since_seconds))


def dedicated_backends() -> dict[str, list[int]]:
    """The server processes behind them, by alias."""
    found: dict[str, list[int]] = {}
    for entry, alias in tuple(_open.items()):
        found.setdefault(alias, []).append(entry.backend_pid)
    return found


def _forget_inherited() -> None:
    """In the child of a fork. Psycopg's object is in the caller's hands: it gets a dead end instead of the socket."""
    for entry in _open:
        _graveyard.append((entry, entry.pgconn))
        entry.conn.pgconn = PGconn.connect_start(b"inherited through fork")
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)
