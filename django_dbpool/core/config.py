"""``DATABASES[alias]["POOL"]`` as a frozen object; every fault of a mapping is reported at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Mode = Literal["transaction", "session"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a setting: what, and what to write instead."""

    key: str
    message: str
    hint: str


class ConfigError(ValueError):
    """All faults of one ``POOL`` mapping."""

    def __init__(self, where: str, faults: tuple[Fault, ...]) -> None:
        self.where = where
        self.faults = faults
        super().__init__("; ".join(f"{where}: {fault.message} {fault.hint}" for fault in faults))


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
        faults = _faults_of_shape(options, ignored)
        values: dict[str, Any] = {}
        if isinstance(options, Mapping):
            values, unreadable = _read_values(options, ignored)
            faults += unreadable
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


def _faults_of_shape(options: object, ignored: frozenset[str]) -> list[Fault]:
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
    faults = []
    known = set(_READERS) | ignored
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(str(key), sorted(_READERS), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(sorted(_READERS))}."
            faults.append(Fault(str(key), f"unknown key {key!r}.", hint))
    return faults


def _read_values(options: Mapping[Any, Any], ignored: frozenset[str]) -> tuple[dict[str, Any], list[Fault]]:
    values, faults = {}, []
    for key, raw in options.items():
        if key in ignored or key not in _READERS:
            continue
        try:
            values[key] = _READERS[key](raw)
        except ValueError as error:
            faults.append(Fault(key, f"{key} = {raw!r} {error.args[0]}", error.args[1]))
    return values, faults


def _reject(problem: str, hint: str) -> ValueError:
    return ValueError(problem, hint)


def _boolean(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise _reject("is not a boolean.", "Write True or False.")
    return raw


def _mode(raw: Any) -> str:
    if raw not in ("transaction", "session"):
        raise _reject(
            "is not a mode.",
            'Write "transaction" (lend for one transaction) or "session" (hold to the end of the request).',
        )
    return str(raw)


def _count(least: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or raw < least:
            raise _reject("is not a whole number in range.", f"Write an integer of at least {least}.")
        return raw

    return read


_LONGEST = 1e9  # thirty years; beyond it lie infinity and integers that no float holds


def _seconds(*, above_zero: bool = False) -> Callable[[Any], float]:
    def read(raw: Any) -> float:
        bad_type = isinstance(raw, bool) or not isinstance(raw, (int, float))
        if bad_type or not 0 <= raw <= _LONGEST or (above_zero and raw == 0):
            raise _reject(
                "is not a number of seconds.",
                f"Write a finite number {'above' if above_zero else 'of at least'} 0.",
            )
        return float(raw)

    return read


_READERS: dict[str, Callable[[Any], Any]] = {
    "enabled": _boolean,
    "mode": _mode,
    "min_size": _count(0),
    "max_size": _count(1),
    "timeout": _seconds(above_zero=True),
    "max_waiting": _count(0),
    "max_lifetime": _seconds(above_zero=True),
    "max_idle": _seconds(above_zero=True),
    "connect_timeout": _seconds(above_zero=True),
    "keepalives_idle": _count(0),
    "tcp_user_timeout": _seconds(),
    "check_idle": _seconds(),
    "pin_max": _seconds(above_zero=True),
    "leak_after": _seconds(above_zero=True),
}

assert set(_READERS) == {field.name for field in fields(PoolConfig)}, "a key without a reader"
