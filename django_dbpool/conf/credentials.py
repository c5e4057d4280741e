"""``USER`` and ``PASSWORD``, which may be asked for instead of written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.readers import Fault


def faults_of_credentials(settings_dict: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with USER beside a PASSWORD that may be a function."""
    if not callable(settings_dict.get("USER")):
        return []
    return [
        Fault(
            "USER",
            "USER is a function.",
            "Let the function in PASSWORD return the pair (user, password): asked one by one they could belong to "
            "different credentials.",
        )
    ]


def copied(value: Any) -> Any:
    """A copy of an alias's settings in which containers are new and all else is shared: functions, adapters."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
