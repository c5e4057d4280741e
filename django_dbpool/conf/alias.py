"""What the rules look at: the settings of one pooled alias."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.config import SERVER_LIMITS, PoolConfig
from ..core.readers import Fault


@dataclass(frozen=True, slots=True)
class Alias:
    """An entry of DATABASES whose POOL was read without a fault."""

    name: str
    config: PoolConfig
    database: Mapping[str, Any]

    @property
    def options(self) -> Mapping[str, Any]:
        options = self.database.get("OPTIONS")
        return options if isinstance(options, Mapping) else {}

    @property
    def given(self) -> frozenset[str]:
        """The keys that POOL has; the others are at their defaults."""
        pool = self.database.get("POOL")
        return frozenset(pool) if isinstance(pool, Mapping) else frozenset()

    @property
    def server_limits(self) -> dict[str, float]:
        """The server's time limits that are set, by key."""
        limits = {key: getattr(self.config, key) for key in SERVER_LIMITS}
        return {key: limit for key, limit in limits.items() if limit is not None}

    @property
    def own_engine(self) -> bool:
        """Whether the engine is ours as it is: one that derives may take options of its own."""
        return str(self.database.get("ENGINE", "django_dbpool.")).startswith("django_dbpool.")

    def fault(self, check: str, key: str, message: str, hint: str) -> Fault:
        """A fault in OPTIONS, which is beside the mapping that the messages name otherwise."""
        return Fault(key, message, hint, check, f'DATABASES["{self.name}"]["OPTIONS"]')


_ASSIGNMENT = re.compile(r"(?:^|\s)(?:-c\s*|--)([A-Za-z_][\w.$-]*)\s*=", re.ASCII)


def startup_variables(options: object) -> Iterator[str]:
    """The names that a start-up ``options`` string sets, as in ``-c search_path=app --lock-timeout=1s``."""
    if isinstance(options, str):
        for match in _ASSIGNMENT.finditer(options):
            yield match[1].replace("-", "_").lower()
