"""``DATABASES[alias]["POOL"]`` as a frozen object; every fault of a mapping is reported at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from . import readers
from .breaker import BreakerPolicy
from .groups import GroupLimits
from .readers import (
    ConfigError,
    Fault,
    boolean,
    choice,
    count,
    hinting,
    nested,
    optional,
    ratio,
    read_mapping,
    seconds,
    variables,
)
from .retry import RetryPolicy

Mode = Literal["transaction", "session"]
Pooler = Literal["transaction", "session"]
Reset = Literal["dirty", "always"]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Server-side prepared statements: psycopg's ``prepare_threshold`` and ``prepared_max``."""

    after: int = 5
    """Executions of one text before it is prepared."""
    max: int = 100
    """Most statements kept prepared on one connection."""

    @classmethod
    def read(cls, raw: Any) -> Prepare:
        hint = 'Write {"after": 2, "max": 10}, or None to prepare nothing.'
        return cls(**nested(raw, {"after": count(0), "max": count(1)}, hint))


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """
    Settings of one pool. Durations are seconds, sizes are counts of connections.

    Names and meanings are psycopg_pool's wherever it has the setting, because that is what people look up.
    """

    enabled: bool = True
    mode: Mode = "transaction"
    min_size: int = 1
    max_size: int = 10
    timeout: float = 10.0
    max_waiting: int = 0
    queue_target: float | None = 0.05
    queue_interval: float = 2.0
    reserve_size: int = 1
    groups: GroupLimits | None = None
    max_lifetime: float = 3600.0
    max_idle: float = 300.0
    connect_timeout: float = 5.0
    keepalives_idle: int = 30
    tcp_user_timeout: float = 10.0
    check_idle: float = 30.0
    pooler: Pooler | None = None
    statement_timeout: float | None = None
    lock_timeout: float | None = None
    idle_in_transaction_timeout: float | None = None
    transaction_timeout: float | None = None
    command_timeout: float | None = None
    prepare: Prepare | None = None
    session: Mapping[str, str] = field(default_factory=dict)
    reset: Reset = "dirty"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    commit_status: bool = False
    pin_max: float = 60.0
    leak_after: float = 60.0
    warm: bool = False

    @classmethod
    def from_mapping(
        cls,
        options: object,
        *,
        where: str = "POOL",
        default_min_size: int = 1,
        ignored: frozenset[str] = frozenset(),
    ) -> PoolConfig:
        """
        Read a mapping as written in the settings.

        Args:
            options: the value of ``POOL``; ``True`` stands for all defaults, ``False`` for switched off.
            where: how the messages name the setting.
            default_min_size: used where ``min_size`` isn't given.
            ignored: keys that belong to somebody else and are skipped.

        Raises:
            ConfigError: with every fault found, not only the first.
        """
        if options is True:
            options = {"enabled": True}
        elif options is False:
            options = {"enabled": False}
        faults = _faults_of_shape(options)
        values: dict[str, Any] = {}
        if isinstance(options, Mapping):
            values, found = read_mapping(options, _READERS, ignored)
            faults += found
            # Not cls.max_size: with slots that is a descriptor. A faulty max_size is reported as such, not compared.
            largest = values.get("max_size", math.inf if "max_size" in options else cls().max_size)
            if values.setdefault("min_size", min(default_min_size, largest)) > largest:
                faults.append(
                    Fault(
                        "min_size",
                        f"min_size ({values['min_size']}) is above max_size ({largest}).",
                        "Lower min_size or raise max_size.",
                    )
                )
        if faults:
            raise ConfigError(where, tuple(faults))
        return cls(**values)


def _faults_of_shape(options: object) -> list[Fault]:
    if not isinstance(options, Mapping):
        return [
            Fault(
                "",
                f"must be a dictionary, not {type(options).__name__}.",
                'Write {"max_size": 10}, or True for the defaults, or False to switch pooling off.',
            )
        ]
    if not options:
        return [
            Fault(
                "",
                "is an empty dictionary, which could mean defaults or off.",
                "Write True for the defaults or False to switch pooling off.",
            )
        ]
    return []


SERVER_LIMITS = {
    "statement_timeout": "statement_timeout",
    "lock_timeout": "lock_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
    "transaction_timeout": "transaction_timeout",
}
"""Keys that set a time limit of the server, and the variable's name there. It takes milliseconds."""

TIME_LIMITS = (*SERVER_LIMITS, "command_timeout")

_MOST_CONNECTIONS = 2**18 - 1  # PostgreSQL's own limit of max_connections
_MOST_KEEPALIVE = 2**15 - 1  # Linux refuses more, and then every attempt to connect fails

_server_limit = seconds(above_zero=True, least=readers.MILLISECOND, most=readers.SERVER_LONGEST)
_duration = seconds(above_zero=True)


def _retry(raw: Any) -> RetryPolicy:
    if isinstance(raw, bool):
        return RetryPolicy(enabled=raw)
    keys = {
        "enabled": boolean,
        "attempts": count(1),
        "max_delay": _duration,
        "total": _duration,
        "base_delay": _duration,
    }
    return RetryPolicy(**nested(raw, keys, 'Write {"attempts": 16, "total": 4}, or False to repeat nothing.'))


def _breaker(raw: Any) -> BreakerPolicy:
    if isinstance(raw, bool):
        return BreakerPolicy(enabled=raw)
    keys = {
        "enabled": boolean,
        "failure_ratio": ratio,
        "minimum_throughput": count(2),
        "sampling_duration": _duration,
        "break_duration": _duration,
        "probe_interval": optional(_duration),
    }
    hint = 'Write {"failure_ratio": 0.5, "break_duration": 60}, or False to never open.'
    return BreakerPolicy(**nested(raw, keys, hint))


_READERS: dict[str, Callable[[Any], Any]] = {
    "enabled": boolean,
    "mode": choice(
        "mode", transaction="lend for one transaction", session="hold to the end of the request, as Django's pool"
    ),
    "min_size": count(0, _MOST_CONNECTIONS),
    "max_size": count(1, _MOST_CONNECTIONS),
    "timeout": _duration,
    "max_waiting": hinting(count(0), "0 sets no limit."),
    "queue_target": optional(hinting(_duration, "None lets everybody wait to the timeout.")),
    "queue_interval": _duration,
    "reserve_size": count(0, _MOST_CONNECTIONS),
    "groups": optional(GroupLimits.read),
    "max_lifetime": _duration,
    "max_idle": _duration,
    "connect_timeout": _duration,
    "keepalives_idle": count(0, _MOST_KEEPALIVE),
    "tcp_user_timeout": seconds(least=readers.MILLISECOND, most=readers.SERVER_LONGEST),
    "check_idle": seconds(),
    "pooler": optional(
        choice(
            "pooling mode of a server-side pooler",
            transaction="PgBouncer, RDS Proxy and the like share server connections between transactions",
            session="the pooler keeps one server connection for each of ours",
        )
    ),
    "statement_timeout": optional(_server_limit),
    "lock_timeout": optional(_server_limit),
    "idle_in_transaction_timeout": optional(_server_limit),
    "transaction_timeout": optional(_server_limit),
    "command_timeout": optional(_duration),
    "prepare": optional(Prepare.read),
    "session": variables,
    "reset": choice(
        "reset mode", dirty="close only what its borrower has changed", always="reset every connection after its lease"
    ),
    "retry": _retry,
    "breaker": _breaker,
    "commit_status": boolean,
    "pin_max": _duration,
    "leak_after": _duration,
    "warm": boolean,
}

assert set(_READERS) == {item.name for item in fields(PoolConfig)}, "a key without a reader"
