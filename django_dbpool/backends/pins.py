"""Connections whose sessions hold something that no other connection has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections

from .leases import LeaseMixin

if TYPE_CHECKING:
    from ..pool.entry import PoolEntry


class Pins:
    """
    The calling thread's connections that are pinned now, before a block that may be repeated: a ``search_path``, a
    tenant, a lock. Once one of them is lost the block must not be repeated. It would find another connection, and would
    read and write somebody else's rows there.
    """

    def __init__(self) -> None:
        self._pins: list[tuple[LeaseMixin, PoolEntry, int]] = []
        for connection in connections.all(initialized_only=True):
            entry = connection._entry if isinstance(connection, LeaseMixin) else None
            if entry is not None and entry.pinned is not None:
                self._pins.append((connection, entry, entry.generation))  # type: ignore[arg-type]

    def lost(self) -> bool:
        """Whether one is gone. May be asked in another thread, once the block has ended."""
        return any(
            connection._entry is not entry or entry.generation != generation or entry.lost()
            for connection, entry, generation in self._pins
        )
