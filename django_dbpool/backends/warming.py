"""Opening connections before somebody needs them, where it is asked for: importing and ``ready()`` open nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import monotonic

from django.db import connections

from ..pool.managed import ManagedPool
from .mixin import PooledDatabaseMixin

logger = logging.getLogger("django_dbpool.pool")


def warm(timeout: float, using: str | None = None) -> bool:
    """See ``django_dbpool.warm``."""
    return _warm(_pools(connections if using is None else [using]), timeout)


def warm_at_start(timeout: float) -> bool:
    """
    The same for the aliases whose ``POOL["warm"]`` is true, for the start of a server. A server that can't be reached
    delays the start and doesn't prevent it: what comes then gets its 503, which is more than no process could answer.
    """
    pools = [pool for pool in _pools(connections) if pool.config.warm]
    reached = _warm(pools, timeout)
    for pool in pools:
        if len(pool.entries) < pool.min_size:
            logger.warning(
                "database %r: %d of min_size = %d connections open after %.1f s; starting all the same",
                pool.alias,
                len(pool.entries),
                pool.min_size,
                timeout,
            )
    return reached


def _pools(aliases: Iterable[str]) -> list[ManagedPool]:
    ours = (wrapper for alias in aliases if isinstance(wrapper := connections[alias], PooledDatabaseMixin))
    return [pool for wrapper in ours if (pool := wrapper.pool) is not None]


def _warm(pools: list[ManagedPool], timeout: float) -> bool:
    deadline = monotonic() + timeout
    for pool in pools:
        pool.housekeeping.ensure_running()
    reached = [pool.housekeeping.warm(deadline) for pool in pools]
    return all(reached)
