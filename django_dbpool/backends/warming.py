"""Opening connections before somebody needs them, where it is asked for: importing and ``ready()`` open nothing."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from django.db import connections

from ..conf import pool_config, pooling_enabled
from ..core.logs import get_logger
from ..pool.managed import ManagedPool
from .mixin import PooledDatabaseMixin

logger = get_logger("django_dbpool.pool")


def warm(timeout: float, using: str | None = None) -> bool:
    """See ``django_dbpool.warm``."""
    wrappers = _pooled(connections) if using is None else _pooled([using])
    return _warm([pool for wrapper in wrappers if (pool := wrapper.pool) is not None], timeout)


def warm_at_start(timeout: float) -> bool:
    """
    The same for the aliases whose ``POOL["warm"]`` is true, for the start of a server. A server that can't be reached
    delays the start and doesn't prevent it: what comes then gets its 503, which is more than no process could answer.
    """
    # By their settings: a pool that is made is filled.
    marked = [wrapper for wrapper in _pooled(connections) if pool_config(wrapper.settings_dict, wrapper.alias).warm]
    pools = [pool for wrapper in marked if (pool := wrapper.pool) is not None]
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


def _pooled(aliases: Iterable[str]) -> list[PooledDatabaseMixin]:
    return [
        wrapper
        for alias in aliases
        if isinstance(wrapper := connections[alias], PooledDatabaseMixin) and pooling_enabled(wrapper.settings_dict)
    ]


def _warm(pools: list[ManagedPool], timeout: float) -> bool:
    deadline = monotonic() + timeout
    for pool in pools:
        pool.housekeeping.ensure_running()
    reached = [pool.housekeeping.warm(deadline) for pool in pools]
    return all(reached)
