"""Reading a pool without disturbing it. Numbers are computed when asked, never kept up to date."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..core.deadlock import PoolView, find_cycle
from ..core.ledger import Holder, Owner, stack_of

if TYPE_CHECKING:
    from .managed import ManagedPool


CAPTURE_INTERVAL = 1.0
"""Seconds during which refused callers are told of the same holders."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """A pool's numbers at one moment; connections unless said otherwise."""

    alias: str
    pid: int
    mode: str
    min_size: int
    max_size: int
    """The limit without the reserve."""
    reserve_size: int
    """The limit of the reserve."""
    size: int
    """Open or being opened, those of the reserve included."""
    reserved: int
    """Those of the reserve among them."""
    in_use: int
    idle: int
    opening: int
    waiting: int
    """Callers in the queue, and those that wait for their group."""
    reserve_in_use: int = 0
    """Connections of the reserve that are lent or being opened."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def snapshot(pool: ManagedPool) -> PoolSnapshot:
    # One C call each: a consistent copy under the GIL, though not one instant for all three.
    opened = len(pool.entries)
    gate = pool.gate
    ordinary, reserved, _ = gate.counted()
    size = ordinary + reserved
    return PoolSnapshot(
        alias=pool.alias,
        pid=os.getpid(),
        mode=pool.config.mode,
        min_size=pool.min_size,
        max_size=gate.max_size,
        reserve_size=gate.reserve_size,
        size=size,
        reserved=reserved,
        in_use=pool.in_use,
        idle=len(gate.free) + len(gate.reserve_free),
        opening=max(0, size - opened),
        waiting=gate.waiting,
        reserve_in_use=max(0, reserved - len(gate.reserve_free)),
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


class CapturedHolders:
    """
    What callers are told of the holders. Stacks and routes take time to find out, and in an overload hundreds are
    refused each second, so it is found out once a second and shared.
    """

    def __init__(self, pool: ManagedPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._holders: tuple[Holder, ...] = ()
        self._at = -math.inf
        self.captures = 0

    def get(self) -> tuple[tuple[Holder, ...], float]:
        """The holders with their stacks, and how many seconds ago it was so."""
        with self._lock:
            now = self._pool.clock()
            if now - self._at >= CAPTURE_INTERVAL:
                self._holders = holders(self._pool, stacks=True)
                self._at = now
                self.captures += 1
            return self._holders, now - self._at


def cycle(owner: Owner, alias: str, group: str | None = None) -> tuple[str, ...]:
    """
    Why a wait of ``owner`` for ``alias`` can never end, if that can be seen in this process's pools.

    Args:
        group: what it waits for is the end of somebody's lease in this group.
    """
    from .registry import pools

    views = [view for pool in pools() for view in _views(pool)]
    return find_cycle(owner, alias if group is None else _of_group(alias, group), views)


def _views(pool: ManagedPool) -> Iterator[PoolView]:
    gate = pool.gate
    yield PoolView(
        alias=pool.alias,
        holders=[entry.owner for entry in tuple(pool.entries) if entry.owner is not None],
        waiters=_owners(gate.waiters()),
    )
    for name, (members, waiters) in gate.group_waits().items():
        # Whoever waits for its group waits for members of that alone.
        yield PoolView(_of_group(pool.alias, name), _owners(members), _owners(waiters))


def _of_group(alias: str, group: str) -> str:
    return f"{alias}, group {group}"


def _owners(found: Iterable[object]) -> list[Owner]:
    return [owner for owner in found if isinstance(owner, Owner)]
