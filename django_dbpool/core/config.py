"""``DATABASES[alias]["POOL"]`` as a frozen object; every fault of a mapping is reported at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .readers import ConfigError, Fault, boolean, choice, count, optional, read_mapping, reject, seconds, variables

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
        if not isinstance(raw, Mapping) or not raw or not set(raw) <= {"after", "max"}:
            raise reject(
                'is not a dictionary with "after" and "max".',
                'Write {"after": 2, "max": 10}, or None to prepare nothing.',
            )
        return cls(**{key: count(int(key == "max"))(value) for key, value in raw.items()})


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
    pin_max: float = 60.0
    leak_after: float = 60.0

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


_duration = seconds(above_zero=True)

_READERS: dict[str, Callable[[Any], Any]] = {
    "enabled": boolean,
    "mode": choice(
        "mode", transaction="lend for one transaction", session="hold to the end of the request, as Django's pool"
    ),
    "min_size": count(0),
    "max_size": count(1),
    "timeout": _duration,
    "max_waiting": count(0),
    "max_lifetime": _duration,
    "max_idle": _duration,
    "connect_timeout": _duration,
    "keepalives_idle": count(0),
    "tcp_user_timeout": seconds(),
    "check_idle": seconds(),
    "pooler": optional(
        choice(
            "pooling mode of a server-side pooler",
            transaction="PgBouncer, RDS Proxy and the like share server connections between transactions",
            session="the pooler keeps one server connection for each of ours",
        )
    ),
    "statement_timeout": optional(_duration),
    "lock_timeout": optional(_duration),
    "idle_in_transaction_timeout": optional(_duration),
    "transaction_timeout": optional(_duration),
    "command_timeout": optional(_duration),
    "prepare": optional(Prepare.read),
    "session": variables,
    "reset": choice(
        "reset mode", dirty="close only what its borrower has changed", always="reset every connection after its lease"
    ),
    "pin_max": _duration,
    "leak_after": _duration,
}

assert set(_READERS) == {item.name for item in fields(PoolConfig)}, "a key without a reader"
