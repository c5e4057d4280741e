"""``DBPOOL["ALERTS"]``: by the name of a rule what is different in it, or None to switch it off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..readers import LONGEST, Fault, nested, optional, ratio, read_mapping, reject, seconds
from .rules import RULES, Rule

FAULT_IN_ALERTS = "dbpool.E032"
CONTRADICTION = "dbpool.E033"
NEVER = "dbpool.W043"

_HINT = 'Write {"utilisation": {"warning": 0.7, "hold": 120}, "strangers": None}; docs/alerts.md has the rules.'


def _threshold(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not 0 <= raw <= LONGEST:
        raise reject("is not a threshold.", "Write a number of at least 0, or None for no alert of this severity.")
    return float(raw)


_KEYS: dict[str, Callable[[Any], Any]] = {
    "warning": optional(_threshold),
    "critical": optional(_threshold),
    "clear": ratio,
    "after": seconds(),
    "hold": seconds(above_zero=True),
    "window": seconds(above_zero=True),
}


def _changes(raw: Any) -> dict[str, Any]:
    return nested(raw, _KEYS, 'Write {"warning": 0.7, "critical": 0.9}, or None to switch the rule off.')


def read_alerts(raw: Any) -> dict[str, dict[str, Any] | None]:
    """
    The value of ``ALERTS``; what is written is kept, so that it can be shown.

    Raises:
        Rejected: it is no dictionary.
    """
    if not isinstance(raw, Mapping):
        raise reject("is not a dictionary.", f"{_HINT} None: no alerts.")
    return dict(raw)


def faults_of_alerts(raw: Mapping[Any, Any] | None) -> list[Fault]:
    """Every fault in it, of one key and between keys."""
    if raw is None:
        return []
    values, faults = read_mapping(raw, dict.fromkeys(RULES, optional(_changes)), check=FAULT_IN_ALERTS)
    for name, changes in values.items():
        if changes is not None:
            faults += _contradictions(dataclasses.replace(RULES[name], **changes))
    return [dataclasses.replace(fault, where='DBPOOL["ALERTS"]') for fault in faults]


def _contradictions(rule: Rule) -> Iterator[Fault]:
    name = rule.name
    if rule.warning is not None and rule.critical is not None and rule.critical <= rule.warning:
        yield Fault(
            name,
            f"{name}: critical ({rule.critical:g}) is not above warning ({rule.warning:g}).",
            "Raise critical, lower warning, or set one of them to None.",
            CONTRADICTION,
        )
    if rule.warning is None and rule.critical is None:
        yield Fault(
            name,
            f"{name}: neither warning nor critical is set.",
            f'Write {{"{name}": None}} to switch the rule off.',
            CONTRADICTION,
        )
    if rule.after > rule.hold:
        yield Fault(
            name,
            f"{name}: after ({rule.after:g}) is above hold ({rule.hold:g}).",
            "An alert that is slower to begin than to end comes too late: lower after, or raise hold.",
            CONTRADICTION,
        )
    if rule.unit == "share" and any(each is not None and each >= 1 for each in (rule.warning, rule.critical)):
        yield Fault(
            name,
            f"{name}: a threshold of 1 or more is never exceeded.",
            "It is a share of 1, not per cent: write 0.8 for 80 %.",
            NEVER,
        )


def rules_with(changes: Mapping[str, Mapping[str, Any] | None] | None) -> dict[str, Rule]:
    """
    The rules that are switched on.

    Args:
        changes: the value of ``ALERTS``, without a fault.
    """
    rules: dict[str, Rule] = {}
    if changes is None:
        return rules
    for name, rule in RULES.items():
        given = changes.get(name, {})
        if given is not None:
            rules[name] = dataclasses.replace(rule, **given)
    return rules
