"""
Reading settings. A reader of one setting takes what was written and returns what the code uses, or raises
``ValueError`` with what is wrong and what to write instead; ``read_mapping`` applies one to each key and collects all
faults.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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


def read_mapping(
    options: Mapping[Any, Any], readers: Mapping[str, Callable[[Any], Any]], ignored: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[Fault]]:
    """The values by key, and every fault: unknown keys with the nearest known one, values that no reader takes."""
    values, faults = {}, []
    for key, raw in options.items():
        if key in ignored:
            continue
        if key not in readers:
            near = difflib.get_close_matches(str(key), sorted(readers), n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(sorted(readers))}."
            faults.append(Fault(str(key), f"unknown key {key!r}.", hint))
            continue
        try:
            values[key] = readers[key](raw)
        except ValueError as error:
            faults.append(Fault(key, f"{key} = {raw!r} {error.args[0]}", error.args[1]))
    return values, faults


def reject(problem: str, hint: str) -> ValueError:
    return ValueError(problem, hint)


def boolean(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise reject("is not a boolean.", "Write True or False.")
    return raw


def choice(what: str, **meanings: str) -> Callable[[Any], str]:
    """One of the names; the hint says what each means."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in meanings:
            names = " or ".join(f'"{name}" ({meaning})' for name, meaning in meanings.items())
            raise reject(f"is not a {what}.", f"Write {names}.")
        return raw

    return read


def optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, or None for "not set"."""
    return lambda raw: None if raw is None else read(raw)


def count(least: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or raw < least:
            raise reject("is not a whole number in range.", f"Write an integer of at least {least}.")
        return raw

    return read


_LONGEST = 1e9  # thirty years; beyond it lie infinity and integers that no float holds


def seconds(*, above_zero: bool = False) -> Callable[[Any], float]:
    def read(raw: Any) -> float:
        bad_type = isinstance(raw, bool) or not isinstance(raw, (int, float))
        if bad_type or not 0 <= raw <= _LONGEST or (above_zero and raw == 0):
            raise reject(
                "is not a number of seconds.",
                f"Write a finite number {'above' if above_zero else 'of at least'} 0.",
            )
        return float(raw)

    return read


def ratio(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 < raw <= 1:
        raise reject("is not a ratio.", "Write a number above 0, at most 1.")
    return float(raw)


def nested(raw: Any, readers: Mapping[str, Callable[[Any], Any]], hint: str) -> dict[str, Any]:
    """A dictionary inside the dictionary; all its faults in one."""
    if not isinstance(raw, Mapping) or not raw:
        raise reject("is not a dictionary with values.", hint)
    values, faults = read_mapping(raw, readers)
    if faults:
        raise reject("has faults: " + " ".join(f"{fault.message} {fault.hint}" for fault in faults), hint)
    return values


VARIABLE = re.compile(r"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*", re.ASCII)
"""A setting's name as the server knows it, such as ``search_path`` or ``app.tenant``."""


def variables(raw: Any) -> dict[str, str]:
    """
    Session variables by name, in the form in which ``set_config()`` takes them: texts as they are, numbers in digits,
    booleans as ``on`` and ``off``, lists as quoted identifiers (``search_path``).
    """
    if not isinstance(raw, Mapping):
        raise reject("is not a dictionary.", 'Write {"search_path": "app,public"}, names and values of settings.')
    values = {}
    for name, value in raw.items():
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise reject(
                f"has a name that no setting of the server can have: {name!r}.",
                'Write letters, digits and underscores, with dots for your own, such as "app.tenant".',
            )
        values[name.lower()] = _variable(name, value)
    return values


def _variable(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        value = ", ".join('"' + item.replace('"', '""') + '"' for item in value)
    if not isinstance(value, str):
        raise reject(
            f"has a value of type {type(value).__name__} for {name!r}.",
            "Write a string, a number, True or False, or a list of names for search_path.",
        )
    if "\0" in value:
        raise reject(f"has a zero byte in the value for {name!r}.", "PostgreSQL can't store it; remove it.")
    return value
