"""Entries of DATABASES that were made from a URL: parameters of pools, in the words of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..core.config import PoolConfig
from ..core.readers import ConfigError, Fault, shown

POOL_PARAMETERS = {
    "connection_limit": '"max_size": 20',
    "pool_timeout": '"timeout": 10',
    "pgbouncer": '"pooler": "transaction"',
}
"""Parameters that are moved to POOL, and what one would write there."""

_KEYS = {"connection_limit": "max_size", "pool_timeout": "timeout"}
_WHERE = "database URL"


def from_url_options(database: Mapping[str, Any]) -> dict[str, Any]:
    """
    Move what a database URL says about pools from ``OPTIONS`` to ``POOL``.

    ``connection_limit`` becomes ``max_size``, ``pool_timeout`` (seconds) becomes ``timeout``, ``pgbouncer=true``
    becomes ``pooler="transaction"``; they win over the same keys in ``POOL``. ``server_side_binding`` and ``pool``
    become booleans, ``connect_timeout`` and ``prepare_threshold`` numbers. All else is left as it is.

    Args:
        database: an entry of DATABASES as dj-database-url and django-environ return it; it isn't changed.

    Raises:
        ImproperlyConfigured: naming every parameter that has no usable value.

    Example:
        DATABASES = {"default": from_url_options(dj_database_url.config(engine="django_dbpool.backends.postgresql"))}
    """
    entry = dict(database)
    options = entry.get("OPTIONS")
    if not isinstance(options, Mapping):
        return entry
    options = dict(options)
    faults: list[Fault] = []
    pool = _pool_parameters(options, faults)
    for name in ("server_side_binding", "pool"):
        if isinstance(options.get(name), str):
            options[name] = _boolean(name, options[name], faults)
    for name in ("connect_timeout", "prepare_threshold"):
        if isinstance(options.get(name), (str, list)):
            options[name] = _number(name, options[name], faults)
    if faults:
        raise ImproperlyConfigured(str(ConfigError(_WHERE, tuple(faults))))
    entry["OPTIONS"] = options
    if pool:
        entry["POOL"] = _merged(entry.get("POOL", True), pool)
    return entry


def _pool_parameters(options: dict[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """Takes the parameters out of the options."""
    pool: dict[str, Any] = {}
    for name, key in _KEYS.items():
        if name in options:
            pool[key] = _number(name, options.pop(name), faults)
            _try(name, key, pool[key], faults)
    if "pgbouncer" in options and _boolean("pgbouncer", options.pop("pgbouncer"), faults):
        pool["pooler"] = "transaction"
    return pool


def _try(name: str, key: str, value: Any, faults: list[Fault]) -> None:
    """The range is POOL's."""
    if any(fault.key == name for fault in faults):
        return
    try:
        PoolConfig.from_mapping({key: value}, default_min_size=0)
    except ConfigError as error:
        faults += [
            Fault(name, f"{name}{fault.message.removeprefix(key)}", fault.hint, fault.id) for fault in error.faults
        ]


def _merged(pool: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    if isinstance(pool, bool):
        pool = {} if pool else {"enabled": False}
    if not isinstance(pool, Mapping):
        fault = Fault("", f"POOL must be a dictionary, not {type(pool).__name__}.", 'Write {"max_size": 10}.')
        raise ImproperlyConfigured(str(ConfigError(_WHERE, (fault,))))
    return {**pool, **parameters}


def _number(name: str, value: Any, faults: list[Fault]) -> Any:
    """dj-database-url and django-environ make numbers of digits only, and the former a list of what is repeated."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii():
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    faults.append(Fault(name, f"{name} = {shown(value)} is not one number.", f"Write it once, as in {name}=20."))
    return value


def _boolean(name: str, value: Any, faults: list[Fault]) -> Any:
    if isinstance(value, bool):
        return value
    text = shown(value, str).lower() if isinstance(value, (str, int)) else ""
    if text in ("true", "false", "1", "0"):
        return text in ("true", "1")
    faults.append(Fault(name, f"{name} = {shown(value)} is neither true nor false.", f"Write {name}=true."))
    return value
