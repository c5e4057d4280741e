"""From when on a lease is long: by the settings of this process, which the others have, too."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..conf import pool_config
from ..conf.engines import is_ours
from ..core.config import PoolConfig


class Limits:
    """Of one report, so that settings are read once for each alias."""

    def __init__(self) -> None:
        self._known: dict[str, PoolConfig] = {}

    def of(self, alias: str) -> PoolConfig:
        """The defaults where an alias is not in these settings, or has faults, which others complain about."""
        if alias not in self._known:
            self._known[alias] = _read(alias)
        return self._known[alias]


def _read(alias: str) -> PoolConfig:
    entry = connections.settings.get(alias)
    if entry is None or not is_ours(entry.get("ENGINE")):
        return PoolConfig()
    try:
        return pool_config(entry, alias)
    except ImproperlyConfigured:
        return PoolConfig()
