"""Whether the server of one alias answers this process, and how the alias is configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any

from ..core import arguments
from ..core.config import PoolConfig
from ..pool import stopping
from ..pool.question import Answer
from .asking import ask, await_, patience, wait
from .pools import config_of, pool_of
from .words import SHUTTING_DOWN, text_of


@dataclass(frozen=True, slots=True)
class Connectivity:
    """Whether the server of one alias answers this process, and how the alias is configured."""

    alias: str
    ok: bool
    code: str
    """One of those in docs/health.md."""
    text: str
    """The same in words; hosts and users are not named."""
    response_time_ms: float
    """How long the server took, or was waited for."""
    age: float
    """Seconds since then: one question a second serves all."""
    pooling: bool
    mode: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """``min``, ``max``, ``reserve``, as they are now."""
    lifetimes: Mapping[str, float] = field(default_factory=dict)
    """Seconds: ``max_lifetime``, ``max_idle``, ``check_idle``."""
    retry: Mapping[str, Any] = field(default_factory=dict)
    """``POOL["retry"]``."""
    breaker: Mapping[str, Any] = field(default_factory=dict)
    """``POOL["breaker"]``, and its ``state`` now."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def connectivity(alias: str = "default", timeout: float = 1.0) -> Connectivity:
    """
    Whether the server answers this process, asked on a connection outside of pool and reserve. Callers within one
    second share an answer, and never more than one question is under way.

    Args:
        alias: database alias, pooled or not.
        timeout: seconds within which this returns, whatever state the server is in.

    Raises:
        TypeError: the timeout is no number.
        ValueError: it is negative or not finite.
        django.utils.connection.ConnectionDoesNotExist: there is no such alias.
        django.core.exceptions.ImproperlyConfigured: its engine is not one of ours, or POOL has faults.

    Example:
        if not connectivity("reports").ok:
            ...
    """
    timeout = arguments.seconds("health.connectivity", "timeout", timeout)
    config = config_of(alias)
    if stopping.announced is not None:
        return _shutting_down(alias, config)
    deadline = monotonic() + patience(timeout)
    probe, found = ask(alias)
    answer = wait(probe, found, deadline, timeout)
    return _told(alias, config, answer, probe.age(answer))


async def aconnectivity(alias: str = "default", timeout: float = 1.0) -> Connectivity:  # noqa: ASYNC109
    """The same for event loops: it neither blocks one nor takes a thread of its executor."""
    timeout = arguments.seconds("health.aconnectivity", "timeout", timeout)
    config = config_of(alias)
    if stopping.announced is not None:
        return _shutting_down(alias, config)
    deadline = monotonic() + patience(timeout)
    probe, found = ask(alias)
    answer = await await_(probe, found, deadline, timeout)
    return _told(alias, config, answer, probe.age(answer))


def _shutting_down(alias: str, config: PoolConfig | None) -> Connectivity:
    """Without asking: it would open a connection in a process that closes its own."""
    return _told(alias, config, None, 0.0)


def _told(alias: str, config: PoolConfig | None, answer: Answer | None, age: float) -> Connectivity:
    code = SHUTTING_DOWN if answer is None else answer.code
    seconds = 0.0 if answer is None else answer.seconds
    settings = {} if config is None else _settings(alias, config)
    return Connectivity(
        alias=alias,
        ok=code == "ok",
        code=code,
        text=text_of(code),
        response_time_ms=round(1000 * seconds, 1),
        age=age,
        pooling=config is not None,
        **settings,
    )


def _settings(alias: str, config: PoolConfig) -> dict[str, Any]:
    pool = pool_of(alias)
    low, high = (config.min_size, config.max_size) if pool is None else (pool.min_size, pool.gate.max_size)
    return {
        "mode": config.mode,
        "sizes": {"min": low, "max": high, "reserve": config.reserve_size},
        "lifetimes": {
            "max_lifetime": config.max_lifetime,
            "max_idle": config.max_idle,
            "check_idle": config.check_idle,
        },
        "retry": asdict(config.retry),
        "breaker": {**asdict(config.breaker), "state": "closed" if pool is None else pool.breaker.state.value},
    }
