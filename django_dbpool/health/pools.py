"""How one alias stands in this process, read from memory: how full its pool is, and what its circuit breaker does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from ..conf import pool_config, pooling_enabled
from ..conf.engines import is_ours
from ..core.breaker import State
from ..core.config import PoolConfig
from ..pool.managed import ManagedPool
from ..pool.registry import pools


@dataclass(frozen=True, slots=True)
class Saturation:
    """How full the pool of one alias is in this process; connections unless said otherwise."""

    alias: str
    pooling: bool
    """False: the alias has no pool, and all numbers are 0."""
    active: int = 0
    """Lent now, those of the reserve included."""
    idle: int = 0
    total: int = 0
    """Open or being opened, those of the reserve included."""
    min: int = 0
    max: int = 0
    """The limit without the reserve."""
    reserve: int = 0
    """The limit of the reserve."""
    reserve_used: int = 0
    """Lent now of the reserve."""
    waiting: int = 0
    """Callers in the queue."""
    longest_wait: float = 0.0
    """Seconds for which the first of them has waited."""
    utilization_percent: float = 0.0
    """``active`` without the reserve, of ``max``."""

    @property
    def is_exhausted(self) -> bool:
        """All of ``max`` is lent: whoever comes next waits."""
        return self.pooling and self.utilization_percent >= 100

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_exhausted": self.is_exhausted}


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit breaker of one alias in this process."""

    alias: str
    pooling: bool
    state: str = "closed"
    """``closed``, ``open``, ``half-open`` or ``isolated``."""
    seconds: float = 0.0
    """For so long."""
    retry_after: float = 0.0
    """Seconds after which another call makes sense; 0: now."""
    reason: str = ""
    """Why it is in this state; empty where it always was."""
    error: str = ""
    """The class of the last failure. Not its text, in which names of hosts and users are found."""
    failures: int = 0
    """Of callers' attempts in the last ``sampling_duration``."""
    throughput: int = 0
    """All of these attempts."""

    @property
    def refuses(self) -> bool:
        """Whether a caller who needs a new connection would be refused at once."""
        return self.state == State.ISOLATED.value or (self.state != State.CLOSED.value and self.retry_after > 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def saturation(alias: str = "default") -> Saturation:
    """
    How full the pool of an alias is in this process, from memory. A pool that nobody has used yet has nothing in it.

    Raises:
        django.utils.connection.ConnectionDoesNotExist: there is no such alias.
        django.core.exceptions.ImproperlyConfigured: its engine is not one of ours, or POOL has faults.

    Example:
        if saturation("default").is_exhausted:
            ...
    """
    config = config_of(alias)
    if config is None:
        return Saturation(alias, pooling=False)
    pool = pool_of(alias)
    if pool is None:
        return Saturation(alias, pooling=True, min=config.min_size, max=config.max_size, reserve=config.reserve_size)
    now = pool.snapshot()
    ordinary = pool.in_use_of_max
    return Saturation(
        alias=alias,
        pooling=True,
        active=now.in_use,
        idle=now.idle,
        total=now.size,
        min=now.min_size,
        max=now.max_size,
        reserve=now.reserve_size,
        reserve_used=max(0, now.in_use - ordinary),
        waiting=now.waiting,
        longest_wait=pool.gate.longest_wait(),
        utilization_percent=round(100 * ordinary / now.max_size, 1),
    )


def circuit(alias: str = "default") -> Circuit:
    """
    The circuit breaker of an alias in this process, from memory.

    Raises:
        django.utils.connection.ConnectionDoesNotExist: there is no such alias.
        django.core.exceptions.ImproperlyConfigured: its engine is not one of ours, or POOL has faults.
    """
    if config_of(alias) is None:
        return Circuit(alias, pooling=False)
    pool = pool_of(alias)
    if pool is None:
        return Circuit(alias, pooling=True)
    now = pool.breaker.snapshot()
    return Circuit(
        alias=alias,
        pooling=True,
        state=now.state.value,
        seconds=max(0.0, now.at - now.since),
        retry_after=now.retry_after,
        reason=now.timeline[-1].reason if now.timeline else "",
        error="" if now.error is None else type(now.error).__name__,
        failures=now.counts.failures,
        throughput=now.counts.throughput,
    )


def pool_of(alias: str) -> ManagedPool | None:
    """The one that this process has for an alias, if anybody has used it yet. Makes none."""
    found = [pool for pool in pools() if pool.alias == alias]
    return found[-1] if found else None


def config_of(alias: str) -> PoolConfig | None:
    """The settings of an alias's pool; None where pooling is switched off."""
    if alias not in connections.settings:
        raise ConnectionDoesNotExist(f"The connection '{alias}' doesn't exist.")
    database = connections.settings[alias]
    if not is_ours(database.get("ENGINE")):
        raise ImproperlyConfigured(f'DATABASES["{alias}"] has no engine of django_dbpool.')
    return pool_config(database, alias) if pooling_enabled(database) else None
