"""``DBPOOL``, the settings that concern the whole project, as a frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .readers import ConfigError, Fault, choice, optional, read_mapping, reject

RawAccess = Literal["allow", "warn", "error"]


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """Fields have the names of the keys, in lower case."""

    raw_access: RawAccess = "allow"
    session_from_request: str | Callable[[Any], Mapping[str, Any]] | None = None

    @classmethod
    def from_mapping(cls, options: object, *, where: str = "DBPOOL") -> ProjectConfig:
        """
        Raises:
            ConfigError: with every fault found.
        """
        if not isinstance(options, Mapping):
            fault = Fault("", f"must be a dictionary, not {type(options).__name__}.", 'Write {"RAW_ACCESS": "warn"}.')
            raise ConfigError(where, (fault,))
        values, faults = read_mapping(options, _READERS)
        if faults:
            raise ConfigError(where, tuple(faults))
        return cls(**{key.lower(): value for key, value in values.items()})


def _function(raw: Any) -> Any:
    if callable(raw) or (isinstance(raw, str) and "." in raw):
        return raw
    raise reject("is neither a function nor the dotted path of one.", 'Write "myproject.tenants.session_of".')


_READERS: dict[str, Callable[[Any], Any]] = {
    "RAW_ACCESS": choice(
        "way to treat access to the raw connection",
        allow="the connection is kept and closed afterwards",
        warn="the same, with a warning that names the caller",
        error="refused",
    ),
    "SESSION_FROM_REQUEST": optional(_function),
}
