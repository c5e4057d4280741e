"""``DBPOOL["FLEET"]``: where the processes of a project tell each other what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .readers import choice, nested, optional, reject, seconds

TABLE = "django_dbpool_process"

Store = Literal["database", "cache"]

_HINT = 'Write {"store": "database", "interval": 5}, or None: nothing is published.'


@dataclass(frozen=True, slots=True)
class FleetConfig:
    store: Store | None = "database"
    using: str | None = None
    """Alias of the database that the table is in; None: "default" if it has our engine, else the first that has."""
    cache: str | None = None
    """Alias of the cache; None: "default"."""
    interval: float = 5.0
    """Seconds between two snapshots of a process that is at work."""
    expire: float = 30.0
    """Seconds after which a process that has published nothing more counts as gone."""

    @classmethod
    def read(cls, raw: Any) -> FleetConfig:
        if raw is None:
            return cls(store=None)
        return cls(**nested(raw, _READERS, _HINT))


def _alias(raw: Any) -> str:
    if not isinstance(raw, str) or not raw:
        raise reject("is not the name of an alias.", 'Write "default".')
    return raw


_READERS: dict[str, Callable[[Any], Any]] = {
    "store": optional(
        choice(
            "store",
            database="a table that `migrate` creates",
            cache="a cache that all processes share",
        )
    ),
    "using": optional(_alias),
    "cache": optional(_alias),
    "interval": seconds(above_zero=True, most=3600),
    "expire": seconds(above_zero=True, most=86_400),
}
