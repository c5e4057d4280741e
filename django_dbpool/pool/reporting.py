"""Reading a pool without disturbing it. Numbers are computed when asked, never kept up to date."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.deadlock import PoolView, find_cycle
from ..core.ledger import Holder, Owner, stack_of

if TYPE_CHECKING:
    from .managed import ManagedPool


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool's numbers at one moment; connections unless said otherwise."""

    alias: str
    pid: int
    mode: str
    min_size: int
    max_size: int
    size: int
    """Open or being opened."""
    in_use: int
    idle: int
    opening: int
    waiting: int
    """Callers in the queue."""


def snapshot(pool: ManagedPool) -> PoolSnapshot:
    # One C call each: a consistent copy under the GIL, though not one instant for all three.
    opened = len(pool.entries)
    size = pool.gate.size
    return PoolSnapshot(
        alias=pool.alias,
        pid=os.getpid(),
        mode=pool.config.mode,
        min_size=pool.min_size,
        max_size=pool.gate.max_size,
        size=size,
        in_use=pool.in_use,
        idle=len(pool.gate.free),
        opening=max(0, size - opened),
        waiting=pool.gate.waiting,
    )


def holders(pool: ManagedPool, *, stacks: bool = False) -> tuple[Holder, ...]:
    now = pool.clock()
    frames = sys._current_frames() if stacks else {}
    found = []
    for entry in tuple(pool.entries):
        owner = entry.owner
        if owner is None:
            continue
        holder = entry.holder(pool.alias, now, stack_of(owner.ident, frames) if stacks else ())
        if holder is not None:
            found.append(holder)
    return tuple(sorted(found, key=lambda holder: -holder.since_seconds))


def threads(pool: ManagedPool) -> set[int]:
    """Idents of the threads that hold, wait for or open a connection."""
    holding = {owner.ident for entry in tuple(pool.entries) if (owner := entry.owner) is not None}
    asking = {ticket.holder.ident for ticket in pool.tickets() if isinstance(ticket.holder, Owner)}
    return holding | asking


def cycle(owner: Owner, alias: str) -> tuple[str, ...]:
    """Why a wait of ``owner`` for ``alias`` can never end, if that can be seen in this process's pools."""
    from .registry import pools

    views = [
        PoolView(
            alias=pool.alias,
            holders=[entry.owner for entry in tuple(pool.entries) if entry.owner is not None],
            waiters=[waiter for waiter in pool.gate.waiters() if isinstance(waiter, Owner)],
        )
        for pool in pools()
    ]
    return find_cycle(owner, alias, views)
