"""
Reading settings. A reader of one setting takes what was written and returns what the code uses, or raises
``ValueError`` with what is wrong and what to write instead; ``read_mapping`` applies one to each key and collects all
faults.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

FAULT_IN_POOL = "dbpool.E001"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a setting: what, and what to write instead."""

    key: str
    message: str
    hint: str
    id: str = FAULT_IN_POOL
    """Its system check. E: refused at run time too. W: only reported."""
    where: str = ""
    """The setting that the key is in, where it isn't the mapping that was read."""

    @property
    def refused(self) -> bool:
        return self.id.startswith("dbpool.E")

    def text(self, where: str) -> str:
        return f"{self.where or where}: {self.message}"


class ConfigError(ValueError):
    """All faults of one mapping of settings."""

    def __init__(self, where: str, faults: tuple[Fault, ...]) -> None:
        self.where = where
        self.faults = faults
        super().__init__("; ".join(f"{fault.text(where)} {fault.hint}" for fault in faults))


class Rejected(ValueError):
    """A value that a reader doesn't take."""

    def __init__(self, problem: str, hint: str, *, secret: bool = False) -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint
        self.secret = secret
        """The value is not to be shown."""


def read_mapping(
    options: Mapping[Any, Any],
    readers: Mapping[str, Callable[[Any], Any]],
    ignored: frozenset[str] = frozenset(),
    *,
    check: str = FAULT_IN_POOL,
) -> tuple[dict[str, Any], list[Fault]]:
    """The values by key, and every fault: unknown keys with the nearest known one, values that no reader takes."""
    values, faults = {}, []
    for key, raw in options.items():
        if key in ignored:
            continue
        if key not in readers:
            faults.append(Fault(shown(key, str), f"unknown key {shown(key)}.", nearest(key, readers), check))
            continue
        try:
            values[key] = readers[key](raw)
        except Rejected as error:
            value = "(not shown)" if error.secret else shown(raw)
            faults.append(Fault(key, f"{key} = {value} {error.problem}", error.hint, check))
    return values, faults


def nearest(key: object, known: Iterable[str]) -> str:
    """The hint for an unknown key."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(shown(key, str).lower(), names, n=1)
    return f"Did you mean {names[near[0]]!r}?" if near else f"Known keys: {', '.join(sorted(names.values()))}."


_SHOWN = 200


def shown(value: object, form: Callable[[Any], str] = repr) -> str:
    """A value as it was written, cut where it is long. Never raises: Python refuses to print very long integers."""
    try:
        text = form(value)
    except Exception:  # noqa: BLE001  # whatever somebody's __repr__ raises
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def reject(problem: str, hint: str) -> Rejected:
    return Rejected(problem, hint)


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


def hinting(read: Callable[[Any], Any], zero: str) -> Callable[[Any], Any]:
    """The same; the hint says besides how to write "no limit"."""

    def and_say(raw: Any) -> Any:
        try:
            return read(raw)
        except Rejected as error:
            raise reject(error.problem, f"{error.hint} {zero}") from None

    return and_say


def count(least: int, most: float = math.inf) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not least <= raw <= most:
            above = "" if most == math.inf else f" and at most {most}"
            hint = f"Write an integer of at least {least}{above}."
            if isinstance(raw, str) and raw.strip().isdecimal() and len(raw) < 10:
                hint += f" Environment variables and URLs give strings: int({raw!r})."
            raise reject("is not a whole number in range.", hint)
        return raw

    return read


LONGEST = 1e9  # thirty years; beyond it lie infinity and integers that no float holds
MILLISECOND = 0.001
SERVER_LONGEST = (2**31 - 1) // 1000  # PostgreSQL and libpq count milliseconds in 32 bits
_WITH_UNIT = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|sec|seconds?|min|minutes?|h)?\s*", re.ASCII)
_UNITS = {"ms": 0.001, "min": 60, "minute": 60, "minutes": 60, "h": 3600}


def _hint(raw: Any, least: float, most: float, *, above_zero: bool) -> str:
    if isinstance(raw, timedelta):
        return f"Write {raw.total_seconds()!r}, or use timedelta.total_seconds()."
    if isinstance(raw, str) and (match := _WITH_UNIT.fullmatch(raw.lower())):
        return f"Write {float(match[1]) * _UNITS.get(match[2], 1):g}: a number of seconds, not a string."
    if isinstance(raw, (int, float)) and raw > most:
        return f"Write at most {most:.0f}: seconds, not milliseconds."
    if isinstance(raw, (int, float)) and 0 < raw < least:
        return f"Write at least {least}: shorter times are rounded to 0, which would mean no limit."
    return f"Write a finite number {'above' if above_zero else 'of at least'} 0."


def seconds(*, above_zero: bool = False, least: float = 0.0, most: float = LONGEST) -> Callable[[Any], float]:
    """
    Args:
        least: what is shorter, but not 0, would be rounded to 0 where it is used.
    """

    def read(raw: Any) -> float:
        bad_type = isinstance(raw, bool) or not isinstance(raw, (int, float))
        if bad_type or not (least <= raw <= most or raw == 0) or (above_zero and raw == 0):
            raise reject("is not a number of seconds.", _hint(raw, least, most, above_zero=above_zero))
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
                f"has a name that no setting of the server can have: {shown(name)}.",
                'Write letters, digits and underscores, with dots for your own, such as "app.tenant".',
            )
        if name.lower() in values:
            raise reject(f"has {name!r} twice.", "Names of settings are the same in capitals; keep one.")
        values[name.lower()] = _variable(name, value)
    return values


def _variable(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return _number(name, value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        value = ", ".join('"' + item.replace('"', '""') + '"' for item in value)
    if not isinstance(value, str):
        raise reject(
            f"has a value of type {type(value).__name__} for {name!r}.",
            "Write a string, a number, True or False, or a list of names for search_path.",
        )
    if "\0" in value:
        raise reject(f"has a zero byte in the value for {name!r}.", "PostgreSQL can't store it; remove it.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise reject(
            f"has half a surrogate pair in the value for {name!r}.", "It can't be encoded in UTF-8; remove it."
        ) from None
    return value


def _number(name: str, value: float) -> str:
    if not -LONGEST_NUMBER <= value <= LONGEST_NUMBER:
        raise reject(f"has a number for {name!r} that no setting can hold.", "Write a finite one of 64 bits.")
    return str(value)


LONGEST_NUMBER = 2**63 - 1
