"""Where snapshots are kept for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from django.db import connections

from ..conf import fleet_config
from ..conf.fleet import cache_of, database_of
from ..core.fleet import FleetConfig


class FleetUnavailable(Exception):
    """What the processes say can't be read now, or not at all; the text says why."""


class Unusable(FleetUnavailable):
    """There is no store yet, and another attempt a moment later would change nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one process has published."""

    document: object
    """Text, if it is what it should be."""
    age: float
    """Seconds since it was taken, by the clock of the store's server as far as it tells."""


class Store(Protocol):
    """Used by one thread at a time."""

    description: str
    """For example ``table django_dbpool_process of database 'default'``."""

    def put(self, instance: str, document: str, *, delay: float, expire: float) -> None:
        """
        Keep a process's snapshot in place of its last one.

        Args:
            delay: seconds since the snapshot was taken.
            expire: seconds after which it is forgotten.

        Raises:
            Unusable: there is no such store (yet).
            Exception: whatever keeps the store from doing it now.
        """

    def read(self, longest: int, most: int) -> list[Row]:
        """
        Every snapshot that has not expired, youngest first.

        Args:
            longest: characters; what is longer is left out.
            most: of them.
        """

    def close(self) -> None:
        """Give back what the calling thread holds for it."""


def overdue_after(config: FleetConfig) -> float:
    """Seconds after which a process that is at work should have published again."""
    return min(config.expire, 2.5 * config.interval)


def store_of(config: FleetConfig | None = None) -> Store | None:
    """
    The store that the settings name; None if there is none.

    Raises:
        ImproperlyConfigured: naming every fault with its remedy.
    """
    from .cache import CacheStore
    from .table import TableStore

    config = fleet_config() if config is None else config
    if config.store is None:
        return None
    if config.store == "cache":
        return CacheStore(cache_of(config), fresh=overdue_after(config))
    alias = database_of(config, connections.settings)
    return TableStore(alias) if alias is not None else None
