"""Faults in ``OPTIONS``: names and values that psycopg would refuse at the first connection, or not notice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from ..core.config import PoolConfig
from ..core.readers import Fault, nearest, shown
from .alias import Alias
from .urls import POOL_PARAMETERS

UNKNOWN_OPTION = "dbpool.E005"
UNUSABLE_OPTION = "dbpool.E006"

# Taken out by Django before the rest goes to psycopg.
_OF_DJANGO = frozenset({"pool", "assume_role", "isolation_level", "server_side_binding"})
_LEVELS = range(1, 5)  # psycopg.IsolationLevel, an IntEnum


@functools.cache
def known_options() -> frozenset[str]:
    """What may stand in OPTIONS: Django's, psycopg's, and those of the libpq that is installed."""
    from psycopg import Connection, pq

    own = inspect.signature(Connection.connect).parameters.values()
    names = {item.name for item in own if item.kind is not inspect.Parameter.VAR_KEYWORD}
    return _OF_DJANGO | names | {item.keyword.decode() for item in pq.Conninfo.get_defaults()}


def unknown_options(alias: Alias) -> Iterator[Fault]:
    known = known_options()
    name: object
    for name in alias.options:
        if name in known:
            continue
        hint = _hint(name)
        if hint is None:
            if not alias.own_engine:
                continue  # the engine that derives may know it
            hint = nearest(name, known)
            if hint.startswith("Known keys"):
                hint = "See https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS."
        message = f"{shown(name, str)} is no connection option."
        yield alias.fault(UNKNOWN_OPTION, shown(name, str), message, hint)


def _hint(name: object) -> str | None:
    """For names that belong elsewhere."""
    if name in POOL_PARAMETERS:
        return (
            "It is a parameter of pools in database URLs: pass the entry of DATABASES through "
            f"django_dbpool.conf.from_url_options(), or write POOL = {{{POOL_PARAMETERS[str(name)]}}}."
        )
    if name in PoolConfig.__dataclass_fields__:
        return f'It is a key of POOL: write POOL = {{"{name}": ...}}.'
    if name == "schema":
        return 'Write POOL = {"session": {"search_path": ...}}.'
    return None


def unusable_options(alias: Alias) -> Iterator[Fault]:
    """Values that are refused late, by a bare ValueError, or taken for something else in silence."""
    options = alias.options
    level = options.get("isolation_level")
    if level is not None and not (_is_number(level) and level in _LEVELS):
        yield _unusable(
            alias, "isolation_level", "is no transaction isolation level.", "Use a member of psycopg.IsolationLevel."
        )
    if not isinstance(options.get("server_side_binding", False), (bool, type(None))):
        yield _unusable(
            alias, "server_side_binding", "is not a boolean; Django takes it for False.", "Write True or False."
        )
    threshold = options.get("prepare_threshold")
    if threshold is not None and not (_is_number(threshold) and isinstance(threshold, int) and threshold >= 0):
        yield _unusable(
            alias,
            "prepare_threshold",
            "is not a number of executions.",
            "Write an integer of at least 0, or None to prepare nothing.",
        )
    if "connect_timeout" in options and not is_timeout(options["connect_timeout"]):
        yield _unusable(alias, "connect_timeout", "is not a number of seconds.", "Write a number above 0, such as 5.")
    role = options.get("assume_role")
    if role is not None and not isinstance(role, str):
        yield _unusable(alias, "assume_role", "is not the name of a role.", "Write a string.")


def _unusable(alias: Alias, key: str, problem: str, hint: str) -> Fault:
    return alias.fault(UNUSABLE_OPTION, key, f"{key} = {shown(alias.options[key])} {problem}", hint)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_timeout(value: Any) -> bool:
    """psycopg takes a number, also as a text; the pool waits as long."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return False
    return 0 < number < 2**31
